"""Which operators to measure so that a table can score every candidate of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from hwprofiles.ops import OpSpec
from hwprofiles.runtimes import Runtime

POINTS_PER_AXIS = 4
"""Counts measured along each channel axis; where there are no more than that, every count is."""


def plan(dense: Sequence[OpSpec], narrowest: Sequence[OpSpec], runtime: Runtime) -> list[OpSpec]:
    """Return the canonical operators to measure, each once, in a fixed order.

    For each family of kernels that a candidate between `narrowest` and `dense` can run into: a full grid over
    its padded input and output channels. Operators of one family share one grid.

    Args:
        dense: the model's operators as they are.
        narrowest: the same operators, in the same order, in the candidate that keeps the least.
    """
    reachable: dict[OpSpec, set[tuple[int, int]]] = defaultdict(set)
    for widest, thinnest in zip(dense, narrowest, strict=True):
        for spec in _outline(widest, thinnest, runtime):
            reachable[spec.family].add((spec.in_channels, spec.out_channels))
    return [spec for family, channels in sorted(reachable.items()) for spec in _grid(family, channels)]


def _outline(widest: OpSpec, thinnest: OpSpec, runtime: Runtime) -> Iterable[OpSpec]:
    """Lower every input count, and every output count for each kernel that an input count leads to.

    That finds every kernel and every padded count on either axis without walking their whole product.
    """
    leads_to: dict[OpSpec, int] = {}
    for in_channels in range(thinnest.in_channels, widest.in_channels + 1):
        lowered = runtime.canon(widest.with_channels(in_channels, widest.out_channels))
        leads_to[lowered.family] = in_channels
        yield lowered
    for in_channels in leads_to.values():
        for out_channels in range(thinnest.out_channels, widest.out_channels + 1):
            yield runtime.canon(widest.with_channels(in_channels, out_channels))


def _grid(family: OpSpec, channels: set[tuple[int, int]]) -> Iterable[OpSpec]:
    """The product of both axes, or the diagonal for a kernel that has as many outputs as inputs."""
    outs = _thin({outputs for _, outputs in channels})
    if all(inputs == outputs for inputs, outputs in channels):
        return [family.with_channels(count, count) for count in outs]
    ins = _thin({inputs for inputs, _ in channels})
    return [family.with_channels(inputs, outputs) for inputs in ins for outputs in outs]


def _thin(counts: set[int]) -> list[int]:
    """At most `POINTS_PER_AXIS` of the counts, evenly spread, the least and the largest among them."""
    ordered = sorted(counts)
    if len(ordered) <= POINTS_PER_AXIS:
        return ordered
    last = POINTS_PER_AXIS - 1
    return [ordered[round(step * (len(ordered) - 1) / last)] for step in range(POINTS_PER_AXIS)]
