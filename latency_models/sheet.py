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

    Args:
        work_out: of (input, output channels) the cost, and a small number for the way.
    """

    def __init__(self, work_out: Callable[[int, int], tuple[Cost, int]]) -> None:
        self._work_out = work_out
        self._costs = np.full((0, 0, 3), np.nan, dtype=np.float32)
        self._ways = np.zeros((0, 0), dtype=np.uint8)
        self._met: set[int] = set()

    def look_up(self, ins: Counts, outs: Counts) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(candidates, 3) costs, and (candidates,) ways, or (1,) while there has only been one."""
        if not len(ins):
            return np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.uint8)
        self._grow(int(ins.max()) + 1, int(outs.max()) + 1)
        columns = self._ways.shape[1]
        places = ins * columns + outs
        costs = self._costs.reshape(-1, 3).take(places, axis=0)
        unknown = np.isnan(costs[:, 0])
        if unknown.any():
            for place in np.unique(places[unknown]).tolist():
                pair = divmod(place, columns)
                self._costs[pair], self._ways[pair] = self._work_out(*pair)
                self._met.add(int(self._ways[pair]))
            costs = self._costs.reshape(-1, 3).take(places, axis=0)
        if len(self._met) == 1:
            return costs, np.array([*self._met], dtype=np.uint8)
        return costs, self._ways.take(places)

    def _grow(self, rows: int, columns: int) -> None:
        """Make room for counts below these; what is known stays."""
        if rows > self._ways.shape[0] or columns > self._ways.shape[1]:
            wider = (0, max(0, rows - self._ways.shape[0])), (0, max(0, columns - self._ways.shape[1]))
            self._costs = np.pad(self._costs, (*wider, (0, 0)), constant_values=np.nan)
            self._ways = np.pad(self._ways, wider)
