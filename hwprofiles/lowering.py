"""A network as a runtime runs it: every operator's kernels, and what brings tensors into other layouts."""

from __future__ import annotations

from hwprofiles.ops import INPUT, PRODUCTS, OpGraph, OpSpec
from hwprofiles.runtimes.protocol import PLAIN, Lowering


def lower(graph: OpGraph, rules: Lowering) -> list[tuple[OpSpec, ...]]:
    """Return the kernels of each operator in running order, and last those that the network's outputs need.

    A tensor that is wanted in another layout than it lies in is reordered once, before its first such reader.

    Raises:
        UnsupportedOpError: there is no rule for an operator.
    """
    lies = {INPUT: PLAIN}
    at_hand: set[tuple[int, str]] = set()
    found: list[tuple[OpSpec, ...]] = []

    def bring(source: int, layout: str, reader: OpSpec) -> list[OpSpec]:
        if (lies[source] == PLAIN) == (layout == PLAIN) or (source, layout) in at_hand:
            return []
        at_hand.add((source, layout))
        return [rules.reorder(*shape_of(graph, source, reader), layout)]

    for position, spec in enumerate(graph.operators):
        joined = [lies[source] for source in graph.joined(position)]
        lowered = rules.lower(spec, min(joined, key=rules.layouts.index, default=PLAIN))
        kernels: list[OpSpec] = []
        for source in graph.own(position):
            kernels += bring(source, lowered.reads, spec)
        for source in graph.joined(position):
            kernels += bring(source, lowered.joins, spec)
        lies[position] = lowered.writes
        found.append((*kernels, *lowered.kernels))
    leaving = [bring(source, PLAIN, graph.operators[source]) for source in graph.outputs if source != INPUT]
    return [*found, tuple(kernel for kernels in leaving for kernel in kernels)]


def shape_of(graph: OpGraph, source: int, reader: OpSpec) -> tuple[int, tuple[int, ...]]:
    """Channels and size of what an operator reads from `source`."""
    if told_by_reader(graph, source):
        return reader.in_channels, reader.in_size
    made = graph.operators[source]
    return made.out_channels, made.result_size


def told_by_reader(graph: OpGraph, source: int) -> bool:
    """Whether only those who read `source` say how many channels it has."""
    return source == INPUT or graph.operators[source].kind in PRODUCTS
