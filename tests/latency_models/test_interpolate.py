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


def test_points_on_any_line_are_a_line_and_cover_nothing_beside_it() -> None:
    """Engines that are all thinned alike leave such points."""
    grid = warm_grid({(16, 32): 1.0, (32, 64): 2.0, (64, 128): 8.0})
    assert warm(grid, 24, 48) == 1.5
    assert warm(grid, 48, 96) == 5.0
    assert not grid.covers(24, 49)
    assert not grid.covers(8, 16)
    assert not grid.covers(128, 256)


def test_a_single_point_covers_itself_only() -> None:
    grid = warm_grid({(16, 32): 1.0})
    assert warm(grid, 16, 32) == 1.0
    assert not any(grid.covers(*point) for point in ((15, 32), (16, 33), (32, 64)))


def scattered(measured_ms: Mapping[tuple[int, int], float]) -> bool:
    ins, outs = (len({point[axis] for point in measured_ms}) for axis in (0, 1))
    first, *rest = [np.array(point) for point in measured_ms]
    on_a_line = np.linalg.matrix_rank(np.array([point - first for point in rest])) < 2
    return len(measured_ms) < ins * outs and not on_a_line


clouds = st.dictionaries(
    st.tuples(st.integers(1, 512), st.integers(1, 512)), st.floats(0.01, 10), min_size=3, max_size=12
).filter(scattered)


@given(clouds, st.tuples(*[st.floats(0, 1)] * 3))
def test_a_latency_linear_in_both_counts_is_met_exactly_between_scattered_points(
    measured_ms: dict[tuple[int, int], float], plane: tuple[float, ...]
) -> None:
    grid = warm_grid({point: float(np.dot(plane, (1, *point))) + 0.01 for point in measured_ms})
    middle = np.mean(list(measured_ms), axis=0).astype(int).tolist()
    for point in (*measured_ms, middle):
        if grid.covers(*point):
            assert warm(grid, *point) == pytest.approx(float(np.dot(plane, (1, *point))) + 0.01)


@given(clouds)
def test_scattered_points_are_met_exactly_and_nothing_beyond_their_hull_is_covered(
    measured_ms: dict[tuple[int, int], float],
) -> None:
    grid = warm_grid(measured_ms)
    for point, ms in measured_ms.items():
        assert warm(grid, *point) == ms
    ins, outs = zip(*measured_ms, strict=True)
    assert not grid.covers(max(ins) + 1, max(outs))
    assert not grid.covers(min(ins), min(outs) - 1)
    corners = {(i, o) for i in (min(ins), max(ins)) for o in (min(outs), max(outs))}
    assert [corner for corner in corners if grid.covers(*corner)] == [c for c in corners if c in measured_ms]


def test_a_hole_in_a_grid_is_covered_where_others_surround_it() -> None:
    full = {(i, o): float(i * o) for i in (16, 32, 64) for o in (16, 32, 64)}
    without_middle = warm_grid({point: ms for point, ms in full.items() if point != (32, 32)})
    low, high = min(full.values()), max(full.values())
    assert low < warm(without_middle, 32, 32) < high
    without_corner = warm_grid({point: ms for point, ms in full.items() if point != (64, 64)})
    assert not without_corner.covers(64, 64)
    assert without_corner.covers(32, 60)


@pytest.mark.parametrize(
    "points",
    [
        [(i, o) for i in (4, 9, 16) for o in (8, 32)],
        [(4, 8), (10, 20), (16, 32)],
        [(4, 8), (4, 32), (16, 8), (9, 20)],
        [(4, 8), (4, 32)],
    ],
)
def test_values_between_knots_follow_from_those_at_knots(points: list[tuple[int, int]]) -> None:
    grid = warm_grid({(i, o): float(i * i + o) for i, o in points})
    counts = np.arange(grid.knots[0], grid.knots[-1] + 1)
    for outputs in range(8, 33):
        at_knots, everywhere = (grid.at(ins, outputs)[:, 0] for ins in (grid.knots, counts))
        covered = ~np.isnan(everywhere)
        from_knots = np.interp(counts, grid.knots, at_knots)  # not a number beside a knot that is none
        np.testing.assert_allclose(from_knots[covered], everywhere[covered])
