"""Layers: they consume the units of their input and make new ones."""

from __future__ import annotations

import math

import numpy as np

from hwprofiles.errors import BundleError
from hwprofiles.ops import OpSpec
from trials.graph import Node
from trials.labels import LabelArray
from trials.oprules.rule import Call, Rule, Sizes, Traced, moving, pair, with_args


class Conv2d(Rule):
    """Convolution over (batch, channels, height, width). Its outputs are units, and so is each of its inputs.

    With groups, the units at the same place of every group go together, on either side; where a group is one
    channel (depthwise), a unit passes through.
    """

    def trace(self, call: Call) -> Traced:
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        if x.ndim != 4 or len(weight) != 4 or type(groups) is not int or groups < 1 or weight[0] % groups:
            raise BundleError(f"convolution {call.node.name!r} is not two-dimensional and batched")
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
        return np.broadcast_to(made[None, :, None, None], (x.shape[0], len(made), *self.out_size(call)))

    @staticmethod
    def depthwise(weight: tuple[int, ...], groups: int) -> bool:
        """Whether each group is a single channel."""
        return groups > 1 and weight[1] == 1

    def padding(self, call: Call) -> tuple[int, int, int, int]:
        """(top, left, bottom, right)."""
        padding, kernel = call.node["padding"], call.spec("weight").shape[2:]
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding == "same":
            dilation = pair(call.node["dilation"])
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            return (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
        top, left = pair(padding, lowest=0)
        return (top, left, top, left)

    def out_size(self, call: Call) -> tuple[int, int]:
        x, kernel = call.labels("input").shape, call.spec("weight").shape[2:]
        stride, dilation, pad = pair(call.node["stride"]), pair(call.node["dilation"]), self.padding(call)
        height, width = (
            (x[2 + d] + pad[d] + pad[d + 2] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
            for d in (0, 1)
        )
        return height, width

    def resize(self, node: Node, sizes: Sizes) -> Node:
        """A depthwise convolution has as many groups as channels; no other number of groups changes."""
        if node["groups"] == 1:
            return node
        kept = sizes.mask(node["input"], 1)
        return with_args(node, groups=int(kept.sum())) if node["groups"] == len(kept) else node

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x, weight, groups = call.labels("input").shape, call.spec("weight").shape, call.node["groups"]
        depthwise = self.depthwise(weight, groups)
        return OpSpec(
            kind="depthwise_conv2d" if depthwise else "conv2d",
            in_channels=x[1],
            out_channels=weight[0],
            in_size=x[2:],
            out_size=self.out_size(call),
            kernel=weight[2:],
            stride=pair(call.node["stride"]),
            padding=self.padding(call),
            dilation=pair(call.node["dilation"]),
            groups=0 if depthwise else groups,
        )


class ConvTranspose2d(Rule):
    """Transposed convolution over (batch, channels, height, width), with a weight (in, out, …).

    With groups, the units at the same place of every group go together, on either side.
    """

    def trace(self, call: Call) -> Traced:
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        if x.ndim != 4 or len(weight) != 4 or type(groups) is not int or groups < 1 or weight[0] % groups:
            raise BundleError(f"transposed convolution {call.node.name!r} is not two-dimensional and batched")
        if weight[0] != x.shape[1]:
            raise BundleError(
                f"transposed convolution {call.node.name!r} reads {x.shape[1]} channels, not {weight[0]}"
            )
        channels = call.along(x, 1, "transposed convolution")
        _of_each_group(call, channels, groups)
        call.bind("weight", 0, channels, "in")
        call.units.charge(weight[1] * groups)
        own = call.units.new(weight[1])
        call.bind("weight", 1, own, "out")
        made = np.tile(own, groups)
        call.ride("bias", made)
        return np.broadcast_to(made[None, :, None, None], (x.shape[0], len(made), *self.out_size(call)))

    @staticmethod
    def out_size(call: Call) -> tuple[int, int]:
        x, kernel = call.labels("input").shape, call.spec("weight").shape[2:]
        stride, dilation = pair(call.node["stride"]), pair(call.node["dilation"])
        padding, beyond = pair(call.node["padding"], lowest=0), pair(call.node["output_padding"], lowest=0)
        height, width = (
            (x[2 + d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 - 2 * padding[d] + beyond[d]
            for d in (0, 1)
        )
        return height, width

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x, weight, groups = call.labels("input").shape, call.spec("weight").shape, call.node["groups"]
        top, left = pair(call.node["padding"], lowest=0)
        return OpSpec(
            kind="conv_transpose2d",
            in_channels=x[1],
            out_channels=weight[1] * groups,
            in_size=x[2:],
            out_size=self.out_size(call),
            kernel=weight[2:],
            stride=pair(call.node["stride"]),
            padding=(top, left, top, left),
            dilation=pair(call.node["dilation"]),
            groups=groups,
        )


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
