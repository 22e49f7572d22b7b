"""What one operator costs by its channel counts, worked out once for each pair and then only looked up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Cost = tuple[float, float, float]
"""Milliseconds with all data in the caches, how much more with none, and megabytes of weights."""

_NOWHERE = 2**40
"""The place of a count that was not met: beyond any sheet, so that looking there raises."""


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
        self._blanks = 0

    def look_up(self, ins: Counts, outs: Counts) -> tuple[NDArray[np.float32], int | NDArray[np.intp]]:
        """(candidates, 3) costs, and their ways: (candidates,), or one while there has only been one."""
        try:
            places, costs = self._known(ins, outs)
        except IndexError:
            self._meet(ins, outs)
            places, costs = self._known(ins, outs)
        if self._blanks and (unknown := np.isnan(costs[:, 0])).any():
            self._fill(np.unique(places[unknown]).tolist())
            places, costs = self._known(ins, outs)
        if len(self._met) == 1:
            (way,) = self._met
            return costs, way
        return costs, self._ways.take(places).astype(np.intp)

    def _known(self, ins: Counts, outs: Counts) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places and costs, NaN where a cost is not worked out yet.

        Raises:
            IndexError: a count that has no place.
        """
        places = self._ins.of(ins) * self._ways.shape[1] + self._outs.of(outs)
        return places, self._costs.reshape(-1, 3).take(places, axis=0)

    def _meet(self, ins: Counts, outs: Counts) -> None:
        """Give every count its place, and make room."""
        self._ins.meet(ins)
        self._outs.meet(outs)
        rows, columns = len(self._ins.counts), len(self._outs.counts)
        wider = (0, rows - self._ways.shape[0]), (0, columns - self._ways.shape[1])
        self._blanks += rows * columns - self._ways.size
        self._costs = np.pad(self._costs, (*wider, (0, 0)), constant_values=np.nan)
        self._ways = np.pad(self._ways, wider)

    def _fill(self, places: list[int]) -> None:
        for place in places:
            row, column = divmod(place, self._ways.shape[1])
            pair = self._ins.counts[row], self._outs.counts[column]
            self._costs[row, column], self._ways[row, column] = self._work_out(*pair)
            self._met.add(int(self._ways[row, column]))
            self._blanks -= 1


class _Places:
    """Gives each count that comes along a place of its own, in the order in which they come."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._places = np.zeros(0, dtype=np.int64)

    def of(self, counts: Counts) -> NDArray[np.int64]:
        """
        Raises:
            IndexError: a count beyond all that were met; any other new one is nowhere.
        """
        return self._places.take(counts)

    def meet(self, counts: Counts) -> None:
        for count in np.unique(counts).tolist():
            if count >= len(self._places):
                more = count + 1 - len(self._places)
                self._places = np.pad(self._places, (0, more), constant_values=_NOWHERE)
            if self._places[count] == _NOWHERE:
                self._places[count] = len(self.counts)
                self.counts.append(count)
