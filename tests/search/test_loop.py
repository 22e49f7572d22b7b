"""The loop under fake workers that finish in any order, die and fail: what it asks, tells and stores."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwprofiles.errors import InvariantError
from search.controllers.protocol import Proposal, ScoredTrial
from search.controllers.state import State
from search.loop import MAX_DEATHS, Loop
from trials.candidate import Axis, Candidate, Counts, Facts, Space, Trial, TrialState
from trials.pool import Finished
from trials.steering import Wish, Wishes
from trials.store import TRIAL_EVENT, Store

SPACE = Space((Axis(name="conv1", size=40), Axis(name="conv2", size=40)))
BASELINES = [
    Proposal(candidate=Candidate((20, 20)), target=40.0),
    Proposal(candidate=Candidate((30, 30)), target=60.0),
]
TRIALS = 10


def cost(counts: Counts) -> NDArray[np.float64]:
    return counts.sum(axis=1).astype(np.float64)


class Historian:
    """Proposes what the whole history of tells decides, so that any other history gives other candidates.

    `tells_at_ask` is how many tells came before each ask; `told` what they were.
    """

    def __init__(self, size: int = 40) -> None:
        self.size = size
        self.told: list[ScoredTrial] = []
        self.tells_at_ask: list[int] = []

    def ask(self, count: int) -> Sequence[Proposal]:
        self.tells_at_ask.append(len(self.told))
        history = [(t.proposal.candidate.kept, t.accuracy, t.cost) for t in self.told]
        rng = random.Random(repr((history, len(self.tells_at_ask))))
        kept = rng.randint(1, self.size), rng.randint(1, self.size)
        return [Proposal(candidate=Candidate(kept), target=40.0)][:count]

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        self.told += scored


def facts(candidate: Candidate) -> Facts:
    accuracy = sum(candidate.kept) / 80
    return Facts(accuracy=accuracy, accuracy_error=0, loss=1, divergence=0, macs=1, parameters=1)


class FakeWorkers:
    """Workers that end what they run in a random order; a candidate's own fate never changes.

    By the sum of what it keeps, one in seven fails, one in seven kills its worker once, one in eleven always.
    """

    def __init__(self, seed: int, count: int = 3) -> None:
        self.rng, self.count = random.Random(seed), count
        self.running: dict[int, Candidate] = {}
        self.submitted: Counter[int] = Counter()
        self.deaths: Counter[Candidate] = Counter()

    @property
    def free(self) -> int:
        return self.count - len(self.running)

    def submit(self, key: Any, request: Any) -> None:
        assert self.free > 0
        self.submitted[key] += 1
        self.running[key] = request

    def wait(self, timeout_s: float) -> list[Finished]:
        keys = self.rng.sample(sorted(self.running), self.rng.randint(0, len(self.running)))
        return [self.end(key, self.running.pop(key)) for key in keys]

    def end(self, key: int, candidate: Candidate) -> Finished:
        fate = sum(candidate.kept)
        self.deaths[candidate] += 1
        if fate % 11 == 1 or (fate % 7 == 1 and self.deaths[candidate] == 1):
            return Finished(key=key, died=True)
        if fate % 7 == 2:
            return Finished(key=key, error=f"{fate} is a bad sum")
        return Finished(key=key, value=candidate)


class CandidateRequests:
    """A trial's request is its candidate, and so is the answer; `needed` by candidate."""

    def __init__(self) -> None:
        self.needed: dict[Candidate, float] = {}

    def request(self, trial: Trial, needed: float) -> Candidate:
        self.needed[trial.candidate] = needed
        return trial.candidate

    def facts(self, value: Candidate) -> Facts:
        return facts(value)

    def merit(self, facts: Facts) -> float:
        return facts.accuracy


class Notes:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.notes: list[str] = []

    def stage(self, name: str) -> None: ...

    def update(self, share: float, text: str = "") -> None:
        assert 0 <= share <= 1
        self.texts.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Killed(BaseException):
    """The process is gone: nothing in it may react."""


class MortalStore(Store):
    """A store whose process is killed before, or right after, one of its changes is on disk."""

    changes_left = -1
    after = False

    def save(self, job: str, *trials: Trial) -> None:
        self.changes_left -= 1
        if self.changes_left == 0 and not self.after:
            raise Killed
        super().save(job, *trials)
        if self.changes_left == 0:
            raise Killed


@pytest.fixture
def store() -> Store:
    return new_store()


def new_store() -> MortalStore:
    store = MortalStore.open("sqlite://")
    store.create_job("toy", {}, {})
    return store


def make_loop(
    store: Store,
    controller: Any,
    *,
    in_flight: int = 3,
    trials: int = TRIALS,
    finalists: int = 2,
    listener: Notes | None = None,
    requests: CandidateRequests | None = None,
    memory: Path | None = None,
) -> Loop:
    return Loop(
        store, "toy", controller, BASELINES, name="historian", space=SPACE, cost=cost, trials=trials,
        in_flight=in_flight, finalists=finalists, seed=7, requests=requests or CandidateRequests(),
        add_to_front=lambda trial, merit: "", listener=listener or Notes(), memory=memory,
    )  # fmt: skip


def outcome(trials: Sequence[Trial]) -> list[tuple[Any, ...]]:
    """All that a trial is, but how often it was attempted."""
    return [(t.number, t.candidate, t.seed, t.target, t.origin, t.state, t.facts, t.reason) for t in trials]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 5))
def test_the_same_candidates_are_asked_for_and_told_in_order_whatever_finishes_when(
    seed: int, workers: int, in_flight: int
) -> None:
    one, other = Historian(), Historian()
    in_turn = make_loop(new_store(), one, in_flight=in_flight).run(FakeWorkers(0, count=1))
    store = new_store()
    mixed = make_loop(store, other, in_flight=in_flight).run(FakeWorkers(seed, count=workers))
    assert outcome(mixed) == outcome(in_turn) == outcome(store.trials("toy"))
    assert [told.proposal.candidate for told in other.told] == [trial.candidate for trial in mixed]
    assert [told.accuracy for told in other.told] == [t.facts and t.facts.accuracy for t in mixed]
    assert [trial.number for trial in mixed] == list(range(TRIALS))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_trial_n_is_asked_for_after_exactly_n_minus_in_flight_plus_1_tells(seed: int, in_flight: int) -> None:
    controller = Historian(size=10**6)  # large enough never to propose one candidate twice
    make_loop(new_store(), controller, in_flight=in_flight).run(FakeWorkers(seed))
    numbers = range(len(BASELINES), TRIALS)
    assert controller.tells_at_ask == [max(0, n - in_flight + 1) for n in numbers]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 14), st.booleans()), max_size=4), st.integers(0, 2**32))
def test_killed_at_any_change_it_goes_on_as_if_nothing_had_happened(
    kills: list[tuple[int, bool]], seed: int
) -> None:
    undisturbed = make_loop(new_store(), Historian()).run(FakeWorkers(0))
    store, controller = new_store(), Historian()
    for changes, after in kills:
        store.changes_left, store.after = changes, after
        finished_before = [trial for trial in store.trials("toy") if trial.state.finished]
        workers = FakeWorkers(seed)
        try:
            make_loop(store, Historian()).run(workers)
        except Killed:
            pass
        assert not {trial.number for trial in finished_before} & workers.submitted.keys()
        assert [store.trials("toy")[trial.number] for trial in finished_before] == finished_before
    store.changes_left = -1
    resumed = make_loop(store, controller).run(FakeWorkers(seed))
    assert outcome(resumed) == outcome(undisturbed) == outcome(store.trials("toy"))
    assert [told.proposal.candidate for told in controller.told] == [trial.candidate for trial in resumed]


def wished_after(looks: int, wish: Wish) -> Wishes:
    """Asks for nothing as often as that, and then for something."""
    wishes = chain(repeat(Wish.NOTHING, looks), repeat(wish))
    return lambda: next(wishes)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=3), st.integers(0, 2**32))
def test_a_pause_waits_for_what_runs_and_what_goes_on_goes_on_as_if_there_had_been_none(
    pauses: list[int], seed: int
) -> None:
    undisturbed = make_loop(new_store(), Historian()).run(FakeWorkers(0))
    store = new_store()
    for looks in pauses:
        try:
            make_loop(store, Historian()).run(FakeWorkers(seed), wished_after(looks, Wish.PAUSE))
        except KeyboardInterrupt:
            assert TrialState.RUNNING not in [trial.state for trial in store.trials("toy")]
    resumed = make_loop(store, Historian()).run(FakeWorkers(seed))
    assert outcome(resumed) == outcome(undisturbed) == outcome(store.trials("toy"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(0, 2**32))
def test_a_search_that_is_stopped_begins_nothing_more_and_is_over_for_good(looks: int, seed: int) -> None:
    store, workers = new_store(), FakeWorkers(seed)
    stopped = make_loop(store, Historian()).run(workers, wished_after(looks, Wish.STOP))
    assert {trial.state for trial in stopped} <= {TrialState.DONE, TrialState.FAILED, TrialState.QUEUED}
    begun = [trial for trial in stopped if trial.number in workers.submitted]
    assert all(trial.state.finished or workers.deaths[trial.candidate] for trial in begun)
    assert not workers.running
    again = FakeWorkers(seed)
    assert outcome(make_loop(store, Historian()).run(again, lambda: Wish.STOP)) == outcome(stopped)
    assert not again.submitted


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3))
def test_a_trial_needs_what_the_last_finalist_of_its_target_had_when_it_was_asked_for(
    seed: int, in_flight: int, finalists: int
) -> None:
    requests = CandidateRequests()
    loop = make_loop(
        new_store(), Historian(), in_flight=in_flight, finalists=finalists, trials=20, requests=requests
    )
    trials = loop.run(FakeWorkers(seed))
    for trial in trials:
        told = trials[len(BASELINES) : max(0, trial.number - in_flight + 1)]
        merits = sorted({t.facts.accuracy for t in told if t.facts and t.target == trial.target})
        place = merits[-finalists] if len(merits) >= finalists else 0.0
        assert requests.needed[trial.candidate] == place
    assert any(requests.needed.values())


class Keeping(Historian):
    """One that is kept."""

    def state(self) -> State:
        return State({"tells": np.array(self.tells_at_ask)}, {})

    def load(self, state: State, asked: Sequence[Proposal], told: Sequence[ScoredTrial]) -> None:
        self.tells_at_ask = state.arrays["tells"].tolist()
        assert len(asked) == len(self.tells_at_ask)
        self.told += told


@pytest.fixture
def kept_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.loop.KEPT_EVERY", 2)


@pytest.mark.usefixtures("kept_often")
@pytest.mark.parametrize("changes", [9, 12, 15])
def test_killed_it_goes_on_from_what_its_controller_knew_last(changes: int, tmp_path: Path) -> None:
    undisturbed = make_loop(new_store(), Historian()).run(FakeWorkers(0))
    store, memory = new_store(), tmp_path / "controller"
    store.changes_left = changes
    with pytest.raises(Killed):
        make_loop(store, Keeping(), memory=memory).run(FakeWorkers(1))
    store.changes_left = -1
    known = State.read(memory)
    assert known
    told: list[ScoredTrial] = []

    class Resumed(Keeping):
        def tell(self, scored: Sequence[ScoredTrial]) -> None:
            told.extend(scored)
            super().tell(scored)

    resumed = make_loop(store, Resumed(), memory=memory).run(FakeWorkers(2))
    assert outcome(resumed) == outcome(undisturbed)
    assert len(told) == TRIALS - known.values["told"] < TRIALS


@pytest.mark.usefixtures("kept_often")
def test_what_a_controller_knew_of_other_trials_is_not_taken_up(tmp_path: Path) -> None:
    memory = tmp_path / "controller"
    make_loop(new_store(), Keeping(size=30), memory=memory).run(FakeWorkers(0))
    assert State.read(memory)
    store, controller = new_store(), Keeping()
    undisturbed = make_loop(new_store(), Historian()).run(FakeWorkers(0))
    resumed = make_loop(store, controller, memory=memory).run(FakeWorkers(0))
    assert outcome(resumed) == outcome(undisturbed)
    assert len(controller.told) == TRIALS


def test_a_job_that_is_through_runs_nothing_again(store: Store) -> None:
    first = make_loop(store, Historian()).run(FakeWorkers(0))
    workers = FakeWorkers(1)
    assert make_loop(store, Historian()).run(workers) == first
    assert not workers.submitted


class Deadly(FakeWorkers):
    """Workers that die of trial 1 so many times."""

    times = 0

    def end(self, key: int, candidate: Candidate) -> Finished:
        if key == 1 and self.submitted[key] <= self.times:
            return Finished(key=key, died=True)
        return Finished(key=key, value=candidate)


@pytest.mark.parametrize("times", range(MAX_DEATHS))
def test_a_trial_whose_worker_died_runs_again(times: int, store: Store) -> None:
    workers = Deadly(0)
    workers.times = times
    trial = make_loop(store, Historian()).run(workers)[1]
    assert (trial.state, trial.attempts) == (TrialState.DONE, times + 1)
    assert [e.kind for e in store.events("toy") if e.kind != TRIAL_EVENT] == ["worker died"] * times


def test_a_trial_that_keeps_killing_workers_fails_with_the_reason_and_the_search_goes_on(
    store: Store,
) -> None:
    workers = Deadly(0)
    workers.times = 99
    controller = Historian()
    trials = make_loop(store, controller).run(workers)
    assert (trials[1].state, trials[1].reason) == (TrialState.FAILED, "its worker died 3 times")
    assert workers.submitted[1] == MAX_DEATHS
    assert [told.accuracy is None for told in controller.told] == [n == 1 for n in range(TRIALS)]


class Stubborn(Historian):
    """Proposes the first baseline three times before each candidate of its own."""

    def ask(self, count: int) -> Sequence[Proposal]:
        self.tells_at_ask.append(len(self.told))
        asks = len(self.tells_at_ask)
        return [Proposal(candidate=Candidate((asks, 1)), target=40.0)] if asks % 4 == 0 else BASELINES[:1]


def test_what_has_been_tried_is_not_tried_again(store: Store) -> None:
    trials = make_loop(store, Stubborn()).run(FakeWorkers(0))
    own = [trial.candidate.kept for trial in trials[len(BASELINES) :]]
    assert own == [(4 * n, 1) for n in range(1, TRIALS - len(BASELINES) + 1)]


@pytest.mark.parametrize("last", [[], BASELINES[:1]], ids=["nothing more", "baselines for ever"])
def test_a_controller_without_new_candidates_ends_the_search_and_the_user_is_told(
    last: list[Proposal], store: Store
) -> None:
    class Exhausted(Historian):
        def ask(self, count: int) -> Sequence[Proposal]:
            return last if len(self.tells_at_ask) == 4 else super().ask(count)

    listener = Notes()
    trials = make_loop(store, Exhausted(), listener=listener).run(FakeWorkers(0))
    assert len(trials) == len(BASELINES) + 4
    assert all(trial.state.finished for trial in trials)
    [note] = listener.notes
    assert note.startswith(
        f"the search is over after {len(trials)} of {TRIALS} trials: historian has no other"
    )


def test_a_replay_that_asks_for_something_else_is_refused_by_number_and_widths(store: Store) -> None:
    make_loop(store, Historian()).run(FakeWorkers(0))

    class Changed(Historian):
        def ask(self, count: int) -> Sequence[Proposal]:
            return [Proposal(candidate=Candidate((1, 2)), target=40.0)]

    with pytest.raises(
        InvariantError, match=r"trial 2 of job 'toy' was .* asks for \{'conv1': 1, 'conv2': 2\}"
    ):
        make_loop(store, Changed()).run(FakeWorkers(0))


def test_progress_says_which_trial_what_is_best_the_front_and_what_failed(store: Store) -> None:
    listener = Notes()
    loop = Loop(
        store, "toy", Historian(), BASELINES, name="historian", space=SPACE, cost=cost, trials=TRIALS,
        in_flight=3, finalists=2, seed=7, requests=CandidateRequests(),
        add_to_front=lambda trial, merit: f"front of {trial.number} at {merit:.2f}", listener=listener,
    )  # fmt: skip
    trials = loop.run(FakeWorkers(0))
    done = [trial for trial in trials if trial.facts is not None]
    best = max(trial.facts.accuracy for trial in done if trial.facts)
    last = facts(done[-1].candidate).accuracy
    failed = f", {TRIALS - len(done)} failed" if len(done) < TRIALS else ""
    assert listener.texts[-1] == (
        f"trial {TRIALS} of {TRIALS}, best {best:.1%}, front of {done[-1].number} at {last:.2f}{failed}"
    )
