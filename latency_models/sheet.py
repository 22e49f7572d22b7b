"""What one operator costs by its channel counts, worked out once for each pair and then only looked up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Cost = tuple[float, float, float]
"""Milliseconds with all data in the caches, how much more with none, and megabytes of weights."""


class Sheet:
    """The costs of an operator, and the way in which it runs, by input and output channels.

    Only counts that were met have a row or a column.

    Args:
        work_out: of (input, output channels) the cost, and a small number for the way.
    """

    def __init__(self, work_out: Callable[[int, int], tuple[Cost, int]]) -> None:
        self._work_out = work_out
        self._ins, self._outs = _Places(), _Places()
        self._costs = np.full((0, 0, 3), np.nan, dtype=np.float32)
        self._ways = np.zeros((0, 0), dtype=np.uint8)
        self._met: set[int] = set()

    def look_up(self, ins: Counts, outs: Counts) -> tuple[NDArray[np.float32], int | NDArray[np.intp]]:
        """(candidates, 3) costs, and their ways: (candidates,), or one while there has only been one."""
        rows, columns = self._ins.of(ins), self._outs.of(outs)
        self._make_room()
        places = rows * self._ways.shape[1] + columns
        costs = self._costs.reshape(-1, 3).take(places, axis=0)
        unknown = np.isnan(costs[:, 0])
        if unknown.any():
            for place in np.unique(places[unknown]).tolist():
                row, column = divmod(place, self._ways.shape[1])
                pair = self._ins.counts[row], self._outs.counts[column]
                self._costs[row, column], self._ways[row, column] = self._work_out(*pair)
                self._met.add(int(self._ways[row, column]))
            costs = self._costs.reshape(-1, 3).take(places, axis=0)
        if len(self._met) == 1:
            (way,) = self._met
            return costs, way
        return costs, self._ways.take(places).astype(np.intp)

    def _make_room(self) -> None:
        rows = len(self._ins.counts) - self._ways.shape[0]
        columns = len(self._outs.counts) - self._ways.shape[1]
        if rows or columns:
            self._costs = np.pad(self._costs, ((0, rows), (0, columns), (0, 0)), constant_values=np.nan)
            self._ways = np.pad(self._ways, ((0, rows), (0, columns)))


class _Places:
    """Gives each count that comes along a place of its own, in the order in which they come."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._places = np.full(1, -1, dtype=np.intp)

    def of(self, counts: Counts) -> NDArray[np.intp]:
        most = int(counts.max(initial=0))
        if most >= len(self._places):
            self._places = np.pad(self._places, (0, most + 1 - len(self._places)), constant_values=-1)
        places = self._places.take(counts)
        if places.min(initial=0) < 0:
            for count in np.unique(counts[places < 0]).tolist():
                self._places[count] = len(self.counts)
                self.counts.append(count)
            places = self._places.take(counts)
        return places
