"""What one operator costs by its channel counts, worked out once for each pair and then only looked up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


class Sheet:
    """Milliseconds of an operator, and the way in which it runs, by input and output channels.

    Args:
        work_out: of (input, output channels) the milliseconds, and a small number for the way.
    """

    def __init__(self, work_out: Callable[[int, int], tuple[float, int]]) -> None:
        self._work_out = work_out
        self._ms = np.full((0, 0), np.nan, dtype=np.float32)
        self._ways = np.zeros((0, 0), dtype=np.uint8)
        self._met: set[int] = set()

    def look_up(self, ins: Counts, outs: Counts) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(candidates,) milliseconds, and (candidates,) ways, or (1,) while there has only been one."""
        if not len(ins):
            return np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.uint8)
        self._grow(int(ins.max()) + 1, int(outs.max()) + 1)
        places = ins * self._ms.shape[1] + outs
        ms = self._ms.take(places)
        if np.isnan(ms).any():
            for place in np.unique(places[np.isnan(ms)]).tolist():
                pair = divmod(place, self._ms.shape[1])
                self._ms[pair], self._ways[pair] = self._work_out(*pair)
                self._met.add(int(self._ways[pair]))
            ms = self._ms.take(places)
        if len(self._met) == 1:
            return ms, np.array([*self._met], dtype=np.uint8)
        return ms, self._ways.take(places)

    def _grow(self, rows: int, columns: int) -> None:
        """Make room for counts below these; what is known stays."""
        if rows > self._ms.shape[0] or columns > self._ms.shape[1]:
            wider = (0, max(0, rows - self._ms.shape[0])), (0, max(0, columns - self._ms.shape[1]))
            self._ms = np.pad(self._ms, wider, constant_values=np.nan)
            self._ways = np.pad(self._ways, wider)
