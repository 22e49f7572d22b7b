"""Which kernels to measure so that a table can score every candidate of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from hwprofiles.lowering import shape_of
from hwprofiles.ops import INPUT, OpGraph, OpSpec
from hwprofiles.runtimes import PLAIN, Lowered, Lowering


def plan(dense: OpGraph, narrowest: OpGraph, runtime: Lowering, points: int | None = None) -> list[OpSpec]:
    """Return the kernels to measure, each once, in a fixed order.

    For each family of kernels that a candidate between `narrowest` and `dense` can run into: a full grid over
    its padded input and output channels. Operators of one family share one grid.

    Args:
        dense: the model as it is.
        narrowest: the same in the candidate that keeps the least.
        points: counts along each axis, two or more; by default as many as the runtime needs.
    """
    points = points or runtime.points
    reachable: dict[OpSpec, set[tuple[int, int]]] = defaultdict(set)
    for kernel in _reachable(dense, narrowest, runtime):
        reachable[kernel.family].add((kernel.in_channels, kernel.out_channels))
    families = sorted(reachable.items())
    return [kernel for family, channels in families for kernel in grid(family, channels, points)]


def _reachable(dense: OpGraph, narrowest: OpGraph, runtime: Lowering) -> Iterator[OpSpec]:
    """Every kernel of a candidate, reorders included: from each layout that each tensor may lie in."""
    lies: dict[int, set[str]] = {INPUT: {PLAIN}}
    wanted: dict[int, set[str]] = defaultdict(set)
    pairs = zip(dense.operators, narrowest.operators, strict=True)
    for position, (widest, thinnest) in enumerate(pairs):
        joined = [lies[source] for source in dense.joined(position)]
        ways = {
            way
            for layout in _together(joined, runtime)
            for way in _outline(widest, thinnest, layout, runtime)
        }
        yield from (kernel for way in ways for kernel in way.kernels)
        lies[position] = {way.writes for way in ways}
        for source in dense.own(position):
            wanted[source] |= {way.reads for way in ways}
        for source in dense.joined(position):
            wanted[source] |= {way.joins for way in ways}
        for source in dense.sources[position]:
            yield from _reorders(dense, narrowest, source, position, lies[source], wanted[source], runtime)
    for source in set(dense.outputs) - {INPUT}:
        yield from _reorders(dense, narrowest, source, source, lies[source], {PLAIN}, runtime)


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


def _reorders(
    dense: OpGraph,
    narrowest: OpGraph,
    source: int,
    reader: int,
    lies: set[str],
    wanted: set[str],
    runtime: Lowering,
) -> Iterator[OpSpec]:
    most, size = shape_of(dense, source, dense.operators[reader])
    least, _ = shape_of(narrowest, source, narrowest.operators[reader])
    for layout in wanted:
        if any((layout == PLAIN) != (own == PLAIN) for own in lies):
            yield from (runtime.reorder(channels, size, layout) for channels in range(least, most + 1))


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
