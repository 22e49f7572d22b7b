"""auto and knapsack keep the contract; auto learns what the sensitivity of single groups does not say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.controllers_toy import chain, search
from search.budget import Cost
from search.controllers.auto import AutoController, Estimate
from search.controllers.knapsack import KnapsackController
from search.controllers.protocol import Controller, ScoredTrial
from search.knapsack import allocate
from search.sensitivity import parts
from tests.contracts.controller import SPACE, TARGETS, ControllerContract, cost, losses
from trials.candidate import Space


class TestAutoController(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return AutoController(space, cost, targets, seed, losses(space))


class TestKnapsackController(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return KnapsackController(space, cost, targets, seed, losses(space))


@pytest.mark.parametrize("make", [AutoController, KnapsackController])
def test_both_begin_with_the_best_allocation_of_each_level(make: type[AutoController]) -> None:
    for proposal in make(SPACE, cost, TARGETS, 0, losses(SPACE)).ask(len(TARGETS)):
        assert proposal.candidate == allocate(SPACE, losses(SPACE), cost, proposal.target)


def test_a_group_that_costs_more_than_it_did_alone_is_kept_wider_after_some_trials() -> None:
    truth = np.array([1.0, 1.0, 4.0, 1.0, 1.0])
    alone = losses(SPACE)
    controller = AutoController(SPACE, cost, TARGETS, 0, alone)
    for _ in range(30):
        [proposal] = controller.ask(1)
        divergence = float(truth @ parts(SPACE, alone, proposal.candidate))
        told = ScoredTrial(proposal=proposal, accuracy=0.5, divergence=divergence, cost=0.0)
        controller.tell([told])
    wanted = [weight * loss for weight, loss in zip(truth, alone, strict=True)]
    best = allocate(SPACE, wanted, cost, TARGETS[0])
    naive = allocate(SPACE, alone, cost, TARGETS[0])
    assert best.kept[2] > naive.kept[2]
    learnt = [weight * loss for weight, loss in zip(controller.estimate.weights, alone, strict=True)]
    assert allocate(SPACE, learnt, cost, TARGETS[0]).kept[2] > naive.kept[2]


def test_an_estimate_finds_the_weights_and_the_power_behind_what_it_is_told() -> None:
    rng = np.random.default_rng(0)
    weights, estimate = np.exp(0.5 * rng.standard_normal(6)), Estimate(6)
    for _ in range(200):
        parts = rng.exponential(0.05, 6)
        estimate.add(parts, float((weights @ parts) ** 1.3 * np.exp(0.02 * rng.standard_normal())))
    found = estimate.weights / estimate.weights.sum()
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=0.1)
    assert estimate.power == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize("parts", [[0.0, 0.0], [np.inf, 0.1]])
def test_trials_that_the_formula_has_no_place_for_teach_nothing(parts: list[float]) -> None:
    estimate = Estimate(2)
    estimate.add(np.array(parts), 0.2)
    assert estimate.weights.tolist() == [1, 1]


def test_what_is_drawn_scatters_less_the_more_trials_there_were() -> None:
    def scatter(trials: int) -> float:
        rng, estimate = np.random.default_rng(0), Estimate(4)
        for _ in range(trials):
            parts = rng.exponential(0.05, 4)
            estimate.add(parts, float(parts.sum()))
        return float(np.log([estimate.draw(rng) for _ in range(200)]).std(axis=0).mean())

    assert scatter(0) == pytest.approx(0.5, rel=0.1)
    assert scatter(30) < 0.7 * scatter(3)


def test_auto_beats_random_search_where_neighbours_share_costs_and_losses() -> None:
    found = {name: search(chain(0), name, 60, 0) for name in ("auto", "random")}
    assert found["auto"] > found["random"] + 0.003
