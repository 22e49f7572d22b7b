"""What one operator costs by its channel counts, for thousands of candidates at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import InvariantError
from hwprofiles.ops import OpSpec
from latency_models.interpolate import between
from latency_models.kernels import Costs, KernelCosts

Counts = NDArray[np.int64]
Lower = Callable[[int, int], tuple[tuple[OpSpec, ...], int]]
"""From input and output channels of an operator to its kernels, and a small number for the way it runs."""
Choice = tuple[tuple[OpSpec, ...], int]
"""The families of those kernels, and the way."""

MANY = 64
"""Up to that many different padded input counts each have a row of their own."""
_NOWHERE = 2**40
"""The place of a count that was not met: beyond any sheet, so that looking there raises."""


class Sheet:
    """Costs of an operator, and the way in which it runs: rows for input, columns for output channels.

    Input counts that are padded to the same share a row; where they are padded to many, costs are linear
    between few of those, and only these have rows. So a sheet is small and stays in the caches.

    Args:
        period: `lower` chooses kernels by whether a count is below this and by its remainder, nothing else.
    """

    def __init__(self, lower: Lower, kernels: KernelCosts, period: int) -> None:
        self._lower = lower
        self._kernels = kernels
        self._period = period
        self._ins = self._outs = np.zeros(0, dtype=np.int64)
        self._low = self._high = self._column = self._ins
        self._share = np.zeros(0, dtype=np.float32)
        self._costs = np.zeros((0, 3), dtype=np.float32)

    def look_up(self, ins: Counts, outs: Counts) -> tuple[NDArray[np.float32], int | NDArray[np.intp]]:
        """(candidates, 3) costs, and their ways: (candidates,), or one where all have the same.

        Raises:
            NotMeasuredError: a kernel lies outside of what was measured.
        """
        try:
            places, costs = self._known(ins, outs)
        except IndexError:
            self._ins, self._outs = _filled(self._ins, ins), _filled(self._outs, outs)
            self._build()
            places, costs = self._known(ins, outs)
        if self._holes and (unknown := np.isnan(costs[:, 0])).any():
            first = int(np.flatnonzero(unknown)[0])
            for kernel in self._lower(int(ins[first]), int(outs[first]))[0]:
                self._kernels.of(kernel)
            raise InvariantError(f"a sheet lacks {ins[first]}->{outs[first]}, whose kernels are known")
        if self._only_way is not None:
            return costs, self._only_way
        ways = self._ways.take(places)
        return costs, int(ways[0]) if (ways == ways[0]).all() else ways

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        held = (self._low, self._high, self._share, self._column, self._costs, self._ways)
        return sum(array.nbytes for array in held)

    def _known(self, ins: Counts, outs: Counts) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """
        Raises:
            IndexError: a count that was not met.
        """
        columns = self._column.take(outs)
        places = self._low.take(ins) + columns
        costs = self._costs.take(places, axis=0)
        if self._between:
            above = self._costs.take(self._high.take(ins) + columns, axis=0)
            costs += self._share.take(ins)[:, None] * (above - costs)
        return places, costs

    def _build(self) -> None:
        """Lay out rows and columns for all counts that were met."""
        width = len(self._outs)
        self._column = np.full(self._outs[-1] + 1, _NOWHERE)
        self._column[self._outs] = np.arange(width)
        self._low, self._high = np.full((2, self._ins[-1] + 1), _NOWHERE)
        self._share = np.zeros(len(self._low), dtype=np.float32)
        costs: list[Costs] = []
        ways: list[NDArray[np.intp]] = []
        for ins in self._classes():
            rows, block, way = self._block(ins)
            above = sum(map(len, costs))
            self._low[ins], self._high[ins] = (above + rows.low) * width, (above + rows.high) * width
            self._share[ins] = rows.share
            costs.append(block)
            ways.append(np.broadcast_to(way, block.shape[:2]))
        self._costs = np.concatenate(costs).reshape(-1, 3).astype(np.float32)
        self._ways = np.concatenate(ways).ravel()
        self._between = bool(self._share.any())
        self._holes = bool(np.isnan(self._costs).any())
        self._only_way = int(self._ways[0]) if (self._ways == self._ways[0]).all() else None

    def _classes(self) -> list[Counts]:
        """The input counts, those together for which the same is chosen, whatever the output count."""
        outs = [counts[0] for counts in self._alike(self._outs)]
        classes: dict[tuple[Choice, ...], list[int]] = defaultdict(list)
        for counts in self._alike(self._ins):
            classes[tuple(_choice(self._lower(counts[0], out)) for out in outs)] += counts
        return [np.array(sorted(counts)) for counts in classes.values()]

    def _alike(self, counts: Counts) -> Iterable[list[int]]:
        groups: dict[int, list[int]] = defaultdict(list)
        for count in counts.tolist():
            groups[count if count < self._period else self._period + count % self._period].append(count)
        return groups.values()

    def _block(self, ins: Counts) -> tuple[_Rows, Costs, NDArray[np.intp]]:
        """Of one class of input counts: its rows, their costs (rows, columns, 3), and the way (columns,)."""
        first = np.full(len(self._outs), ins[0])
        parts: dict[Choice, list[int]] = defaultdict(list)
        for column, out in enumerate(self._outs.tolist()):
            parts[_choice(self._lower(int(ins[0]), out))].append(column)
        families = [family for chosen, _ in parts for family in chosen]
        read = [
            self._padded(ins, np.full(len(ins), self._outs[columns[0]]))[..., 0] for columns in parts.values()
        ]
        knots = sorted({knot for family in families for knot in self._kernels.knots(family)})
        rows = _Rows.of(ins, np.concatenate(read, axis=1), knots)
        costs, ways = np.zeros((len(rows.read), len(first), 3)), np.zeros(len(first), dtype=np.intp)
        number = 0
        for (chosen, way), columns in parts.items():
            ways[columns] = way
            padded = self._padded(first[columns], self._outs[columns])
            for kernel, family in enumerate(chosen):
                inputs = rows.read[:, [number]] if rows.follows[number] else padded[:, kernel, 0]
                costs[:, columns] += self._kernels.at(family, inputs, padded[:, kernel, 1])
                number += 1
        return rows, costs, ways

    def _padded(self, ins: Counts, outs: Counts) -> Counts:
        """(pairs, kernels, 2) channels of what pairs of counts, for which the same is chosen, become."""
        lowered = [self._lower(*pair)[0] for pair in zip(ins.tolist(), outs.tolist(), strict=True)]
        return np.array([[(k.in_channels, k.out_channels) for k in kernels] for kernels in lowered])


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where input counts lie among the rows of their class.

    `read` (rows, kernels) the padded input counts of each row, `follows` (kernels,) whether they depend on
    the operator's; of each input count `low` and `high`, the rows that it lies between, and `share`, how far.
    """

    read: Counts
    follows: NDArray[np.bool_]
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float64]

    @classmethod
    def of(cls, ins: Counts, read: Counts, knots: Sequence[int]) -> Self:
        """From the padded input counts (inputs, kernels), and the counts between which costs are linear."""
        follows = (read != read[0]).any(axis=0)
        distinct, row = np.unique(read, axis=0, return_inverse=True)
        if len(distinct) <= MANY or np.ptp(read[:, follows], axis=1).any():  # no one count to go by
            return cls(distinct, follows, row, row, np.zeros(len(ins)))
        padded = read[:, follows][:, 0]
        first, last = padded.min(), padded.max()
        few = np.unique([first, last, *(knot for knot in knots if first < knot < last)])
        rows = np.repeat(read[:1], len(few), axis=0)
        rows[:, follows] = few[:, None]
        low, high, share = between(few, padded)
        return cls(rows, follows, low, np.where(share > 0, high, low), share)  # a row of no share may be NaN


def _choice(lowered: tuple[tuple[OpSpec, ...], int]) -> Choice:
    kernels, way = lowered
    return tuple(kernel.family for kernel in kernels), way


def _filled(met: Counts, more: Counts) -> Counts:
    """All counts from the least to the largest, in the steps that those which were met have in common."""
    counts = np.union1d(met, more)
    step = np.gcd.reduce(np.diff(counts)) if len(counts) > 1 else 1
    return np.arange(counts[0], counts[-1] + 1, step)
