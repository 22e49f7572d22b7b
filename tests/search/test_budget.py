"""The projection uses its budget, holds it, and keeps the wanted proportions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from search.budget import Cost, count_within, project
from trials.candidate import Axis, Candidate, Counts, Space


@dataclass(frozen=True)
class Problem:
    space: Space
    wanted: NDArray[np.float64]
    cost: Cost
    target: float


def units(counts: Counts) -> NDArray[np.float64]:
    """All that are kept."""
    return counts.sum(axis=1).astype(np.float64)


def _macs(weights: Counts, pairs: Counts) -> Cost:
    """Per-unit weights and products of neighbours, as in a chain of layers; integers, so sums are exact."""

    def cost(counts: Counts) -> NDArray[np.float64]:
        total: Counts = counts @ weights + (counts[:, 1:] * counts[:, :-1]) @ pairs
        return total.astype(np.float64)

    return cost


def _table_with_dips(weights: Counts) -> Cost:
    """A staircase of 8 units a stair, on which every third count is dearer than the next one."""

    def cost(counts: Counts) -> NDArray[np.float64]:
        total: Counts = (-(-counts // 8) * 8 + 6 * (counts % 3 == 1)) @ weights
        return total.astype(np.float64)

    return cost


@st.composite
def problems(draw: st.DrawFn, dips: bool = False) -> Problem:
    groups = draw(st.integers(1, 6))
    axes = []
    for index in range(groups):
        if draw(st.integers(0, 4)) == 0:
            axes.append(Axis(name=f"block{index}", size=1, lowest=0))
            continue
        size = draw(st.integers(1, 40))
        axes.append(
            Axis(
                name=f"g{index}",
                size=size,
                step=draw(st.sampled_from([1, 3, 4, 8])),
                lowest=draw(st.integers(1, size)),
            )
        )
    space = Space(tuple(axes))
    weights = np.array(draw(st.lists(st.integers(0, 9), min_size=groups, max_size=groups)), dtype=np.int64)
    pairs = np.array(draw(st.lists(st.integers(0, 3), min_size=groups - 1, max_size=groups - 1)), np.int64)
    cost = _table_with_dips(weights) if dips else _macs(weights, pairs)
    wanted = draw(st.lists(st.floats(0, 80), min_size=groups, max_size=groups))
    smallest = cost(np.array([[axis.allowed[0] for axis in axes]]))[0]
    dense = cost(space.sizes[None])[0]
    target = smallest + draw(st.floats(0, 1.1)) * abs(dense - smallest)
    return Problem(space, np.array(wanted), cost, target)


def _project(problem: Problem) -> Candidate:
    return project(problem.space, problem.wanted, problem.cost, problem.target)


def _cost_of(problem: Problem, kept: Counts | tuple[int, ...]) -> float:
    return float(problem.cost(np.array(kept, dtype=np.int64)[None])[0])


@given(problems() | problems(dips=True))
def test_the_result_fits_and_keeps_only_allowed_counts(problem: Problem) -> None:
    candidate = _project(problem)
    assert _cost_of(problem, candidate.kept) <= problem.target
    for kept, axis in zip(candidate.kept, problem.space.axes, strict=True):
        assert kept in axis.allowed


@given(problems() | problems(dips=True))
def test_no_axis_of_the_result_can_go_up_one_step(problem: Problem) -> None:
    kept = np.array(_project(problem).kept)
    for index, axis in enumerate(problem.space.axes):
        above = axis.allowed[axis.allowed > kept[index]]
        if above.size:
            larger = kept.copy()
            larger[index] = above[0]
            assert _cost_of(problem, larger) > problem.target


@given(problems())
def test_projecting_a_result_again_changes_nothing(problem: Problem) -> None:
    once = _project(problem)
    assert project(problem.space, np.array(once.kept, float), problem.cost, problem.target) == once


@given(problems(), st.floats(0, 2))
def test_a_larger_budget_never_gives_a_candidate_inside_the_smaller_one(
    problem: Problem, factor: float
) -> None:
    small = np.array(_project(problem).kept)
    target = problem.target * (1 + factor)
    large = np.array(project(problem.space, problem.wanted, problem.cost, target).kept)
    assert (large == small).all() or (large > small).any()


@given(problems())
def test_the_dense_model_is_returned_where_it_fits(problem: Problem) -> None:
    dense = problem.space.dense
    target = _cost_of(problem, dense.kept)
    assert project(problem.space, problem.wanted, problem.cost, target) == dense


def test_wanted_proportions_are_kept_at_the_scale_that_just_fits() -> None:
    space = Space(tuple(Axis(name=name, size=1000) for name in "abc"))
    wanted = np.array([300.0, 200.0, 100.0])
    assert project(space, wanted, units, 60.0).kept == (30, 20, 10)
    assert project(space, wanted, units, 1200.0).kept == (600, 400, 200)


def test_an_axis_at_its_end_leaves_its_share_to_the_others() -> None:
    space = Space((Axis(name="a", size=10), Axis(name="b", size=100), Axis(name="c", size=100, lowest=50)))
    wanted = np.array([10.0, 10.0, 1.0])
    kept = project(space, wanted, units, 100.0).kept
    assert kept == (10, 40, 50)


def test_where_a_large_step_does_not_fit_smaller_ones_use_the_budget() -> None:
    space = Space((Axis(name="large", size=64, step=32, lowest=32), Axis(name="small", size=64)))
    kept = project(space, np.array([64.0, 1.0]), units, 60.0).kept
    assert kept == (32, 28)


def test_a_block_is_kept_where_half_of_it_is_wanted_and_else_comes_back_last() -> None:
    block = Axis(name="block", size=1, lowest=0)
    space = Space((Axis(name="a", size=100), block, block, block))
    wanted = np.array([100.0, 0.5, 0.49, 0.0])

    def tens(counts: Counts) -> NDArray[np.float64]:
        return np.asarray(counts @ np.array([1, 10, 10, 10]), dtype=np.float64)

    kept = [project(space, wanted, tens, target).kept for target in (10.0, 11.0, 60.0, 119.0, 120.0, 130.0)]
    assert kept == [
        (10, 0, 0, 0), (1, 1, 0, 0), (50, 1, 0, 0), (100, 1, 0, 0), (100, 1, 1, 0), (100, 1, 1, 1),
    ]  # fmt: skip


def test_an_impossible_budget_is_refused_with_the_smallest_reachable_cost() -> None:
    space = Space((Axis(name="a", size=10, lowest=3), Axis(name="b", size=10, lowest=4)))
    with pytest.raises(RequestError, match=r"at most 6\.5: the smallest one costs 7;"):
        project(space, np.array([5.0, 5.0]), units, 6.5)


def test_candidates_within_a_budget_are_counted_where_the_space_is_small() -> None:
    small = Space((Axis(name="a", size=16, step=4, lowest=4), Axis(name="b", size=8, step=4, lowest=4)))
    assert [count_within(small, units, target) for target in (7, 8, 12, 24)] == [0, 1, 3, 8]
    assert count_within(Space(small.axes * 9), units, 1e9) is None
