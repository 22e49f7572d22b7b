"""NSGA-II, TPE, evolution and greedy keep the contract, and each does what it is named for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.controllers_toy import blocks, search, separable
from search.budget import Cost
from search.controllers.evolution import EvolutionController
from search.controllers.greedy import GreedyController, descend
from search.controllers.optuna_sampler import nsga2, tpe
from search.controllers.protocol import Controller, ScoredTrial
from search.controllers.sampling import RandomController
from search.knapsack import allocate
from tests.contracts.controller import SPACE, TARGETS, TRIALS, ControllerContract, cost, losses
from trials.candidate import Axis, Counts, Space


class TestNsga2(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return nsga2(space, cost, targets, seed, trials=TRIALS)


class TestTpe(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return tpe(space, cost, targets, seed)


class TestEvolution(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return EvolutionController(space, cost, targets, seed, losses(space))


class TestGreedy(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return GreedyController(space, cost, targets, seed, losses(space))


EQUAL = Space(tuple(Axis(name=f"g{index}", size=64) for index in range(8)))
ALONE = [(1 - axis.allowed / axis.size) ** 2 for axis in EQUAL.axes]


def units(counts: Counts) -> NDArray[np.float64]:
    return counts.sum(axis=1).astype(np.float64)


@pytest.mark.parametrize("make", [partial(nsga2, trials=60), tpe, partial(EvolutionController, losses=ALONE)])
def test_what_others_tried_is_learnt_from(make: Callable[..., Controller]) -> None:
    others = RandomController(EQUAL, units, [256.0], 1).ask(40)
    controller = make(EQUAL, units, [256.0], 0)
    controller.tell(
        [
            ScoredTrial(proposal=each, accuracy=0.5, divergence=1 - each.candidate.kept[0] / 64, cost=256.0)
            for each in others
        ]
    )
    asked = controller.ask(20)[1:]
    first_group = [np.mean([each.candidate.kept[0] for each in proposals]) for proposals in (asked, others)]
    assert first_group[0] > 1.1 * first_group[1]


def test_tpe_finds_better_candidates_than_random_search() -> None:
    found = {name: search(separable(0), name, 60, 0) for name in ("random", "tpe")}
    assert found["tpe"] > found["random"]


def test_evolution_begins_with_the_knapsacks_answers_and_goes_on_to_better_ones() -> None:
    toy = blocks(0)
    controller = EvolutionController(SPACE, cost, TARGETS, 0, losses(SPACE))
    for proposal in controller.ask(len(TARGETS)):
        assert proposal.candidate == allocate(SPACE, losses(SPACE), cost, proposal.target)
    assert search(toy, "evolution", 60, 0) > search(toy, "knapsack", 60, 0)


def test_evolutions_children_are_like_the_best_told_of_their_level_but_for_some_groups() -> None:
    controller = EvolutionController(EQUAL, units, [256.0], 0, ALONE)
    first = controller.ask(1)
    controller.tell([ScoredTrial(proposal=first[0], accuracy=0.9, divergence=0.1, cost=256.0)])
    for child in controller.ask(10):
        off = np.log(np.array(child.candidate.kept) / first[0].candidate.kept)
        assert (abs(off - np.median(off)) > 0.1).sum() <= 6


def test_greedy_takes_steps_from_groups_until_each_would_lose_as_much() -> None:
    """Losses grow with the square of what is gone, four times as fast in `b`: 2 x 40 = 4 x 2 x 10."""
    space = Space((Axis(name="a", size=100), Axis(name="b", size=100)))
    gone = 100 - space.axes[0].allowed
    kept = descend(space, [gone**2.0, 4 * gone**2.0], units, 150.0)
    assert kept.tolist() == [60, 90]


def test_greedy_makes_steps_as_long_as_it_takes_a_group_to_save_enough() -> None:
    """`b` loses less with its first step alone, but saves nothing before its last one."""
    space = Space((Axis(name="a", size=10), Axis(name="b", size=4)))
    alone = [0.01 * (10 - space.axes[0].allowed), np.array([0.5, 0.0, 0.0, 0.0])]
    kept = descend(space, alone, lambda counts: counts[:, 0] + 9.0 * (counts[:, 1] > 1), 15.0)
    assert kept.tolist() == [6, 4]


def test_greedy_stops_where_nothing_more_can_be_made_real() -> None:
    space = Space((Axis(name="a", size=4), Axis(name="b", size=4)))
    alone = [np.array([np.inf, np.inf, 1.0, 0.0])] * 2
    assert descend(space, alone, units, 4.0).tolist() == [3, 3]
