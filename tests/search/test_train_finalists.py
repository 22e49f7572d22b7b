"""Finalists are trained to the end, in legs, whatever becomes of their workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from search import finish
from search.finalists import FINALIST_FAILED
from search.finish import (
    NEARLY,
    UnderWay,
    train_finalists,
)
from search.loop import MAX_DEATHS
from search.place import Place
from search.plan import Prepared
from search.progress import Silent
from search.results import FINAL, results
from search.summary import make_report
from tests.bundles import export_images
from tests.search.test_finalists import fill
from tests.search.test_score import FACTS, made_trials
from trials.bundle import Bundle, read_bundle
from trials.finetune import TrainingState, copied
from trials.halfway import Halfway
from trials.pool import Finished
from trials.requests import Outcome, Request
from trials.run import Workbench
from trials.store import Store


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


def in_legs(prepared: Prepared, store: Store, monkeypatch: pytest.MonkeyPatch, steps: int) -> Prepared:
    """A job of two trials that trains finalists for so many steps, each of which is a leg."""
    prepared = replace(prepared, recipe=replace(prepared.recipe, final_steps=steps))
    fill(store, made_trials(prepared, 2, seed=3))
    monkeypatch.setattr(finish, "LEG_S", 0.0)
    return prepared


def test_training_that_is_stopped_goes_on_where_its_last_leg_ended_and_comes_to_the_same(
    in_own_folder: Prepared, planned_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = in_legs(in_own_folder, planned_store, monkeypatch, steps=4)
    trial = planned_store.trials("small")[1]
    whole = Workbench(prepared.bundle, prepared.splits, prepared.recipe)(
        Request(candidate=trial.candidate, seed=trial.seed, final=True)
    )
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
    prepared = in_legs(in_own_folder, planned_store, monkeypatch, steps=3)
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
    prepared = in_legs(in_own_folder, planned_store, monkeypatch, steps=3)
    model, averaged = (copied(a_network().tensors) for _ in range(2))
    state = TrainingState(model=model, averaged=averaged, memory={}, losses=(1.0,), at_once=1)
    recipe = asdict(replace(prepared.recipe, learning_rate=0.5))
    other = Halfway(recipe=recipe, repaired=a_network(), kept={}, state=state, seconds={"repair": 1.0})
    other.write(prepared.place.halfway(1))
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

    prepared = in_legs(in_own_folder, planned_store, monkeypatch, steps=2)
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
