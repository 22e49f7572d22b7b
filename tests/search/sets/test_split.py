"""A budget is divided where it does most good, and what is chosen is the best that there is."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search.sets.split import ALIKE, MOST, Choice, Curve, choose, divide, levels

shares = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
choices = st.lists(
    st.builds(Choice, shares, shares, st.sampled_from([0.0, 0.0, 0.1, 0.3])), min_size=1, max_size=4
)

# Three networks of examples/architectures as trials found them on one thread of a CPU: milliseconds,
# divergence in nats and accuracy of six allocations and of the dense network.
DENSENET = Curve(
    np.array([0.048, 0.099, 0.151, 0.203, 0.255, 0.306, 0.358]),
    np.array([0.1295, 0.0172, 0.0087, 0.0046, 0.0020, 0.0006, 0.0]),
    np.array([0.9554, 0.9833, 0.9805, 0.9833, 0.9833, 0.9861, 0.9861]),
)
MOBILENET = Curve(
    np.array([0.0149, 0.0239, 0.0329, 0.0419, 0.0509, 0.0598, 0.069]),
    np.array([0.8674, 0.2017, 0.0695, 0.0080, 0.0037, 0.0010, 0.0]),
    np.array([0.7577, 0.9415, 0.9638, 0.9889, 0.9889, 0.9861, 0.9833]),
)
VIT = Curve(
    np.array([0.0923, 0.1089, 0.1266, 0.1436, 0.1605, 0.1780, 0.195]),
    np.array([1.1032, 0.1121, 0.0242, 0.0075, 0.0033, 0.0005, 0.0]),
    np.array([0.7131, 0.9359, 0.9693, 0.9805, 0.9777, 0.9777, 0.9805]),
)
ALL = (DENSENET, MOBILENET, VIT)


def judged(models: list[list[Choice]], chosen: tuple[int, ...], budget: float) -> tuple[float, ...]:
    """By what a combination is judged, first things first; lower is better."""
    each = [of[number] for of, number in zip(models, chosen, strict=True)]
    cost = sum(choice.cost for choice in each)
    sums = (max(0.0, cost - budget), sum(c.shortfall for c in each), sum(c.loss for c in each), cost)
    return tuple(round(value, 9) for value in sums)


@example(
    [
        [Choice(0.65, 0, 0)],
        [Choice(0, 0.05, 0), Choice(0.45, 0, 0)],
        [Choice(0.1, 0, 0)],
        [Choice(0.45, 0, 0)],
    ],
    1.65,
)
@given(models=st.lists(choices, min_size=1, max_size=4), budget=st.integers(0, 60).map(lambda b: b / 20))
def test_what_is_chosen_is_as_good_as_the_best_of_all_combinations(
    models: list[list[Choice]], budget: float
) -> None:
    best = min(judged(models, each, budget) for each in product(*(range(len(of)) for of in models)))
    assert judged(models, tuple(choose(models, budget)), budget) == best


def test_what_hardly_matters_gives_way_to_what_does() -> None:
    """Pruned alike, all three keep 60 %; densenet can do with half of that, and the others cannot."""
    dense = sum(float(curve.cost[-1]) for curve in ALL)
    parts = divide(ALL, [1, 1, 1], [0, 0, 0], 0.6 * dense)
    kept = [part / curve.cost[-1] for part, curve in zip(parts, ALL, strict=True)]
    assert sum(parts) == pytest.approx(0.6 * dense)
    assert kept[0] < 0.45
    assert min(kept[1:]) > 0.7

    def lost(costs: list[float]) -> float:
        return sum(float(curve.divergence_at(np.array(cost))) for curve, cost in zip(ALL, costs, strict=True))

    assert lost(parts) < lost([0.6 * float(curve.cost[-1]) for curve in ALL]) / 4


def test_a_model_that_counts_more_gets_more() -> None:
    budget = 0.5 * sum(float(curve.cost[-1]) for curve in ALL)
    plain, favoured = (divide(ALL, [weight, 1, 1], [0, 0, 0], budget) for weight in (1, 10))
    assert favoured[0] > 1.05 * plain[0]
    assert sum(favoured) == pytest.approx(sum(plain))


def test_a_floor_comes_before_everything_else_as_far_as_the_budget_goes() -> None:
    weights, budget = [0.001, 1, 1], 0.45 * sum(float(curve.cost[-1]) for curve in ALL)
    free, held = (divide(ALL, weights, [floor, 0, 0], budget) for floor in (0, 0.983))
    accuracy = [float(DENSENET.accuracy_at(np.array(parts[0]))) for parts in (free, held)]
    assert accuracy[0] < 0.98
    assert accuracy[1] >= 0.983


def test_what_gets_worse_with_more_is_noise() -> None:
    noisy = Curve(np.array([1.0, 2.0, 3.0]), np.array([0.4, 0.9, 0.0]), np.array([0.9, 0.8, 1.0]))
    assert noisy.divergence_at(np.array([1.0, 2.0])).tolist() == pytest.approx([0.4, 0.4])
    assert noisy.accuracy_at(np.array([1.0, 2.0])).tolist() == pytest.approx([0.9, 0.9])


@given(share=st.integers(0, 400).map(lambda us: us / 1000), equal=st.just(0.2) | shares)
def test_a_model_is_searched_about_its_share_and_at_an_equal_one(share: float, equal: float) -> None:
    found = levels(share, equal, DENSENET)
    least, most = DENSENET.cost[0], MOST * DENSENET.cost[-1]
    assert list(found) == sorted(found)
    assert least <= found[0] <= found[-1] <= most
    assert all(after / before > 1 + ALIKE * 0.9 for before, after in pairwise(found))
    for wanted in (share, equal):
        assert min(abs(level / np.clip(wanted, least, most) - 1) for level in found) <= ALIKE
