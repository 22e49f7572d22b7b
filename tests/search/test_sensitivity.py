"""Losses between measured counts, and which counts are measured."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search.sensitivity import POINTS, Sensitivity, probes
from trials.candidate import Axis, Space

AXIS = Axis(name="wide", size=64, step=4, lowest=8)
BLOCK = Axis(name="block", size=1, lowest=0)


def losses(measured: dict[int, float], axis: Axis = AXIS) -> dict[int, float]:
    [found] = Sensitivity({axis.name: measured}).losses(Space((axis,)))
    return dict(zip(axis.allowed.tolist(), found.tolist(), strict=True))


def test_a_loss_that_grows_with_the_square_of_what_is_gone_is_met_everywhere() -> None:
    found = losses({kept: 0.3 * (1 - kept / 64) ** 2 for kept in (8, 24, 44)})
    for kept, loss in found.items():
        np.testing.assert_allclose(loss, 0.3 * (1 - kept / 64) ** 2, atol=1e-12)


@given(st.dictionaries(st.sampled_from(AXIS.allowed[:-1].tolist()), st.floats(0, 9), min_size=1))
def test_losses_fall_to_nothing_and_are_never_below_what_was_measured_wider(
    measured: dict[int, float],
) -> None:
    found = losses(measured)
    assert found[64] == 0
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for kept, loss in measured.items():
        assert found[kept] >= loss or math.isclose(found[kept], loss)


def test_what_could_not_be_made_is_infinite_and_so_is_what_is_narrower() -> None:
    found = losses({8: math.inf, 24: 0.4, 44: 0.1})
    assert math.isinf(found[8])
    assert math.isinf(found[20])
    assert found[24] == 0.4


def test_a_few_counts_of_each_group_are_measured_from_its_lowest_on_with_all_others_whole() -> None:
    found = probes(Space((AXIS, BLOCK, Axis(name="pair", size=2), Axis(name="only", size=3, lowest=3))))
    assert [(probe.group, probe.kept) for probe in found] == [
        ("wide", 8), ("wide", 24), ("wide", 44), ("block", 0), ("pair", 1),
    ]  # fmt: skip
    assert found[1].candidate.kept == (24, 1, 2, 3)
    assert sum(probe.group == "wide" for probe in found) == POINTS
