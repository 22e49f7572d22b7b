"""Allocations are the best there are where costs add up, nearly so elsewhere, and always in the budget."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.errors import RequestError
from search.budget import Cost, Limit, combined
from search.knapsack import PARTS, Solver, Values, allocate, cheapest, exact, exchanges
from tests.search.test_budget import Problem, problems
from trials.candidate import Axis, Candidate, Space

seeds = st.integers(0, 2**32 - 1)


def falling(space: Space, seed: int) -> list[Values]:
    """Random losses that fall to nothing for a whole axis."""
    rng = np.random.default_rng(seed)
    return [
        np.append(np.sort(rng.exponential(rng.exponential(), len(axis.allowed) - 1))[::-1], 0.0)
        for axis in space.axes
    ]


def loss_of(space: Space, losses: list[Values], candidate: Candidate) -> float:
    places = (
        np.searchsorted(axis.allowed, kept) for axis, kept in zip(space.axes, candidate.kept, strict=True)
    )
    return sum(float(loss[place]) for loss, place in zip(losses, places, strict=True))


def least_loss(space: Space, losses: list[Values], cost: Cost, target: float) -> float:
    """By trying everything."""
    counts = np.array(list(product(*(axis.allowed for axis in space.axes))))
    sums = np.array([sum(choice) for choice in product(*losses)])
    return float(sums[cost(counts) <= target].min())


@given(problems() | problems(dips=True), seeds)
def test_an_allocation_fits_with_allowed_counts_and_cannot_grow(problem: Problem, seed: int) -> None:
    space, cost, target = problem.space, problem.cost, problem.target
    kept = np.array(allocate(space, falling(space, seed), cost, target).kept)
    assert cost(kept[None])[0] <= target
    for index, axis in enumerate(space.axes):
        assert kept[index] in axis.allowed
        if kept[index] < axis.size:
            larger = kept.copy()
            larger[index] = axis.allowed[axis.allowed > kept[index]][0]
            assert cost(larger[None])[0] > target


@given(problems() | problems(dips=True), seeds)
def test_exchanges_are_all_steps_down_and_down_and_up_that_fit_the_least_loss_first(
    problem: Problem, seed: int
) -> None:
    space, cost, target = problem.space, problem.cost, problem.target
    losses = falling(space, seed)
    of = allocate(space, losses, cost, target)
    places = [list(axis.allowed).index(kept) for axis, kept in zip(space.axes, of.kept, strict=True)]
    near = set()
    for less, more in product(range(len(places)), [None, *range(len(places))]):
        to = [place - (at == less) + (at == more) for at, place in enumerate(places)]
        if less != more and all(0 <= place < len(loss) for place, loss in zip(to, losses, strict=True)):
            kept = tuple(int(axis.allowed[place]) for axis, place in zip(space.axes, to, strict=True))
            if cost(np.array([kept]))[0] <= target:
                near.add(Candidate(kept))
    found = list(exchanges(space, losses, cost, target, of))
    assert len(found) == len(near)
    assert set(found) == near
    lost = [loss_of(space, losses, candidate) for candidate in found]
    assert lost == sorted(lost) or np.allclose(lost, sorted(lost))


@pytest.mark.parametrize("products", [False, True])
def test_nothing_has_less_loss_where_costs_add_up_and_hardly_anything_elsewhere(products: bool) -> None:
    rng = np.random.default_rng(0)
    over = []
    for seed in range(60):
        space = Space(tuple(Axis(name=f"g{i}", size=int(rng.integers(3, 9))) for i in range(4)))
        weights, pairs = rng.integers(1, 10, 4), rng.integers(0, 4, 3) * products

        def cost(counts: np.ndarray, weights: np.ndarray = weights, pairs: np.ndarray = pairs) -> Values:
            return np.asarray(counts @ weights + (counts[:, 1:] * counts[:, :-1]) @ pairs, dtype=np.float64)

        dense, losses = cost(space.sizes[None])[0], falling(space, seed)
        target = rng.uniform(0.4, 0.9) * dense
        best = least_loss(space, losses, cost, target)
        over.append(loss_of(space, losses, allocate(space, losses, cost, target)) / best - 1)
    assert np.mean(over) < (0.05 if products else 0.002)


def test_hardly_anything_has_less_loss_under_a_second_limit_that_all_levels_share() -> None:
    rng = np.random.default_rng(0)
    over = []
    for seed in range(20):
        space = Space(tuple(Axis(name=f"g{i}", size=int(rng.integers(3, 9))) for i in range(4)))
        weights, pairs, others = rng.integers(1, 10, 4), rng.integers(0, 4, 3), rng.integers(1, 40, 4)

        def cost(counts: np.ndarray, weights: np.ndarray = weights, pairs: np.ndarray = pairs) -> Values:
            return np.asarray(counts @ weights + (counts[:, 1:] * counts[:, :-1]) @ pairs, dtype=np.float64)

        def other(counts: np.ndarray, others: np.ndarray = others) -> Values:
            return np.asarray(counts @ others, dtype=np.float64)

        leading, fixed = (
            Limit(kind="macs", cost=each, most=tuple(shares * each(space.sizes[None])), written=(), dense=1)
            for each, shares in ((cost, np.array([0.4, 0.6, 0.8])), (other, np.array([0.6, 0.6, 0.6])))
        )
        both, losses = combined([leading, fixed]), falling(space, seed)
        for target in leading.most:
            best = least_loss(space, losses, both, target)
            over.append(loss_of(space, losses, allocate(space, losses, both, target)) / best - 1)
    assert np.mean(over) < 0.1


def test_whole_blocks_go_where_they_are_missed_less_than_channels() -> None:
    space = Space((Axis(name="wide", size=64), Axis(name="block", size=1, lowest=0)))

    def cost(counts: np.ndarray) -> Values:
        return np.asarray(counts[:, 0] + 32.0 * counts[:, 1])

    widths = 0.1 * (1 - space.axes[0].allowed / 64)
    assert allocate(space, [widths, np.array([0.01, 0.0])], cost, 64.0).kept == (64, 0)
    assert allocate(space, [widths, np.array([0.20, 0.0])], cost, 64.0).kept == (32, 1)


def test_a_count_of_infinite_loss_is_not_taken() -> None:
    space = Space((Axis(name="a", size=4), Axis(name="b", size=4)))
    losses = [np.array([np.inf, np.inf, 1.0, 0.0]), np.array([9.0, 5.0, 3.0, 0.0])]
    assert allocate(space, losses, lambda counts: counts.sum(axis=1).astype(float), 5.0).kept == (3, 2)


def test_a_budget_below_the_smallest_candidate_is_refused() -> None:
    space = Space((Axis(name="a", size=4, lowest=2),))
    with pytest.raises(RequestError, match="the smallest one costs 2"):
        allocate(space, [np.array([1.0, 0.5, 0.0])], lambda counts: counts[:, 0].astype(float), 1.0)


@given(seeds)
def test_of_choices_whose_costs_need_no_rounding_the_exact_ones_lose_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses, costs = rng.exponential(size=(4, 6)).round(1), rng.integers(0, PARTS, (4, 6)).astype(np.float64)
    budget = PARTS + costs.min(axis=1).sum()
    every = np.array(list(product(range(6), repeat=4)))
    lost, spent = (values[np.arange(4), every].sum(axis=1) for values in (losses, costs))
    found = exact(losses, costs, budget)
    assert costs[np.arange(4), found].sum() <= budget
    assert losses[np.arange(4), found].sum() == pytest.approx(lost[spent <= budget].min())


@pytest.mark.parametrize("solve", [cheapest, exact])
def test_solvers_take_the_least_loss_within_the_budget_and_else_what_is_cheapest(solve: Solver) -> None:
    losses = np.array([[4.0, 1.0, 0.0], [9.0, 2.0, 0.0]])
    costs = np.array([[1.0, 2.0, 5.0], [-1.0, 1.0, 4.0]])
    assert solve(losses, costs, 3.01).tolist() == [1, 1]
    assert solve(losses, costs, 9.0).tolist() == [2, 2]
    assert solve(losses, costs, -5.0).tolist() == [0, 0]
