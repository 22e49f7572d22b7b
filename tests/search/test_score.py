"""Scores, costs and the front of the small job against its table and against slow obvious versions."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from hwprofiles.errors import RequestError
from latency_models import EnergyModel
from search.plan import Prepared
from search.score import FrontSoFar, counted
from trials.candidate import Candidate, Facts, Trial, TrialState, as_counts
from trials.memory import Memory

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


def test_counted_costs_are_those_of_shapes_alone(prepared: Prepared) -> None:
    dense = as_counts([prepared.space.dense])
    costs, memory = prepared.scorer.costs, Memory(prepared.scorer.costs)
    found = {kind: cost(dense) for kind, cost in counted(costs, batch=3).items()}
    assert found["macs"] == costs.macs(dense)
    assert found["parameters"] == sum(
        prepared.bundle.tensors[name].numel()
        for name, spec in prepared.bundle.graph.tensors.items()
        if spec.trainable
    )
    assert found["size_bytes"] == memory.weight_bytes(dense)
    assert found["memory_bytes"] == memory.weight_bytes(dense) + 3 * memory.peak_bytes(dense)


def test_a_99th_percentile_is_the_latency_cost_times_the_tail_of_the_device(prepared: Prepared) -> None:
    scorer, dense = prepared.scorer, as_counts([prepared.space.dense])
    tail = scorer.table.tail
    assert tail > 1
    assert scorer.cost("latency_p99_ms")(dense) == tail * scorer.cost("latency_ms")(dense)
    assert scorer.dense("latency_p99_ms", dense_ms=2.0) == tail * 2


def test_a_budget_in_energy_is_refused_on_a_device_that_told_none(prepared: Prepared) -> None:
    with pytest.raises(RequestError, match=r"^'this-cpu' told no energy while .* leave energy out, or"):
        prepared.scorer.cost("energy_mj")


def test_an_energy_cost_is_that_of_its_latency_and_macs_with_the_whole_error_bar(prepared: Prepared) -> None:
    table, dense = copy(prepared.scorer.table), as_counts([prepared.space.dense])
    table.energy = EnergyModel(
        rail="VDD_IN", times=(1.0, 5.0, 1e-6), relative_error=0.1, coverage=0.9, networks=20
    )
    scorer = replace(prepared.scorer, table=table)
    [latency_ms], [macs] = scorer.latency(dense)[0], scorer.costs.macs(dense)
    assert scorer.cost("energy_mj")(dense) == pytest.approx(1.1 * (1 + 5 * latency_ms + macs / 1e6))
    assert scorer.dense("energy_mj", dense_ms=2.0) == pytest.approx(1 + 10 + macs / 1e6)


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


@pytest.mark.parametrize(
    ("seed", "device", "called"), [(0, "", "the front"), (1, "npu", "the front of npu"), (2, "", "the front")]
)
def test_the_front_so_far_is_the_front_of_all_that_came(
    seed: int, device: str, called: str, prepared: Prepared
) -> None:
    trials = made_trials(prepared, 30, seed)
    merits = np.random.default_rng(seed).random(30).tolist()
    so_far = FrontSoFar(prepared.scorer, prepared.plan.dense_ms, device)
    for count, (trial, merit) in enumerate(zip(trials, merits, strict=True), start=1):
        said = so_far.add(trial, merit)
        on_front = prepared.scorer.front(trials[:count], merits[:count])
        assert so_far.trials == [one for one, on in zip(trials, on_front, strict=False) if on]
        volume = prepared.scorer.hypervolume(trials[:count], merits[:count], prepared.plan.dense_ms)
        assert said == f"{sum(on_front)} on {called} (hypervolume {volume:.3f})"
