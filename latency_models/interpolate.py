"""Latency between measured channel counts of one kernel; never beyond them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Surface = Callable[[int, int], Array]
"""From (input, output channels) to values, NaN beyond what was measured."""


class Grid:
    """Warm and cold latency in ms of one kernel family over (input, output channels), exact where measured.

    Between points of a full grid it is bilinear, and between points that lie on a line, such as those of a
    kernel with as many outputs as inputs, linear along it. Other points, which networks of different widths
    leave scattered, are joined by triangles, and it is linear in each; their convex hull is all it covers.
    """

    def __init__(self, measured_ms: Mapping[tuple[int, int], tuple[float, float]]) -> None:
        self.points = sorted(measured_ms)
        self._measured_ms = measured_ms
        self._surface = _surface(np.array(self.points), np.array([measured_ms[p] for p in self.points]))

    def covers(self, inputs: int, outputs: int) -> bool:
        return not any(np.isnan(self.at(inputs, outputs)))

    def at(self, inputs: int, outputs: int) -> tuple[float, float]:
        """Interpolate warm and cold milliseconds; NaN where `covers` is not true."""
        if (inputs, outputs) in self._measured_ms:
            return self._measured_ms[inputs, outputs]
        warm_ms, cold_ms = self._surface(inputs, outputs).tolist()
        return warm_ms, cold_ms


def _surface(points: NDArray[np.int64], values: Array) -> Surface:
    """(n, 2) sorted points and the (n, values) at them, as a surface."""
    start, along = points[0], points[-1] - points[0]
    if not _cross(points - start, along).any():
        return _line(points, values)
    ins, outs = (np.unique(axis) for axis in points.T)
    if len(points) == len(ins) * len(outs):
        return _bilinear(ins, outs, values.reshape(len(ins), len(outs), -1))
    from scipy.interpolate import LinearNDInterpolator  # type: ignore[import-untyped]  # takes long to import

    triangles = LinearNDInterpolator(points, values, rescale=True)
    return lambda inputs, outputs: np.asarray(triangles(inputs, outputs)).ravel()


def _line(points: NDArray[np.int64], values: Array) -> Surface:
    start, along = points[0], points[-1] - points[0]
    places = (points - start) @ along

    def at(inputs: int, outputs: int) -> Array:
        offset = np.array([inputs, outputs]) - start
        if _cross(offset, along) != 0 or not along.any():  # of a single point, all others are beside it
            return np.full(values.shape[1], np.nan)
        return _interpolated(offset @ along, places, values)

    return at


def _bilinear(ins: NDArray[np.int64], outs: NDArray[np.int64], values: Array) -> Surface:
    def at(inputs: int, outputs: int) -> Array:
        return _interpolated(inputs, ins, np.array([_interpolated(outputs, outs, row) for row in values]))

    return at


def _interpolated(place: float, places: NDArray[np.int64], values: Array) -> Array:
    """(values,) at a place between (n,) places with (n, values); NaN beyond them."""
    return np.array([np.interp(place, places, each, left=np.nan, right=np.nan) for each in values.T])


def _cross(offsets: NDArray[np.int64], along: NDArray[np.int64]) -> NDArray[np.int64]:
    """How far offsets lie beside a direction; 0 for those along it."""
    found: NDArray[np.int64] = offsets[..., 0] * along[1] - offsets[..., 1] * along[0]
    return found
