"""Fronts, ranks and hypervolumes against closed forms and a slow, obvious version."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pareto import Costs, front_mask, hypervolume, hypervolumes, ranks


def _points(objectives: int) -> st.SearchStrategy[Costs]:
    """Points on a small integer grid, so that ties and duplicates are common."""
    point = st.tuples(*[st.integers(0, 6)] * objectives)
    return st.lists(point, max_size=25).map(
        lambda rows: np.array(rows, dtype=np.float64).reshape(-1, objectives)
    )


def _dominates(one: Costs, other: Costs) -> bool:
    return bool((one <= other).all() and (one < other).any())


@given(_points(2) | _points(3))
def test_the_front_is_every_point_that_no_other_dominates(costs: Costs) -> None:
    slow = [not any(_dominates(other, point) for other in costs) for point in costs]
    assert front_mask(costs).tolist() == slow


@given(_points(2) | _points(3))
def test_every_point_of_a_rank_is_beaten_by_one_of_the_rank_before_and_by_none_of_its_own(
    costs: Costs,
) -> None:
    rank = ranks(costs)
    for point, its_rank in zip(costs, rank, strict=True):
        assert not any(_dominates(other, point) for other in costs[rank == its_rank])
        if its_rank > 0:
            assert any(_dominates(other, point) for other in costs[rank == its_rank - 1])


@given(_points(2))
def test_the_hypervolume_counts_the_grid_cells_that_some_point_dominates(costs: Costs) -> None:
    cells = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2)
    dominated = sum(any((point <= cell).all() for point in costs) for cell in cells)
    assert hypervolume(costs, np.array([5.0, 5.0])) == dominated


def test_a_staircase_has_the_hypervolume_of_its_closed_form() -> None:
    steps = np.arange(10.0)
    costs = np.stack([steps, 9 - steps], axis=1)
    assert hypervolume(costs, np.array([10.0, 10.0])) == 10 * 11 / 2


@given(_points(2), st.integers(0, 6), st.integers(0, 6))
def test_one_more_point_adds_hypervolume_exactly_if_nothing_weakly_dominates_it(
    costs: Costs, x: int, y: int
) -> None:
    reference = np.array([7.0, 7.0])
    point = np.array([x, y], dtype=np.float64)
    gain = hypervolume(np.vstack([costs, point]), reference) - hypervolume(costs, reference)
    assert (gain > 0) == (not any((other <= point).all() for other in costs))


@given(_points(2))
def test_hypervolumes_are_those_of_the_first_point_of_the_first_two_and_so_on(costs: Costs) -> None:
    reference = np.array([5.0, 5.0])
    slow = [hypervolume(costs[:count], reference) for count in range(1, len(costs) + 1)]
    assert hypervolumes(costs, reference).tolist() == slow


def test_no_points_have_no_front_and_no_hypervolume() -> None:
    nothing = np.empty((0, 2))
    assert front_mask(nothing).size == 0
    assert hypervolume(nothing, np.array([1.0, 1.0])) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_cost_that_is_not_finite_is_refused_by_its_point(bad: float) -> None:
    costs = np.array([[0.0, 1.0], [bad, 0.0]])
    reference = np.array([2.0, 2.0])
    volumes = (partial(hypervolume, reference=reference), partial(hypervolumes, reference=reference))
    for compute in (front_mask, ranks, *volumes):
        with pytest.raises(ValueError, match=r"points \[1\]"):
            compute(costs)


def test_three_objectives_have_no_hypervolume_yet() -> None:
    for compute in (hypervolume, hypervolumes):
        with pytest.raises(ValueError, match="not 3"):
            compute(np.zeros((1, 3)), np.ones(3))
