from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_models.interpolate import Grid


def warm_grid(measured_ms: Mapping[tuple[int, int], float]) -> Grid:
    """Cold starts take twice as long."""
    return Grid({point: (ms, 2 * ms) for point, ms in measured_ms.items()})


def warm(grid: Grid, inputs: int, outputs: int) -> float:
    warm_ms, cold_ms = grid.at(inputs, outputs)
    assert cold_ms == pytest.approx(2 * warm_ms)
    return warm_ms


axes = st.sets(st.integers(1, 512), min_size=2, max_size=4)
coefficients = st.tuples(*[st.floats(0, 1)] * 4)


@given(axes, axes, coefficients, st.data())
def test_a_latency_linear_in_each_axis_is_met_exactly(
    ins: set[int], outs: set[int], coefficients: tuple[float, ...], data: st.DataObject
) -> None:
    def latency_ms(i: int, o: int) -> float:
        return float(np.dot(coefficients, (1, i, o, i * o)))

    grid = warm_grid({(i, o): latency_ms(i, o) for i in ins for o in outs})
    i = data.draw(st.integers(min(ins), max(ins)))
    o = data.draw(st.integers(min(outs), max(outs)))
    assert grid.covers(i, o)
    assert warm(grid, i, o) == pytest.approx(latency_ms(i, o))


@given(axes, axes, st.data())
def test_between_measurements_latency_stays_between_them(
    ins: set[int], outs: set[int], data: st.DataObject
) -> None:
    measured_ms = {(i, o): data.draw(st.floats(0.01, 10)) for i in sorted(ins) for o in sorted(outs)}
    grid = warm_grid(measured_ms)
    i = data.draw(st.integers(min(ins), max(ins)))
    o = data.draw(st.integers(min(outs), max(outs)))
    low, high = min(measured_ms.values()), max(measured_ms.values())
    assert low * (1 - 1e-9) <= warm(grid, i, o) <= high * (1 + 1e-9)
    if (i, o) in measured_ms:
        assert warm(grid, i, o) == pytest.approx(measured_ms[i, o])


def test_a_diagonal_is_a_line_over_its_channels() -> None:
    grid = warm_grid({(16, 16): 1.0, (32, 32): 2.0, (64, 64): 8.0})
    assert warm(grid, 24, 24) == 1.5
    assert warm(grid, 48, 48) == 5.0
    assert not grid.covers(16, 32)


@pytest.mark.parametrize("point", [(15, 32), (65, 32), (32, 15), (32, 65)])
def test_nothing_beyond_the_measured_counts_is_covered(point: tuple[int, int]) -> None:
    assert not warm_grid({(i, o): 1.0 for i in (16, 64) for o in (16, 64)}).covers(*point)


def test_a_grid_with_a_hole_is_refused() -> None:
    with pytest.raises(ValueError, match="3 points do not fill a grid of 2 x 2"):
        warm_grid({(16, 16): 1.0, (16, 32): 1.0, (32, 16): 1.0})
