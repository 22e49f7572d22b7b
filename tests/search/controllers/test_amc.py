"""AMC keeps the contract, and learns: on a toy whose optimum a knapsack computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from benchmarks.controllers_toy import Toy, search, separable
from search.budget import Cost
from search.controllers.amc import AmcController
from search.controllers.protocol import Controller
from tests.contracts.controller import SPACE, TARGETS, TRIALS, ControllerContract, cost, play
from trials.candidate import Space

TOY_TRIALS = 120


class TestAmcController(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        features = np.linspace(0, 1, len(space.axes))[:, None]
        return AmcController(space, cost, targets, seed, features=features, trials=TRIALS)

    def test_the_state_of_torchs_global_generator_is_neither_used_nor_changed(self) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = play(self.make(seed=3))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert play(self.make(seed=3)) == first


def _knapsack(toy: Toy, target: float) -> float:
    """The best accuracy at one level: groups do not interact, costs are whole numbers of 4 units x price."""
    dense = toy.space.sizes
    budget = int(target // 4)
    least_loss = np.zeros(budget + 1)
    for group, axis in enumerate(toy.space.axes):
        one = np.arange(len(dense)) == group
        options = np.where(one, axis.allowed[:, None], dense)
        losses = -np.log((toy.accuracy(options) - 0.1) / 0.84)
        price = toy.cost(np.where(one, axis.allowed[:, None], 0)) // 4
        reached = np.full(budget + 1, np.inf)
        for loss, units in zip(losses, price.astype(int), strict=True):
            if units <= budget:
                reached[units:] = np.minimum(reached[units:], least_loss[: budget + 1 - units] + loss)
        least_loss = reached
    return float(0.1 + 0.84 * np.exp(-least_loss[budget]))


@pytest.fixture(scope="module", params=range(3))
def gaps(request: pytest.FixtureRequest) -> dict[str, float]:
    """By how much accuracy each controller misses the optimum, on average over the levels."""
    toy = separable(request.param)
    optimum = float(np.mean([_knapsack(toy, target) for target in toy.targets]))
    names = ("amc", "random", "uniform")
    return {name: optimum - search(toy, name, TOY_TRIALS, seed=request.param) for name in names}


def test_no_controller_beats_the_knapsack(gaps: dict[str, float]) -> None:
    assert min(gaps.values()) >= 0


def test_amc_comes_within_half_a_point_of_the_optimum(gaps: dict[str, float]) -> None:
    assert gaps["amc"] < 0.005


def test_amc_halves_the_gap_that_random_search_leaves(gaps: dict[str, float]) -> None:
    assert gaps["amc"] < gaps["random"] / 2
