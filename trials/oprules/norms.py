"""Normalisations: what they take statistics over goes together or not at all; per-unit tensors ride along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from hwprofiles.errors import BundleError, UnsupportedOpError
from hwprofiles.ops import OpSpec
from trials.graph import Node, Value
from trials.oprules.rule import Call, Length, Rule, Sizes, Traced, moving, moving_axes, with_args


class BatchNorm(Rule):
    """Scale and shift of each channel by running statistics: its tensors ride along."""

    def trace(self, call: Call) -> Traced:
        x = call.labels("input")
        if call.node["running_mean"] is None or call.node["running_var"] is None:
            raise UnsupportedOpError(
                f"batch norm {call.node.place!r} keeps no running statistics, so it has no eval mode of its "
                "own; make it with track_running_stats=True"
            )
        channels = call.along(x, 1, "batch norm")
        for argument in ("weight", "bias", "running_mean", "running_var"):
            call.ride(argument, channels)
        return x

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "batch_norm")


class GroupNorm(Rule):
    """Statistics over each of several parts of the channels: one goes as a whole; if it is all, it stays."""

    def trace(self, call: Call) -> Traced:
        x, parts = call.labels("input"), call.node["num_groups"]
        if x.ndim < 2 or type(parts) is not int or parts < 1 or x.shape[1] % parts:
            raise BundleError(f"group norm {call.node.name!r} reads {x.shape} in {str(parts)[:20]} parts")
        channels = call.along(x, 1, "group norm")
        reason = f"group norm {call.node.place} takes its statistics over all of them"
        call.tied(channels.reshape(parts, -1), [1], reason)
        call.ride("weight", channels)
        call.ride("bias", channels)
        return x

    def resize(self, node: Node, sizes: Sizes) -> Node:
        kept = sizes.mask(Value(node.name), 1).reshape(node["num_groups"], -1)
        return with_args(node, num_groups=int(kept.any(axis=1).sum()))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        spec = moving(call, result, "group_norm", usual=1)
        return replace(spec, kernel=(spec.in_channels // call.node["num_groups"],))

    def channels(self, call: Call) -> tuple[Sequence[Length], Sequence[Length]] | None:
        return _lengths(call, usual=1)


class InstanceNorm(Rule):
    """Statistics over each channel of each example: units pass through, and its tensors ride along."""

    def trace(self, call: Call) -> Traced:
        x = call.labels("input")
        if call.node["running_mean"] is not None:
            raise UnsupportedOpError(
                f"instance norm {call.node.place!r} keeps running statistics, which nothing here follows; "
                "make it with track_running_stats=False"
            )
        channels = call.along(x, 1, "instance norm")
        call.ride("weight", channels)
        call.ride("bias", channels)
        return x

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "instance_norm", usual=1)

    def channels(self, call: Call) -> tuple[Sequence[Length], Sequence[Length]] | None:
        return _lengths(call, usual=1)


class Statistics(Rule):
    """Softmax: units along the axis that it takes statistics over stay.

    Where they differ along another axis as well, as those of queries do by head, they go together.
    """

    def __init__(self, kind: str, argument: str, axes: Callable[[Node, int], Iterable[int]]) -> None:
        self.kind, self.argument, self.axes = kind, argument, axes

    def trace(self, call: Call) -> Traced:
        x, kind = call.labels(self.argument), self.kind.replace("_", " ")
        reason = f"{kind} {call.node.place} takes its statistics over all of them"
        return call.tied(x, self.axes(call.node, x.ndim), reason)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, self.kind)


class Together(Statistics):
    """Layer norm, RMS norm, sums up to each place: units along the axes that they go over stay.

    Where they differ along another axis as well, as those of queries do by head, they go together.
    """

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        shape = call.labels(self.argument).shape
        axes = [axis % len(shape) for axis in self.axes(call.node, len(shape))]
        spec = moving(call, result, self.kind, usual=-1)
        if moving_axes(call, len(shape), -1) == tuple(axes):
            return spec
        return replace(spec, kernel=(math.prod(shape[axis] for axis in axes),))

    def channels(self, call: Call) -> tuple[Sequence[Length], Sequence[Length]] | None:
        return _lengths(call, usual=-1)


def _lengths(call: Call, usual: int) -> tuple[Sequence[Length], Sequence[Length]]:
    made = Value(call.node.name)
    length = tuple((made, axis) for axis in moving_axes(call, call.of(made).ndim, usual))
    return [length], [length]


def normalised(node: Node, rank: int) -> range:
    """The last axes, as many as the shape that a layer norm is given."""
    return range(rank - len(node["normalized_shape"]), rank)
