"""Layers: they consume the units of their input and make new ones."""

from __future__ import annotations

import math

import numpy as np

from hwprofiles.errors import BundleError
from hwprofiles.ops import OpSpec
from trials.graph import Node
from trials.labels import LabelArray
from trials.oprules.rule import Call, Rule, Sizes, Traced, moving, numbers, with_args


class Convolution(Rule):
    """Convolution over maps or sequences. Its outputs are units, and so is each of its inputs.

    With groups, the units at the same place of every group go together, on either side, and all groups stay,
    as their number tells kernels apart; where a group is one channel (depthwise), a unit passes through.
    """

    def __init__(self, axes: int) -> None:
        """`axes` of places: 2 over maps, 1 over sequences."""
        self.axes = axes

    def trace(self, call: Call) -> Traced:
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        self._check(call, weight[0])
        if weight[1] * groups != x.shape[1]:
            raise BundleError(
                f"convolution {call.node.name!r} reads {x.shape[1]} channels, not {weight[1] * groups}"
            )
        channels = call.along(x, 1, "convolution")
        call.units.charge(weight[0])
        if self.depthwise(weight, groups):
            made = np.repeat(channels, weight[0] // groups)
            call.bind("weight", 0, made, "along")
        else:
            made = np.tile(call.units.new(weight[0] // groups), groups)
            call.bind("weight", 0, made, "out")
            call.bind("weight", 1, _of_each_group(call, channels, groups), "in")
        call.ride("bias", made)
        return self._placed(call, made)

    def _check(self, call: Call, grouped: int) -> None:
        """Of so many channels each group has as many."""
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        rank = 2 + self.axes
        if x.ndim != rank or len(weight) != rank or type(groups) is not int or groups < 1 or grouped % groups:
            raise BundleError(
                f"convolution {call.node.name!r} is not {self.axes}-dimensional and batched, in whole groups"
            )

    def _placed(self, call: Call, made: LabelArray) -> LabelArray:
        """The result's labels, of its channels' labels."""
        wide = made.reshape(1, -1, *(1,) * self.axes)
        return np.broadcast_to(wide, (call.labels("input").shape[0], len(made), *self.out_size(call)))

    @staticmethod
    def depthwise(weight: tuple[int, ...], groups: int) -> bool:
        """Whether each group is a single channel."""
        return groups > 1 and weight[1] == 1

    def padding(self, call: Call) -> tuple[int, ...]:
        """Before each axis, such as (top, left, …), and then behind each."""
        padding, kernel = call.node["padding"], call.spec("weight").shape[2:]
        if padding == "valid":
            return (0, 0) * self.axes
        if padding == "same":
            dilation = numbers(call.node["dilation"], self.axes)
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            return (*(both // 2 for both in total), *(both - both // 2 for both in total))
        return numbers(padding, self.axes, lowest=0) * 2

    def out_size(self, call: Call) -> tuple[int, ...]:
        x, kernel = call.labels("input").shape, call.spec("weight").shape[2:]
        stride, dilation = (numbers(call.node[name], self.axes) for name in ("stride", "dilation"))
        pad = self.padding(call)
        return tuple(
            (x[2 + d] + pad[d] + pad[d + self.axes] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
            for d in range(self.axes)
        )

    def resize(self, node: Node, sizes: Sizes) -> Node:
        """A depthwise convolution has as many groups as channels; no other number of groups changes."""
        if node["groups"] == 1:
            return node
        kept = sizes.mask(node["input"], 1)
        return with_args(node, groups=int(kept.sum())) if node["groups"] == len(kept) else node

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        weight, groups = call.spec("weight").shape, call.node["groups"]
        depthwise, kind = self.depthwise(weight, groups), f"conv{self.axes}d"
        return self._spec(
            call, f"depthwise_{kind}" if depthwise else kind, weight[0], 0 if depthwise else groups
        )

    def _spec(self, call: Call, kind: str, made: int, groups: int) -> OpSpec:
        x = call.labels("input").shape
        return OpSpec(
            kind=kind,
            in_channels=x[1],
            out_channels=made,
            in_size=x[2:],
            out_size=self.out_size(call),
            kernel=call.spec("weight").shape[2:],
            stride=numbers(call.node["stride"], self.axes),
            padding=self.padding(call),
            dilation=numbers(call.node["dilation"], self.axes),
            groups=groups,
        )


class TransposedConvolution(Convolution):
    """Transposed convolution, with a weight (in, out, …); with groups, units go as in a plain one."""

    def trace(self, call: Call) -> Traced:
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        self._check(call, weight[0])
        if weight[0] != x.shape[1]:
            raise BundleError(
                f"transposed convolution {call.node.name!r} reads {x.shape[1]} channels, not {weight[0]}"
            )
        channels = call.along(x, 1, "transposed convolution")
        call.units.charge(weight[1] * groups)
        if self.depthwise(weight, groups):
            made = np.repeat(channels, weight[1])
            call.bind("weight", 0, channels, "along")
        else:
            _of_each_group(call, channels, groups)
            call.bind("weight", 0, channels, "in")
            own = call.units.new(weight[1])
            call.bind("weight", 1, own, "out")
            made = np.tile(own, groups)
        call.ride("bias", made)
        return self._placed(call, made)

    @staticmethod
    def depthwise(weight: tuple[int, ...], groups: int) -> bool:
        return groups > 1 and weight[0] == groups

    def out_size(self, call: Call) -> tuple[int, ...]:
        x, kernel = call.labels("input").shape, call.spec("weight").shape[2:]
        stride, dilation = (numbers(call.node[name], self.axes) for name in ("stride", "dilation"))
        beyond = numbers(call.node["output_padding"], self.axes, lowest=0)
        pad = self.padding(call)
        return tuple(
            (x[2 + d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 - 2 * pad[d] + beyond[d]
            for d in range(self.axes)
        )

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        weight, groups = call.spec("weight").shape, call.node["groups"]
        depthwise, kind = self.depthwise(weight, groups), f"conv_transpose{self.axes}d"
        kind = f"depthwise_{kind}" if depthwise else kind
        return self._spec(call, kind, weight[1] * groups, 0 if depthwise else groups)


class Linear(Rule):
    """Product with a weight over the last axis: its outputs are units, and so is each of its inputs."""

    def trace(self, call: Call) -> Traced:
        x, weight = call.labels("input"), call.spec("weight").shape
        if len(weight) != 2 or x.shape[-1] != weight[1]:
            raise BundleError(f"linear {call.node.name!r} reads {x.shape[-1:]} features, not {weight[1:]}")
        made = call.units.new(weight[0])
        call.bind("weight", 0, made, "out")
        call.bind("weight", 1, call.along(x, -1, "linear"), "in")
        call.ride("bias", made)
        return np.broadcast_to(made, (*x.shape[:-1], weight[0]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        shape, weight = call.labels("input").shape, call.spec("weight").shape
        return OpSpec(
            kind="linear", in_channels=weight[1], out_channels=weight[0], in_size=(math.prod(shape[:-1]),)
        )


class Embedding(Rule):
    """Rows of a table: what they hold are units, and the table keeps all of its rows."""

    def trace(self, call: Call) -> Traced:
        index, weight = call.labels("indices"), call.spec("weight").shape
        made = call.units.new(weight[1])
        call.bind("weight", 1, made, "out")
        return np.broadcast_to(made, (*index.shape, weight[1]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "gather")


def _of_each_group(call: Call, channels: LabelArray, groups: int) -> LabelArray:
    """(channels / groups,) the units of one group, joined with those at the same place of all others.

    A weight has one axis for the places in all groups, so that each of them loses the same ones.
    """
    size = len(channels) // groups
    return np.broadcast_to(call.units.tie(channels.reshape(groups, size), 0)[0], (size,))
