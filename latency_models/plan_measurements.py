"""Which kernels to measure so that a table can score every candidate of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from hwprofiles.lowering import shape_of
from hwprofiles.ops import INPUT, OpGraph, OpSpec, Size
from hwprofiles.runtimes import PLAIN, Lowered, Lowering

Range = tuple[OpGraph, OpGraph]
"""A network as it is, and the same in the candidate that keeps the least."""


def plan(
    dense: OpGraph,
    narrowest: OpGraph,
    runtime: Lowering,
    points: int | None = None,
    *,
    shorter: Iterable[Range] = (),
) -> list[OpSpec]:
    """Return the kernels to measure, each once, in a fixed order.

    For each family of kernels that a candidate between `narrowest` and `dense` can run into: a full grid over
    its padded input and output channels. Operators of one family share one grid.

    Args:
        dense: the model as it is.
        narrowest: the same in the candidate that keeps the least.
        points: counts along each axis, two or more; by default as many as the runtime needs.
        shorter: what candidates leave that drop whole blocks. Its operators have other neighbours, so what
            runs in one kernel, and in which layout, may be another.
    """
    points = points or runtime.points
    reached = _Reached(runtime)
    for each in ((dense, narrowest), *shorter):
        reached.walk(*each)
    reachable: dict[OpSpec, set[tuple[int, int]]] = defaultdict(set)
    for kernel in reached.kernels:
        reachable[kernel.family].add((kernel.in_channels, kernel.out_channels))
    families = sorted(reachable.items())
    return [kernel for family, channels in families for kernel in grid(family, channels, points)]


class _Reached:
    """Every kernel of a candidate, reorders included: from each layout that each tensor may lie in.

    Networks that have much in common take little more than one.
    """

    def __init__(self, runtime: Lowering) -> None:
        self.kernels: set[OpSpec] = set()
        self._runtime = runtime
        self._ways: dict[tuple[OpSpec, OpSpec, frozenset[str]], set[Lowered]] = {}
        self._reordered: set[tuple[int, int, Size, str]] = set()

    def walk(self, dense: OpGraph, narrowest: OpGraph) -> None:
        lies: dict[int, set[str]] = {INPUT: {PLAIN}}
        wanted: dict[int, set[str]] = defaultdict(set)
        pairs = zip(dense.operators, narrowest.operators, strict=True)
        for position, (widest, thinnest) in enumerate(pairs):
            layouts = _together([lies[source] for source in dense.joined(position)], self._runtime)
            ways = self._outlines(widest, thinnest, frozenset(layouts))
            lies[position] = {way.writes for way in ways}
            for source in dense.own(position):
                wanted[source] |= {way.reads for way in ways}
            for source in dense.joined(position):
                wanted[source] |= {way.joins for way in ways}
            for source in dense.sources[position]:
                self._reorder(dense, narrowest, source, position, lies[source], wanted[source])
        for source in set(dense.outputs) - {INPUT}:
            self._reorder(dense, narrowest, source, source, lies[source], {PLAIN})

    def _outlines(self, widest: OpSpec, thinnest: OpSpec, layouts: frozenset[str]) -> set[Lowered]:
        key = widest, thinnest, layouts
        if key not in self._ways:
            self._ways[key] = {
                way for layout in layouts for way in _outline(widest, thinnest, layout, self._runtime)
            }
            self.kernels.update(kernel for way in self._ways[key] for kernel in way.kernels)
        return self._ways[key]

    def _reorder(
        self,
        dense: OpGraph,
        narrowest: OpGraph,
        source: int,
        reader: int,
        lies: set[str],
        wanted: set[str],
    ) -> None:
        most, size = shape_of(dense, source, dense.operators[reader])
        least, _ = shape_of(narrowest, source, narrowest.operators[reader])
        for layout in wanted:
            key = least, most, size, layout
            if key not in self._reordered and any((layout == PLAIN) != (own == PLAIN) for own in lies):
                self._reordered.add(key)
                counts = range(least, most + 1)
                self.kernels.update(self._runtime.reorder(channels, size, layout) for channels in counts)


def _together(layouts: list[set[str]], runtime: Lowering) -> set[str]:
    """The layouts that tensors may count as together, each lying in one of its own."""
    if not layouts:
        return {PLAIN}
    order = runtime.layouts.index
    most = min((max(own, key=order) for own in layouts), key=order)
    return {layout for own in layouts for layout in own if order(layout) <= order(most)}


def _outline(widest: OpSpec, thinnest: OpSpec, layout: str, runtime: Lowering) -> Iterator[Lowered]:
    """Lower along either axis from the widest on, and along both from each kernel that this leads to.

    That finds every kernel and every padded count on either axis without walking their whole product. Of a
    grouped layer the product is walked, in whole groups: both axes together may choose its kernel.
    """
    step = max(1, widest.groups)
    ins = range(thinnest.in_channels, widest.in_channels + 1, step)
    outs = range(thinnest.out_channels, widest.out_channels + 1, step)
    if widest.square:
        yield from (runtime.lower(widest.with_channels(channels, channels), layout) for channels in outs)
        return
    walks: list[tuple[Sequence[int], Sequence[int]]] = [(ins, outs if step > 1 else outs[-1:])]
    known: set[OpSpec] = set()
    for channels in walks:  # which grows on the way
        for in_channels, out_channels in product(*channels):
            lowered = runtime.lower(widest.with_channels(in_channels, out_channels), layout)
            yield lowered
            family = lowered.kernels[0].family
            if family not in known:
                known.add(family)
                walks += [(ins, [out_channels]), ([in_channels], outs)]


def grid(family: OpSpec, channels: set[tuple[int, int]], points: int) -> Iterable[OpSpec]:
    """The product of both axes, or the diagonal for a kernel that has as many outputs as inputs."""
    outs = thin({outputs for _, outputs in channels}, points)
    if all(inputs == outputs for inputs, outputs in channels):
        return [family.with_channels(count, count) for count in outs]
    ins = thin({inputs for inputs, _ in channels}, points)
    return [family.with_channels(inputs, outputs) for inputs in ins for outputs in outs]


def thin(counts: set[int], points: int) -> list[int]:
    """At most so many of the counts, evenly spread, the least and the largest among them."""
    ordered = sorted(counts)
    if len(ordered) <= points:
        return ordered
    last = points - 1
    return [ordered[round(step * (len(ordered) - 1) / last)] for step in range(points)]
