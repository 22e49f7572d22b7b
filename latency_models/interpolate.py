"""What was measured of one kernel, between measured channel counts; never beyond them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Surface = Callable[[Counts, Counts], Array]
"""From input and output channels, (...) each, to (..., values); NaN beyond what was measured."""


class Grid:
    """Values of one kernel family over (input, output channels), exact where measured.

    Between points of a full grid they are bilinear, and between points that lie on a line, such as those of a
    kernel with as many outputs as inputs, linear along it. Other points, which networks of different widths
    leave scattered, are joined by triangles, and it is linear in each; their convex hull is all it covers.

    `knots`: the input counts between which values are linear, whatever the output count is.
    """

    def __init__(self, measured: Mapping[tuple[int, int], ArrayLike]) -> None:
        """
        Args:
            measured: for each pair of channel counts the same number of values.
        """
        self.points = sorted(measured)
        points, values = np.array(self.points), np.array([measured[point] for point in self.points])
        ins, outs = (np.unique(axis) for axis in points.T)
        full = len(points) == len(ins) * len(outs)
        self.knots = ins if full else np.arange(ins[0], ins[-1] + 1)
        if not _beside(points - points[0], points[-1] - points[0]).any():
            self._surface = _line(points, values)
        elif full:
            self._surface = _bilinear(ins, outs, values.reshape(len(ins), len(outs), -1))
        else:
            self._surface = _triangles(points, values)

    def covers(self, inputs: int, outputs: int) -> bool:
        return not np.isnan(self.at(inputs, outputs)).any()

    def at(self, inputs: ArrayLike, outputs: ArrayLike) -> Array:
        """(..., values) at channel counts, which broadcast; NaN beyond those that were measured."""
        return self._surface(*np.broadcast_arrays(inputs, outputs))


def _line(points: Counts, values: Array) -> Surface:
    along = points[-1] - points[0]
    places = (points - points[0]) @ along

    def at(ins: Counts, outs: Counts) -> Array:
        offsets = np.stack([ins, outs], axis=-1) - points[0]
        low, high, share = between(places, offsets @ along)
        # Of a single point, which has no direction, all others are beside it.
        beside = _beside(offsets, along) != 0 if along.any() else offsets.any(axis=-1)
        return _blend(values[low], values[high], np.where(beside, np.nan, share))

    return at


def _bilinear(input_knots: Counts, output_knots: Counts, values: Array) -> Surface:
    def at(ins: Counts, outs: Counts) -> Array:
        low, high, rise = between(input_knots, ins)
        left, right, share = between(output_knots, outs)
        below = _blend(values[low, left], values[low, right], share)
        above = _blend(values[high, left], values[high, right], share)
        return _blend(below, above, rise)

    return at


def _triangles(points: Counts, values: Array) -> Surface:
    from scipy.interpolate import LinearNDInterpolator  # takes long to import

    inside = LinearNDInterpolator(points, values, rescale=True)

    def at(ins: Counts, outs: Counts) -> Array:
        found: Array = inside(ins, outs)
        for point, measured in zip(points, values, strict=True):  # at a corner, rounding may fall outside
            found[(ins == point[0]) & (outs == point[1])] = measured
        return found

    return at


def between(places: Counts, wanted: Counts) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """The indices of places at or below what is wanted and above it, and how far between; NaN beyond all."""
    low = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, None)
    high = np.minimum(low + 1, len(places) - 1)
    share = (wanted - places[low]) / np.maximum(places[high] - places[low], 1)
    inside = (places[0] <= wanted) & (wanted <= places[-1])
    return low, high, np.where(inside, share, np.nan)


def _blend(low: Array, high: Array, share: Array) -> Array:
    found: Array = low + share[..., None] * (high - low)
    return found


def _beside(offsets: Counts, along: Counts) -> Counts:
    """How far offsets lie beside a direction; 0 for those along it."""
    found: Counts = offsets[..., 0] * along[1] - offsets[..., 1] * along[0]
    return found
