"""Which trials are trained to the end, what happens when that fails, and which one wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from search.finalists import (
    choose_finalists,
    choose_winner,
)
from search.plan import Prepared
from search.results import FINAL, MEASURED
from tests.search.test_score import FACTS, made_trials
from trials.candidate import Trial, TrialState
from trials.requests import Outcome
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
