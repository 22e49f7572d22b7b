"""What `hwprofiles.lower` says of a network, for thousands of its candidates at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwprofiles.lowering import shape_of, told_by_reader
from hwprofiles.ops import INPUT, OpGraph, OpSpec, Size
from hwprofiles.runtimes import PLAIN, Lowering
from latency_models.kernels import KernelCosts
from latency_models.sheet import Counts, Lower, Sheet

Layouts = int | NDArray[np.intp]
"""A position in the runtime's layouts: one for all candidates, or (candidates,) where they differ."""

NETWORKS = 512
"""Of so many it keeps at most what does not depend on candidates; a search has one for all dropped blocks."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator of a network: its family, what it reads, and a sheet for each layout that may lie in."""

    family: OpSpec
    own: tuple[int, ...]
    joined: tuple[int, ...]
    sheets: dict[int, Sheet] = field(default_factory=dict)


class Population:
    """Candidates of networks under one runtime.

    What it has worked out of an operator serves all networks that have it.

    Args:
        kernels: what each kernel costs that the runtime makes of them.
    """

    def __init__(self, runtime: Lowering, kernels: KernelCosts) -> None:
        self._runtime = runtime
        self._kernels = kernels
        self._plain = runtime.layouts.index(PLAIN)
        self._sheets: dict[tuple[OpSpec | Size, int], Sheet] = {}
        self._steps: dict[int, tuple[OpGraph, list[_Step]]] = {}
        self._ways: list[tuple[int, int, int]] = []

    @property
    def nbytes(self) -> int:
        """Memory that looking up takes, in bytes."""
        return sum(sheet.nbytes for sheet in self._sheets.values())

    def costs(self, graph: OpGraph, in_channels: Counts, out_channels: Counts) -> NDArray[np.float64]:
        """(candidates, 3) summed costs of one network, from (candidates, operators) channel counts.

        The network's own channel counts do not matter.
        """
        total = np.zeros((len(in_channels), 3), dtype=np.float32)
        lies: dict[int, Layouts] = {INPUT: self._plain}
        reordered: dict[tuple[int, bool], NDArray[np.bool_]] = {}

        def bring(source: int, wanted: Layouts, reader: int) -> None:
            """Add what reordering a tensor costs those candidates that want it so for the first time."""
            is_plain, wants_plain = lies[source] == self._plain, wanted == self._plain
            if is_plain is wants_plain or np.array_equal(is_plain, wants_plain):
                return
            by_reader = told_by_reader(graph, source)
            channels = in_channels[:, reader] if by_reader else out_channels[:, source]
            _, size = shape_of(graph, source, graph.operators[reader])
            for to_plain in (True, False):
                misses = np.broadcast_to((wants_plain == to_plain) & (is_plain != to_plain), channels.shape)
                done = reordered.get((source, to_plain), np.zeros(channels.shape, dtype=np.bool_))
                rows = misses & ~done
                if rows.any():
                    reordered[source, to_plain] = misses | done
                    costs, _ = self._reorder(size, to_plain).look_up(channels[rows], channels[rows])
                    total[rows] += costs

        for position, step in enumerate(self._steps_of(graph)):
            layout = self._together([lies[source] for source in step.joined])
            ways = self._run(step, layout, in_channels[:, position], out_channels[:, position], total)
            if isinstance(ways, int):
                reads, joins, lies[position] = self._ways[ways]
            else:
                reads, joins, lies[position] = np.array(self._ways, dtype=np.intp).T[:, ways]
            for source in step.own:
                bring(source, reads, position)
            for source in step.joined:
                bring(source, joins, position)
        for source in graph.outputs:
            bring(source, self._plain, source)
        return total.astype(np.float64)

    def _steps_of(self, graph: OpGraph) -> list[_Step]:
        """What does not depend on candidates; by identity, as comparing graphs takes as long as scoring."""
        if id(graph) not in self._steps:
            if len(self._steps) == NETWORKS:
                self._steps.clear()
            steps = [
                _Step(spec.family, graph.own(position), graph.joined(position))
                for position, spec in enumerate(graph.operators)
            ]
            self._steps[id(graph)] = graph, steps  # a graph that is held keeps its identity
        return self._steps[id(graph)][1]

    def _together(self, layouts: list[Layouts]) -> Layouts:
        if not layouts:
            return self._plain
        together = layouts[0]
        for layout in layouts[1:]:
            both = isinstance(together, int) and isinstance(layout, int)
            together = min(together, layout) if both else np.minimum(together, layout)
        return together

    def _run(
        self, step: _Step, layout: Layouts, ins: Counts, outs: Counts, total: NDArray[np.float32]
    ) -> int | NDArray[np.intp]:
        """Add one operator's costs, its joined sources lying in `layout`; returns its ways."""
        if isinstance(layout, int):
            costs, ways = self._operator(step, layout).look_up(ins, outs)
            total += costs
            return ways
        found = np.empty(len(ins), dtype=np.intp)
        for position in np.unique(layout).tolist():
            rows = layout == position
            costs, found[rows] = self._operator(step, position).look_up(ins[rows], outs[rows])
            total[rows] += costs
        return found

    def _operator(self, step: _Step, layout: int) -> Sheet:
        if layout not in step.sheets:
            step.sheets[layout] = self._sheet_of(step.family, layout)
        return step.sheets[layout]

    def _sheet_of(self, family: OpSpec, layout: int) -> Sheet:
        if (family, layout) not in self._sheets:

            def lower(in_channels: int, out_channels: int) -> tuple[tuple[OpSpec, ...], int]:
                spec = family.with_channels(out_channels if family.square else in_channels, out_channels)
                kernels, *named = self._runtime.lower(spec, self._runtime.layouts[layout])
                reads, joins, writes = map(self._runtime.layouts.index, named)
                if (reads, joins, writes) not in self._ways:
                    self._ways.append((reads, joins, writes))
                return kernels, self._ways.index((reads, joins, writes))

            self._sheets[family, layout] = self._sheet(lower, family.groups or 1)
        return self._sheets[family, layout]

    def _reorder(self, size: Size, to_plain: bool) -> Sheet:
        if (size, to_plain) not in self._sheets:
            layout = PLAIN if to_plain else self._runtime.layouts[-1]
            self._sheets[size, to_plain] = self._sheet(
                lambda _, channels: ((self._runtime.reorder(channels, size, layout),), 0)
            )
        return self._sheets[size, to_plain]

    def _sheet(self, lower: Lower, groups: int = 1) -> Sheet:
        return Sheet(lower, self._kernels, self._runtime.period * groups)
