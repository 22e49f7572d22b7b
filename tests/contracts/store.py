"""What every trial store promises: subclass, supply `make`, inherit the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwprofiles.errors import InvariantError, RequestError
from trials.candidate import Candidate, Facts, Trial, TrialState
from trials.records import JobState
from trials.store import Store

ONE_OF_EACH_STORE = [HealthCheck.differing_executors]
"""Each class that inherits a test runs it on its own store, and finds its own examples."""

fractions = st.floats(0, 1)
facts = st.builds(
    Facts,
    accuracy=fractions,
    accuracy_error=fractions,
    loss=st.floats(0, 1e6),
    divergence=st.floats(0, 1e6),
    macs=st.integers(0, 10**13),
    parameters=st.integers(0, 10**11),
    class_accuracy=st.lists(fractions, max_size=4).map(tuple),
    history=st.dictionaries(st.text(max_size=8), fractions, max_size=3),
    seconds=st.dictionaries(st.text(max_size=8), fractions, max_size=3),
)
FACTS = Facts(accuracy=0.9, accuracy_error=0.01, loss=0.3, divergence=0.1, macs=100, parameters=10)
TRANSITIONS: dict[TrialState, list[Callable[[Trial], Trial]]] = {
    TrialState.QUEUED: [Trial.start],
    TrialState.RUNNING: [
        Trial.requeue,
        lambda trial: trial.finish(FACTS),
        lambda trial: trial.fail("diverged"),
    ],
}


def queued(number: int) -> Trial:
    return Trial(
        number=number, candidate=Candidate((16, 32, number)), seed=2**40 + number, target=0.5, origin="random"
    )


class StoreContract:
    def make(self, folder: Path) -> Store:
        """Return an empty store that lives in `folder`; called again, another view of the same store."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with self.make(tmp_path) as store:
            store.create_job("digits", spec={"seed": 0}, plan={})
            yield store

    def test_a_new_job_is_queued_and_keeps_its_spec_and_plan(self, store: Store) -> None:
        store.create_job("cifar", spec={"levels": [0.5, "60%"]}, plan={"dense": {"macs": 7}})
        record = store.job("cifar")
        assert (record.state, record.spec, record.plan) == (
            JobState.QUEUED,
            {"levels": [0.5, "60%"]},
            {"dense": {"macs": 7}},
        )
        assert [job.name for job in store.jobs()] == ["digits", "cifar"]

    def test_a_job_name_is_taken_once(self, store: Store) -> None:
        with pytest.raises(RequestError, match="'digits' is already in the store"):
            store.create_job("digits", spec={"seed": 1}, plan={})
        assert store.job("digits").spec == {"seed": 0}

    def test_every_call_on_an_unknown_job_names_the_nearest_one(self, store: Store) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.job("digit"),
            lambda: store.set_job_state("digit", JobState.DONE),
            lambda: store.set_plan("digit", {}),
            lambda: store.save("digit", queued(0)),
            lambda: store.save("digit", queued(0).start()),
            lambda: store.trials("digit"),
            lambda: store.requeue_running("digit"),
            lambda: store.add_result("digit", 0, "measured", {}),
            lambda: store.results("digit"),
            lambda: store.remove_results("digit", 0),
            lambda: store.add_event("digit", "note", "hello"),
            lambda: store.events("digit"),
        ]
        for call in calls:
            with pytest.raises(RequestError, match="no job 'digit'; did you mean 'digits'"):
                call()

    def test_a_job_moves_between_states_until_it_is_done(self, store: Store) -> None:
        for state in (JobState.SEARCHING, JobState.FAILED, JobState.SEARCHING, JobState.DONE):
            store.set_job_state("digits", state)
            assert store.job("digits").state is state
        with pytest.raises(InvariantError, match="is done and cannot become searching"):
            store.set_job_state("digits", JobState.SEARCHING)
        assert store.job("digits").state is JobState.DONE

    def test_a_plan_can_be_replaced(self, store: Store) -> None:
        store.set_plan("digits", {"groups": ["layer1.0.conv1"]})
        assert store.job("digits").plan == {"groups": ["layer1.0.conv1"]}

    def test_trials_come_back_by_number_and_only_those_of_the_job(self, store: Store) -> None:
        store.create_job("cifar", spec={}, plan={})
        store.save("digits", queued(2), queued(0))
        store.save("cifar", queued(0))
        store.save("digits", queued(1))
        store.save("cifar", queued(0).start())
        assert store.trials("digits") == [queued(0), queued(1), queued(2)]

    def test_a_batch_of_trials_is_added_whole_or_not_at_all(self, store: Store) -> None:
        store.save("digits", queued(1))
        with pytest.raises(InvariantError, match="has one of the trials"):
            store.save("digits", queued(0), queued(1), queued(2))
        with pytest.raises(InvariantError, match="cannot become running: it is unknown"):
            store.save("digits", queued(3), queued(4).start())
        assert store.trials("digits") == [queued(1)]

    def test_several_transitions_of_several_trials_are_stored_in_their_order_or_not_at_all(
        self, store: Store
    ) -> None:
        first, second = queued(0), queued(1)
        store.save("digits", first, first.start())
        done = first.start().finish(FACTS)
        with pytest.raises(InvariantError, match=r"trial 1 .* cannot become done: it is queued at attempt 0"):
            store.save("digits", done, second, second.start().finish(FACTS))
        assert store.trials("digits") == [first.start()]
        store.save("digits", done, second, second.start(), second.start().requeue())
        assert store.trials("digits") == [done, second.start().requeue()]

    def test_a_finished_trial_cannot_finish_again(self, store: Store) -> None:
        store.save("digits", queued(0))
        running = queued(0).start()
        store.save("digits", running)
        store.save("digits", running.finish(FACTS))
        with pytest.raises(InvariantError, match="cannot become done: it is done at attempt 1"):
            store.save("digits", running.finish(replace(FACTS, accuracy=0.1)))
        assert store.trials("digits") == [running.finish(FACTS)]

    def test_the_result_of_an_attempt_that_was_given_up_is_refused(self, store: Store) -> None:
        store.save("digits", queued(0))
        first = queued(0).start()
        store.save("digits", first)
        store.save("digits", first.requeue())
        second = first.requeue().start()
        store.save("digits", second)
        with pytest.raises(InvariantError, match="is running at attempt 2, not running at attempt 1"):
            store.save("digits", first.finish(FACTS))
        assert store.trials("digits") == [second]

    def test_an_unknown_trial_cannot_be_saved(self, store: Store) -> None:
        with pytest.raises(InvariantError, match="cannot become running: it is unknown"):
            store.save("digits", queued(7).start())

    @settings(max_examples=12, deadline=None, suppress_health_check=ONE_OF_EACH_STORE)
    @given(data=st.data())
    def test_a_transition_counts_only_when_it_starts_from_what_is_stored(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """A caller may hold any record of the trial's past; only the latest one leads anywhere."""
        past = [queued(0)]
        with self.make(tmp_path_factory.mktemp("store")) as store:
            store.create_job("digits", spec={}, plan={})
            store.save("digits", *past)
            for _ in range(data.draw(st.integers(1, 12))):
                held = data.draw(st.sampled_from([trial for trial in past if not trial.state.finished]))
                after = data.draw(st.sampled_from(TRANSITIONS[held.state]))(held)
                if held == past[-1]:
                    store.save("digits", after)
                    past.append(after)
                else:
                    with pytest.raises(InvariantError):
                        store.save("digits", after)
                assert store.trials("digits") == [past[-1]]

    @settings(max_examples=5, deadline=None, suppress_health_check=ONE_OF_EACH_STORE)
    @given(found=st.lists(facts, min_size=1, max_size=8))
    def test_facts_come_back_as_they_went_in(
        self, tmp_path_factory: pytest.TempPathFactory, found: list[Facts]
    ) -> None:
        with self.make(tmp_path_factory.mktemp("store")) as store:
            store.create_job("digits", spec={}, plan={})
            store.save("digits", *map(queued, range(len(found))))
            for number, each in enumerate(found):
                store.save("digits", queued(number).start())
                store.save("digits", queued(number).start().finish(each))
            assert [trial.facts for trial in store.trials("digits")] == found

    def test_facts_that_are_not_finite_are_refused(self, store: Store) -> None:
        store.save("digits", queued(0))
        running = queued(0).start()
        store.save("digits", running)
        with pytest.raises(InvariantError, match="cannot hold"):
            store.save("digits", running.finish(replace(FACTS, loss=math.nan)))
        assert store.trials("digits") == [running]

    def test_after_a_crash_running_trials_are_queued_again_and_remember_their_attempts(
        self, store: Store
    ) -> None:
        store.save("digits", *map(queued, range(4)))
        running = [queued(number).start() for number in range(3)]
        for trial in running:
            store.save("digits", trial)
        store.save("digits", running[0].finish(FACTS))
        assert store.requeue_running("digits") == 2
        assert store.trials("digits") == [
            running[0].finish(FACTS),
            running[1].requeue(),
            running[2].requeue(),
            queued(3),
        ]
        assert store.requeue_running("digits") == 0

    def test_a_result_is_added_once_per_trial_and_kind(self, store: Store) -> None:
        store.save("digits", queued(0))
        store.add_result("digits", 0, "test", {"accuracy": 0.98})
        store.add_result("digits", 0, "measured", {"latency_ms": 1.5})
        for trial, kind in ((0, "test"), (1, "test")):
            with pytest.raises(InvariantError, match=f"result 'test' of trial {trial}"):
                store.add_result("digits", trial, kind, {"accuracy": 0.5})
        assert [(result.trial, result.kind, result.data) for result in store.results("digits")] == [
            (0, "measured", {"latency_ms": 1.5}),
            (0, "test", {"accuracy": 0.98}),
        ]

    def test_results_of_one_trial_are_forgotten_and_may_be_added_anew(self, store: Store) -> None:
        store.save("digits", queued(0), queued(1))
        for trial in (0, 1):
            store.add_result("digits", trial, "final", {"accuracy": 0.5})
        store.remove_results("digits", 0)
        assert [result.trial for result in store.results("digits")] == [1]
        store.add_result("digits", 0, "final", {"accuracy": 0.9})
        assert [result.data["accuracy"] for result in store.results("digits")] == [0.9, 0.5]

    def test_events_come_back_in_the_order_they_happened(self, store: Store) -> None:
        for message in ("exporting", "profiling", "searching"):
            store.add_event("digits", "stage", message)
        events = store.events("digits")
        assert [(event.kind, event.message) for event in events] == [
            ("stage", "exporting"),
            ("stage", "profiling"),
            ("stage", "searching"),
        ]
        assert [event.number for event in events] == sorted({event.number for event in events})

    def test_events_tell_each_state_of_a_job_and_each_trial_that_ends(self, store: Store) -> None:
        store.set_job_state("digits", JobState.SEARCHING)
        store.save("digits", queued(0), queued(1))
        for end in (lambda trial: trial.finish(FACTS), Trial.requeue):
            trial = queued(0 if end is not Trial.requeue else 1).start()
            store.save("digits", trial)
            store.save("digits", end(trial))
        told = [(event.kind, event.message) for event in store.events("digits")]
        assert told == [("state", "searching"), ("trial", "0 done")]
        first = store.events("digits", limit=1)
        assert store.events("digits", after=first[0].number) == store.events("digits")[1:]

    def test_another_view_of_the_store_sees_each_change_at_once(self, store: Store, tmp_path: Path) -> None:
        with self.make(tmp_path) as reader:
            store.save("digits", queued(0))
            assert reader.trials("digits") == [queued(0)]
            store.save("digits", queued(0).start())
            assert reader.trials("digits") == [queued(0).start()]

    def test_writers_of_different_jobs_wait_for_each_other(self, store: Store, tmp_path: Path) -> None:
        def write(job: str) -> None:
            with self.make(tmp_path) as own:
                own.create_job(job, spec={}, plan={})
                for number in range(20):
                    own.save(job, queued(number))
                    own.save(job, queued(number).start())

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(write, ("a", "b", "c")))
        for job in ("a", "b", "c"):
            assert store.trials(job) == [queued(number).start() for number in range(20)]
