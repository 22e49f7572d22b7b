"""Scores, costs and the front of the small job against its table and against slow obvious versions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search.plan import Prepared
from search.score import FrontSoFar
from trials.candidate import Candidate, Facts, Trial, TrialState, as_counts

FACTS = Facts(accuracy=0.9, accuracy_error=0.01, loss=0.3, divergence=0.1, macs=1, parameters=1)


def made_trials(prepared: Prepared, count: int, seed: int = 0) -> list[Trial]:
    """Trials of random candidates that are done."""
    space, rng = prepared.space, np.random.default_rng(seed)
    rows = space.round(rng.uniform(0.3, 1, (count, len(space.axes))) * space.sizes)
    return [
        Trial(number=n, candidate=Candidate(tuple(kept)), seed=n, target=1.0, origin="random",
              state=TrialState.DONE, facts=FACTS)
        for n, kept in enumerate(rows.tolist())
    ]  # fmt: skip


def test_a_latency_cost_is_the_prediction_with_its_whole_error_bar(prepared: Prepared) -> None:
    trials = made_trials(prepared, 5)
    scores = prepared.scorer.score([trial.candidate for trial in trials])
    costs = prepared.scorer.cost("latency_ms")(as_counts([trial.candidate for trial in trials]))
    assert costs.tolist() == [score.latency_ms + score.error_ms for score in scores]
    assert all(score.error_ms > 0 for score in scores)


def test_other_costs_need_no_table(prepared: Prepared) -> None:
    dense = as_counts([prepared.space.dense])
    scorer = replace(prepared.scorer, table=None)  # type: ignore[arg-type]
    assert scorer.cost("macs")(dense) == prepared.scorer.costs.macs(dense)
    assert scorer.cost("parameters")(dense) == sum(
        prepared.bundle.tensors[name].numel()
        for name, spec in prepared.bundle.graph.tensors.items()
        if spec.trainable
    )


def test_the_hypervolume_of_one_trial_is_its_merit_times_the_time_it_saves(prepared: Prepared) -> None:
    [trial] = made_trials(prepared, 1)
    latency_ms = prepared.scorer.score([trial.candidate])[0].latency_ms
    volume = prepared.scorer.hypervolume([trial], [0.8], 4 * latency_ms)
    assert volume == pytest.approx(0.8 * 0.75)
    assert prepared.scorer.hypervolume([trial], [0.8], latency_ms / 2) == 0
    assert prepared.scorer.hypervolume([], [], 1.0) == 0


def test_the_front_is_what_no_other_trial_beats_on_merit_and_latency(prepared: Prepared) -> None:
    trials = made_trials(prepared, 40)
    merits = np.random.default_rng(1).random(40).round(1).tolist()
    latency = [score.latency_ms for score in prepared.scorer.score([trial.candidate for trial in trials])]
    points = list(zip(merits, latency, strict=True))
    beaten = [
        any(m >= merit and ms <= at and (m, ms) != (merit, at) for m, ms in points) for merit, at in points
    ]
    assert prepared.scorer.front(trials, merits) == [not each for each in beaten]
    assert prepared.scorer.front([], []) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_front_so_far_is_the_front_of_all_that_came(seed: int, prepared: Prepared) -> None:
    trials = made_trials(prepared, 30, seed)
    merits = np.random.default_rng(seed).random(30).tolist()
    so_far = FrontSoFar(prepared.scorer, prepared.plan.dense_ms)
    for count, (trial, merit) in enumerate(zip(trials, merits, strict=True), start=1):
        said = so_far.add(trial, merit)
        on_front = prepared.scorer.front(trials[:count], merits[:count])
        assert so_far.trials == [one for one, on in zip(trials, on_front, strict=False) if on]
        volume = prepared.scorer.hypervolume(trials[:count], merits[:count], prepared.plan.dense_ms)
        assert said == f"{sum(on_front)} on the front (hypervolume {volume:.3f})"
