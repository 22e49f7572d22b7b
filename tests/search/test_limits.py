"""Several limits as one cost: at most a level's target exactly where all limits of that level hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from search.budget import Cost, Limit, about, combined
from search.job import Budget, CostKind
from search.limits import check, limit_of
from trials.candidate import Axis, Counts, Space

SPACE = Space((Axis(name="a", size=100, lowest=10), Axis(name="b", size=50, step=5, lowest=10)))


def units(counts: Counts) -> NDArray[np.float64]:
    """From 20 to 150."""
    return counts.sum(axis=1).astype(np.float64)


def products(counts: Counts) -> NDArray[np.float64]:
    """From 100 to 5000."""
    return counts.prod(axis=1).astype(np.float64)


def limits(asked: dict[str, Any], *costs: Cost, dense: Sequence[float] = (150, 5000)) -> list[Limit]:
    """What a [budget] limits, where its kinds cost these, in the order of the limits."""
    budget = Budget.checked(asked, "here")
    levels = len(budget.leading.levels)
    return [
        limit_of(each, cost, levels=levels, dense=whole)
        for each, cost, whole in zip(budget.asked, costs, dense, strict=False)
    ]


def made(kind: CostKind, cost: Cost, *most: float) -> Limit:
    return Limit(kind=kind, cost=cost, most=most, written=("",) * len(most), dense=1.0)


def column(index: int) -> Cost:
    """Counts are the costs themselves."""
    return lambda counts: counts[:, index].astype(np.float64)


positive = st.integers(1, 40)


@st.composite
def several(draw: st.DrawFn) -> list[Limit]:
    """Levels of one kind in any order, and other kinds with a limit for all or one for each level."""
    targets = draw(st.lists(positive, min_size=1, max_size=4, unique=True))
    found = [made("latency_ms", column(0), *map(float, targets))]
    for index in range(1, draw(st.integers(1, 3)) + 1):
        fixed = [draw(positive)] * len(targets)
        rising = sorted(draw(st.lists(positive, min_size=len(targets), max_size=len(targets))))
        own = draw(st.sampled_from([fixed, rising]))
        most = [own[place] / 7 for place in np.argsort(np.argsort(targets))]
        found.append(made("macs", lambda counts, index=index: column(index)(counts) / 7, *most))
    return found


@given(several(), st.lists(st.tuples(*[st.integers(0, 60)] * 4), min_size=1, max_size=20))
def test_a_candidate_costs_at_most_a_target_exactly_where_it_meets_all_limits_of_that_level(
    limits: list[Limit], rows: list[tuple[int, ...]]
) -> None:
    counts = np.array(rows)
    costs = combined(limits)(counts)
    for level, target in enumerate(limits[0].most):
        meets = np.all([limit.cost(counts) <= limit.most[level] for limit in limits], axis=0)
        assert ((costs <= target) == meets).all()


@given(several(), st.tuples(*[st.integers(0, 60)] * 4), st.tuples(*[st.integers(0, 30)] * 4))
def test_what_costs_no_less_of_any_kind_costs_no_less(
    limits: list[Limit], less: tuple[int, ...], added: tuple[int, ...]
) -> None:
    low, high = combined(limits)(np.array([less, np.add(less, added)]))
    assert low <= high


@given(st.lists(positive, min_size=1, max_size=4), st.integers(0, 60))
def test_a_limit_alone_costs_what_it_costs(targets: list[int], kept: int) -> None:
    limit = made("macs", column(0), *map(float, targets))
    assert combined([limit])(np.array([[kept]])) == [kept]


@given(several(), st.integers(0, 60))
def test_of_the_leading_kind_a_candidate_costs_what_it_costs_alone(limits: list[Limit], kept: int) -> None:
    assert combined(limits)(np.array([[kept, 0, 0, 0]])) == [max(kept, 5e-324)]


@given(several(), st.lists(st.tuples(*[st.integers(0, 60)] * 4), min_size=1, max_size=20))
def test_with_one_target_in_view_the_same_candidates_meet_it(
    limits: list[Limit], rows: list[tuple[int, ...]]
) -> None:
    counts, cost = np.array(rows), combined(limits)
    for target in limits[0].most:
        near = about(cost, target)(counts)
        assert ((near <= target) == (cost(counts) <= target)).all()


def test_between_levels_a_cost_rises_straight_and_above_all_in_proportion() -> None:
    levels = [made("latency_ms", column(0), 4.0, 2.0), made("macs", column(1), 100.0, 10.0)]
    fixed = [made("latency_ms", column(0), 4.0, 2.0), made("macs", column(1), 10.0, 10.0)]
    counts = np.array([[1, cost] for cost in (5, 10, 55, 100, 200)])
    assert combined(levels)(counts) == pytest.approx([1, 2, 3, 4, 8])
    assert combined(fixed)(counts) == pytest.approx([1, 2, 22, 40, 80])


def test_percentages_are_of_what_dense_costs() -> None:
    leading, other = limits({"latency_ms": [30, 60], "macs": "20%"}, units, products)
    assert (leading.most, other.most) == ((30, 60), (1000, 1000))
    (leading, other) = limits({"macs": ["20%", "90%"], "latency": "50%"}, units, products)
    assert (leading.kind, leading.most, other.most) == ("macs", (30, 135), (2500, 2500))
    assert leading.written == ('macs = "20%"', 'macs = "90%"')


def test_the_smallest_cost_there_is_may_be_asked_for_and_no_less() -> None:
    check(limits({"macs": 20}, units), SPACE)
    with pytest.raises(RequestError) as refused:
        check(limits({"macs": [30, 19]}, units), SPACE)
    assert str(refused.value) == (
        "the budget macs = 19 cannot be met: the smallest reachable is 20 MACs (13% of dense); "
        "raise it, or lower search.lowest_keep"
    )


def test_of_a_network_whose_error_bars_are_all_it_could_gain_the_reason_is_told() -> None:
    (limit,) = limits({"latency": "50%"}, lambda counts: units(counts) + 140)
    with pytest.raises(RequestError) as refused:
        check([replace(limit, device="npu")], SPACE)
    assert str(refused.value) == (
        'the budget latency = "50%" (75 ms) cannot be met: on npu the narrowest candidate is not known to be '
        "faster than the dense model (160 ms with its error bar, 150); give the device more work with a "
        "larger batch, measure it again while nothing else runs, or limit macs"
    )


def test_a_budget_that_cannot_be_met_is_named_as_it_was_written() -> None:
    with pytest.raises(RequestError, match=r'budget latency = "5%" \(7\.5 ms\) cannot .* is 20 ms \(13% of'):
        check(limits({"latency": ["50%", "5%"]}, units), SPACE)
    with pytest.raises(RequestError, match=r"parameters = 99 cannot be met: .* is 100 parameters \(2% of"):
        check(limits({"latency": ["50%", "70%"], "parameters": 99}, units, products), SPACE)


@pytest.mark.parametrize("asked", [{"macs": 150}, {"macs": [30, 1e9]}])
def test_a_budget_that_the_dense_model_holds_asks_for_nothing(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="asks for nothing: the dense model costs 150 MACs as it is; ask"):
        check(limits(asked, units), SPACE)
    with pytest.raises(RequestError, match=r'latency = "95%" \(152 ms\) asks for nothing: .* costs 150 ms'):
        check(limits({"latency": "95%"}, units, dense=(160,)), SPACE)


def test_a_limit_that_the_dense_model_meets_may_stand_beside_one_that_it_does_not() -> None:
    check(limits({"latency_ms": [100, 140], "parameters": 6000}, units, products), SPACE)
    with pytest.raises(RequestError, match=r"= 150 and parameters = 6000 asks for .* 150 ms and 5000 para"):
        check(limits({"latency_ms": 150, "parameters": 6000}, units, products), SPACE)
