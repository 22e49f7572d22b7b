"""Which trials are trained to the end, what happens when that fails, and which one wins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from search import finish
from search.finish import (
    FINALIST_FAILED,
    NEARLY,
    UnderWay,
    choose_finalists,
    choose_winner,
    train_finalists,
)
from search.loop import MAX_DEATHS
from search.place import Place
from search.plan import Prepared
from search.progress import Silent
from search.results import FINAL, MEASURED, results
from search.summary import make_report
from tests.bundles import export_images
from tests.search.test_score import FACTS, made_trials
from trials.bundle import Bundle, read_bundle
from trials.candidate import Trial, TrialState
from trials.finetune import TrainingState, copied
from trials.halfway import Halfway
from trials.pool import Finished
from trials.requests import Outcome, Request
from trials.run import Workbench
from trials.store import Store


def trial(prepared: Prepared, number: int, target: float, accuracy: float, origin: str = "amc") -> Trial:
    [made] = made_trials(prepared, 1, seed=0)
    facts = replace(FACTS, accuracy=accuracy, divergence=1 - accuracy)
    return replace(made, number=number, target=target, origin=origin, facts=facts)


def with_finalists(prepared: Prepared, count: int) -> Prepared:
    search = prepared.job.search.model_copy(update={"finalists": count})
    return replace(prepared, job=prepared.job.model_copy(update={"search": search}))


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [0, 1, 3]), (2, [0, 1, 3, 5]), (3, [0, 1, 2, 3, 5]), (99, [0, 1, 2, 3, 4, 5, 6])],
)
def test_finalists_are_the_best_of_each_level_in_turn_beside_all_baselines(
    count: int, chosen: list[int], prepared: Prepared
) -> None:
    trials = [
        trial(prepared, 0, 1.0, 0.99, origin="uniform"),
        trial(prepared, 1, 2.0, 0.99, origin="uniform"),
        trial(prepared, 2, 1.0, 0.7),
        trial(prepared, 3, 1.0, 0.8),
        trial(prepared, 4, 2.0, 0.6),
        trial(prepared, 5, 2.0, 0.9),
        trial(prepared, 6, 1.0, 0.5),
    ]
    assert choose_finalists(with_finalists(prepared, count), trials) == chosen


def test_of_one_level_what_is_faster_comes_before_what_is_slower_and_no_better_than_the_best(
    prepared: Prepared,
) -> None:
    made = made_trials(prepared, 3, seed=1)
    latencies = [score.latency_ms for score in prepared.scorer.score([each.candidate for each in made])]
    slow, middle, fast = (made[place].candidate for place in np.argsort(latencies)[::-1])
    best, beaten, other = (
        replace(trial(prepared, number, 1.0, accuracy), candidate=candidate)
        for number, (accuracy, candidate) in enumerate([(0.9, middle), (0.8, slow), (0.7, fast)])
    )
    assert choose_finalists(with_finalists(prepared, 2), [best, beaten, other]) == [0, 2]


def test_of_trials_that_look_alike_the_best_may_take_a_place(prepared: Prepared) -> None:
    first, nearer, other = (
        replace(trial(prepared, number, 1.0, 0.0), facts=replace(FACTS, accuracy=accuracy, divergence=nats))
        for number, (accuracy, nats) in enumerate([(0.95, 0.50), (0.95, 0.05), (0.94, 0.20)])
    )
    alike = [replace(each, candidate=first.candidate) for each in (first, nearer, other)]
    assert choose_finalists(with_finalists(prepared, 1), alike) == [1]


@pytest.mark.parametrize(("brief_steps", "chosen"), [(0, 0), (10, 1)])
def test_finalists_are_nearest_to_the_dense_model_unless_trials_were_trained(
    brief_steps: int, chosen: int, prepared: Prepared
) -> None:
    near, right = (
        replace(trial(prepared, number, 1.0, 0.0), facts=replace(FACTS, accuracy=accuracy, divergence=nats))
        for number, (accuracy, nats) in enumerate([(0.90, 0.1), (0.91, 0.2)])
    )
    trained = replace(prepared, recipe=replace(prepared.recipe, brief_steps=brief_steps))
    assert choose_finalists(with_finalists(trained, 1), [near, right]) == [chosen]


def test_of_trials_that_look_the_same_only_the_first_is_a_finalist(prepared: Prepared) -> None:
    first = trial(prepared, 0, 1.0, 0.9)
    twin = replace(first, number=1)
    trials = [first, twin, trial(prepared, 2, 1.0, 0.8)]
    assert choose_finalists(with_finalists(prepared, 2), trials) == [0, 2]
    better = replace(twin, facts=replace(FACTS, accuracy=0.95))
    assert choose_finalists(with_finalists(prepared, 2), [first, better, trials[2]]) == [0, 1]


def test_where_nothing_but_baselines_worked_they_are_the_finalists(prepared: Prepared) -> None:
    failed = replace(trial(prepared, 1, 1.0, 0.5), state=TrialState.FAILED, facts=None, reason="NaN")
    assert choose_finalists(prepared, [trial(prepared, 0, 1.0, 0.9, origin="uniform"), failed]) == [0]
    assert choose_finalists(prepared, [failed]) == []


def fill(store: Store, trials: Sequence[Trial]) -> None:
    """Store trials that are done."""
    queued = [replace(each, state=TrialState.QUEUED, attempts=0, facts=None) for each in trials]
    store.save("small", *queued)
    for before, after in zip(queued, trials, strict=True):
        started = before.start()
        store.save("small", started)
        assert after.facts is not None
        store.save("small", started.finish(after.facts))


def add_final(
    store: Store, number: int, accuracy: float, latency_ms: float | None, dense_spread: float = 0.0
) -> None:
    found = Outcome(facts=replace(FACTS, accuracy=accuracy), kept={})
    store.add_result("small", number, FINAL, found.to_json())
    if latency_ms is not None:
        dense = {"dense_ms": 1.0, "dense_spread": dense_spread}
        measured = {"latency_ms": latency_ms, "spread": 0.0, **dense, "seconds": 0.5}
        store.add_result("small", number, MEASURED, measured)


@pytest.mark.parametrize(
    ("finals", "winner"),
    [
        ({}, None),
        ({0: (0.995, None)}, None),
        ({0: (0.995, 0.9), 1: (0.991, 0.8), 2: (0.985, 0.1)}, 1),
        ({0: (0.5, 0.1), 1: (0.8, 0.9), 2: (0.7, 0.2)}, 1),
        ({0: (0.999, None), 2: (0.7, 0.2)}, 2),
    ],
)
def test_the_winner_is_the_fastest_measured_within_a_point_of_dense_or_else_the_most_accurate(
    finals: Mapping[int, tuple[float, float | None]],
    winner: int | None,
    prepared: Prepared,
    planned_store: Store,
) -> None:
    prepared = replace(prepared, plan=replace(prepared.plan, dense_accuracy=1.0))
    fill(planned_store, made_trials(prepared, 3))
    for number, (accuracy, latency_ms) in finals.items():
        add_final(planned_store, number, accuracy, latency_ms)
    assert choose_winner(prepared, planned_store) == winner


@cache
def a_network() -> Bundle:
    return export_images(nn.Conv2d(1, 2, 1), 1, 4, 4)


class FakeWorkers:
    """Trial 1 kills its worker once and trial 2 always; trial 3 fails, unless told otherwise."""

    def __init__(self, fails: Sequence[int] = (3,), workers: int = 2) -> None:
        self.fails, self.workers = fails, workers
        self.attempts: Counter[int] = Counter()
        self.ended: list[Finished] = []

    @property
    def free(self) -> int:
        return self.workers - len(self.ended)

    def submit(self, key: int, request: Any) -> None:
        assert request.request.final
        self.attempts[key] += 1
        if key == 2 or (key == 1 and self.attempts[key] == 1):
            self.ended.append(Finished(key=key, died=True))
        elif key in self.fails:
            self.ended.append(Finished(key=key, error="the outputs are NaN"))
        else:
            self.ended.append(Finished(key=key, value=Outcome(facts=FACTS, kept={}, network=a_network())))

    def wait(self, timeout_s: float) -> list[Finished]:
        ended, self.ended = self.ended, []
        return ended


@pytest.fixture
def in_own_folder(prepared: Prepared, tmp_path: Path) -> Prepared:
    return replace(prepared, place=Place(tmp_path, "small"))


def test_finalists_are_tried_again_when_their_worker_dies_and_given_up_with_a_reason(
    in_own_folder: Prepared, planned_store: Store
) -> None:
    fill(planned_store, made_trials(in_own_folder, 4))
    workers = FakeWorkers()
    train_finalists(in_own_folder, planned_store, workers, [0, 1, 2, 3], Silent())
    assert workers.attempts == {0: 1, 1: 2, 2: 3, 3: 1}
    assert sorted(results(planned_store, "small", FINAL)) == [0, 1]
    kept = [read_bundle(in_own_folder.place.finalist(number)) for number in (0, 1)]
    assert [bundle.sha256 for bundle in kept] == [a_network().sha256] * 2
    events = [event.message for event in planned_store.events("small") if event.kind == FINALIST_FAILED]
    assert sorted(events) == ["trial 2: its worker died 3 times", "trial 3: the outputs are NaN"]
    assert make_report(in_own_folder, planned_store).warnings[-2:] == tuple(
        f"a finalist failed: {event}" for event in events
    )

    again = FakeWorkers(fails=())
    train_finalists(in_own_folder, planned_store, again, [0, 1, 3], Silent())
    assert again.attempts == {3: 1}  # what is trained is not trained again
    warnings = make_report(in_own_folder, planned_store).warnings
    assert [warning for warning in warnings if "finalist" in warning] == [
        "a finalist failed: trial 2: its worker died 3 times"
    ]


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.texts: list[str] = []

    def update(self, share: float, text: str = "") -> None:
        self.shares.append(share)
        self.texts.append(text)


def test_while_finalists_are_trained_it_is_told_which_and_how_many_are_done(
    in_own_folder: Prepared, planned_store: Store
) -> None:
    first, *others = made_trials(in_own_folder, 4)
    fill(planned_store, [replace(first, origin="uniform"), *others])
    heard = Heard()
    train_finalists(in_own_folder, planned_store, FakeWorkers((), workers=1), [0, 1, 3], heard)
    assert heard.texts == [
        "0 of 3 done, fine-tuning uniform 0",
        "1 of 3 done, fine-tuning trial 1",
        "1 of 3 done, fine-tuning trial 3",
        "2 of 3 done, fine-tuning trial 1",
        "finalists: 2, uniform baselines: 1",
    ]


@pytest.mark.parametrize(
    ("under_way", "usual_s", "share"),
    [
        (UnderWay(since_s=-100), 0.0, 0.0),
        (UnderWay(since_s=-30), 60.0, 0.5),
        (UnderWay(since_s=-600), 60.0, NEARLY),
        (UnderWay(since_s=-20, done=0.3, spent_s=60.0, trained_s=60.0), 1e3, 0.4),
        (UnderWay(since_s=-10, done=0.1, spent_s=30.0, trained_s=10.0), 1e3, 1 / 3),
        (UnderWay(since_s=-900, done=0.3, spent_s=60.0, trained_s=60.0), 1e3, NEARLY),
    ],
)
def test_a_finalist_is_done_so_far_as_its_legs_went_or_others_took_and_never_quite(
    under_way: UnderWay, usual_s: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    assert under_way.share(usual_s) == pytest.approx(share)


class Benches(FakeWorkers):
    """Work as workers do; after `ends` legs in all there is no going on."""

    def __init__(self, prepared: Prepared, ends: int) -> None:
        super().__init__((), workers=1)
        self.bench = Workbench(prepared.bundle, prepared.splits, prepared.recipe)
        self.legs: list[tuple[int, float]] = []
        self.left = ends

    def submit(self, key: int, request: Any) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.legs.append((key, request.halfway.share if request.halfway else 0.0))
        self.ended.append(Finished(key=key, value=self.bench(request), busy_s=1.0))


def test_training_that_is_stopped_goes_on_where_its_last_leg_ended_and_comes_to_the_same(
    in_own_folder: Prepared, planned_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leg of no time is one step."""
    prepared = replace(in_own_folder, recipe=replace(in_own_folder.recipe, final_steps=4))
    trials = made_trials(prepared, 2, seed=3)
    fill(planned_store, trials)
    whole = Workbench(prepared.bundle, prepared.splits, prepared.recipe)(
        Request(candidate=trials[1].candidate, seed=trials[1].seed, final=True)
    )
    monkeypatch.setattr(finish, "LEG_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_finalists(prepared, planned_store, Benches(prepared, ends=2), [1], Silent())
    assert results(planned_store, "small", FINAL) == {}
    workers, heard = Benches(prepared, ends=9), Heard()
    train_finalists(prepared, planned_store, workers, [1], heard)
    assert workers.legs == [(1, 0.5), (1, 0.75)]
    assert heard.shares[0] > 0
    assert heard.shares == sorted(heard.shares)
    found = results(planned_store, "small", FINAL)[1]
    assert {**found["facts"], "seconds": {}} == {**whole.facts.to_json(), "seconds": {}}
    assert (found["test"], found["kept"]) == (whole.test, whole.kept)
    assert whole.network is not None
    assert read_bundle(prepared.place.finalist(1)).sha256 == whole.network.sha256
    assert not prepared.place.halfway(1).exists()


@pytest.mark.parametrize("damaged", ["training.safetensors", "weights.safetensors", "manifest.json"])
def test_what_is_kept_of_a_training_and_damaged_is_begun_anew(
    damaged: str, in_own_folder: Prepared, planned_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = replace(in_own_folder, recipe=replace(in_own_folder.recipe, final_steps=3))
    fill(planned_store, made_trials(prepared, 2, seed=3))
    monkeypatch.setattr(finish, "LEG_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_finalists(prepared, planned_store, Benches(prepared, ends=1), [1], Silent())
    path = prepared.place.halfway(1) / damaged
    path.write_bytes(path.read_bytes()[:-40])
    workers = Benches(prepared, ends=9)
    train_finalists(prepared, planned_store, workers, [1], Silent())
    assert [share for _, share in workers.legs] == pytest.approx([0.0, 1 / 3, 2 / 3])


def test_what_is_kept_of_a_training_by_another_recipe_is_begun_anew(
    in_own_folder: Prepared, planned_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another recipe the network may have been repaired otherwise, too."""
    prepared = replace(in_own_folder, recipe=replace(in_own_folder.recipe, final_steps=3))
    fill(planned_store, made_trials(prepared, 2, seed=3))
    model, averaged = (copied(a_network().tensors) for _ in range(2))
    state = TrainingState(model=model, averaged=averaged, memory={}, losses=(1.0,), at_once=1)
    recipe = asdict(replace(prepared.recipe, learning_rate=0.5))
    other = Halfway(recipe=recipe, repaired=a_network(), kept={}, state=state, seconds={"repair": 1.0})
    other.write(prepared.place.halfway(1))
    monkeypatch.setattr(finish, "LEG_S", 0.0)
    workers = Benches(prepared, ends=9)
    train_finalists(prepared, planned_store, workers, [1], Silent())
    assert [share for _, share in workers.legs] == pytest.approx([0.0, 1 / 3, 2 / 3])


def test_a_finalist_that_comes_further_between_the_deaths_of_its_workers_is_not_given_up(
    in_own_folder: Prepared, planned_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Benches):
        """Each leg kills two workers before one lives through it."""

        def submit(self, key: int, request: Any) -> None:
            self.attempts[key] += 1
            if self.attempts[key] % MAX_DEATHS:
                self.ended.append(Finished(key=key, died=True))
            else:
                super().submit(key, request)

    prepared = replace(in_own_folder, recipe=replace(in_own_folder.recipe, final_steps=2))
    fill(planned_store, made_trials(prepared, 2, seed=3))
    monkeypatch.setattr(finish, "LEG_S", 0.0)
    workers = Dying(prepared, ends=9)
    train_finalists(prepared, planned_store, workers, [1], Silent())
    assert (len(workers.legs), sorted(results(planned_store, "small", FINAL))) == (2, [1])


def test_what_was_kept_of_a_training_goes_also_where_it_was_killed_at_its_end(
    in_own_folder: Prepared, planned_store: Store
) -> None:
    fill(planned_store, made_trials(in_own_folder, 2))
    train_finalists(in_own_folder, planned_store, FakeWorkers(()), [0], Silent())
    a_network().write(in_own_folder.place.halfway(0))
    train_finalists(in_own_folder, planned_store, FakeWorkers(()), [0], Silent())
    assert not in_own_folder.place.halfway(0).exists()


def test_the_share_that_is_done_rises_while_a_finalist_is_trained(
    in_own_folder: Prepared, planned_store: Store
) -> None:
    """The one before took a moment, so that this one is nearly done as soon as it was begun."""

    class Slow(FakeWorkers):
        def wait(self, timeout_s: float) -> list[Finished]:
            return [replace(each, busy_s=1e-9) for each in super().wait(timeout_s)]

    fill(planned_store, made_trials(in_own_folder, 4))
    heard = Heard()
    train_finalists(in_own_folder, planned_store, Slow((), workers=1), [0, 3], heard)
    assert heard.shares == pytest.approx([0.0, (1 + NEARLY) / 2, 1.0])


def test_without_finalists_there_is_nothing_to_train(in_own_folder: Prepared, planned_store: Store) -> None:
    workers = FakeWorkers()
    train_finalists(in_own_folder, planned_store, workers, [], Silent())
    assert not workers.attempts
