"""Ops that consume the units of their input and make new ones, or multiply two values."""

from __future__ import annotations

import math

import numpy as np

from hwprofiles.errors import BundleError
from hwprofiles.ops import OpSpec
from trials.graph import Node, Tensor, Value
from trials.labels import LabelArray, blank
from trials.oprules.rule import Call, Rule, Sizes, Traced, moving, pair, with_args


class Conv2d(Rule):
    """Convolution over (batch, channels, height, width)."""

    def trace(self, call: Call) -> Traced:
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        if x.ndim != 4 or len(weight) != 4 or type(groups) is not int or groups < 1 or weight[0] % groups:
            raise BundleError(f"convolution {call.node.name!r} is not two-dimensional and batched")
        if weight[1] * groups != x.shape[1]:
            raise BundleError(
                f"convolution {call.node.name!r} reads {x.shape[1]} channels, not {weight[1] * groups}"
            )
        channels = call.along(x, 1, "convolution")
        if groups == 1:
            made = call.units.new(weight[0])
            call.bind("weight", 0, made, "out")
            call.bind("weight", 1, channels, "in")
        elif self.depthwise(weight, groups, x.shape[1]):
            made = np.repeat(channels, weight[0] // groups)
            call.bind("weight", 0, made, "along")
        else:
            call.fix(x, f"grouped convolution {call.node.place} ({groups} groups) has no coupling rule yet")
            made = np.zeros(weight[0], dtype=np.int64)
        call.ride("bias", made)
        return np.broadcast_to(made[None, :, None, None], (x.shape[0], len(made), *self.out_size(call)))

    @staticmethod
    def depthwise(weight: tuple[int, ...], groups: int, channels: int) -> bool:
        return groups == channels and weight[1] == 1

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
        if node["groups"] == 1 or not isinstance(node["input"], Value):
            return node
        kept = sizes.mask(node["input"].name, 1)
        return with_args(node, groups=int(kept.sum())) if node["groups"] == len(kept) else node

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x, weight, groups = call.labels("input").shape, call.spec("weight").shape, call.node["groups"]
        depthwise = groups > 1 and self.depthwise(weight, groups, x[1])
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
    """Transposed convolution over (batch, channels, height, width), with a weight (in, out, …)."""

    def trace(self, call: Call) -> Traced:
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        if x.ndim != 4 or len(weight) != 4 or type(groups) is not int or groups < 1 or weight[0] % groups:
            raise BundleError(f"transposed convolution {call.node.name!r} is not two-dimensional and batched")
        if weight[0] != x.shape[1]:
            raise BundleError(
                f"transposed convolution {call.node.name!r} reads {x.shape[1]} channels, not {weight[0]}"
            )
        if groups == 1:
            call.bind("weight", 0, call.along(x, 1, "transposed convolution"), "in")
            made = call.units.new(weight[1])
            call.bind("weight", 1, made, "out")
        else:
            place = call.node.place
            call.fix(x, f"grouped transposed convolution {place} ({groups} groups) has no coupling rule yet")
            made = np.zeros(weight[1] * groups, dtype=np.int64)
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
    """Matrix product over the last axis."""

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
    def trace(self, call: Call) -> Traced:
        index, weight = call.labels("indices"), call.spec("weight").shape
        made = call.units.new(weight[1])
        call.bind("weight", 1, made, "out")
        return np.broadcast_to(made, (*index.shape, weight[1]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "gather")


class Matmul(Rule):
    """Product of two values; `first` and `second` are ATen's names for them."""

    def __init__(self, first: str, second: str) -> None:
        self.first, self.second = first, second

    def trace(self, call: Call) -> Traced:
        return _contract(call, call.labels(self.first), call.labels(self.second))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        a, b = call.labels(self.first).shape, call.labels(self.second).shape
        count = math.prod(a[:-2])
        return OpSpec(
            kind="matmul", in_channels=count, out_channels=count, in_size=a[-2:], out_size=(a[-2], b[-1])
        )


class Attention(Rule):
    """softmax(q k^T) v over (…, heads, tokens, width)."""

    def trace(self, call: Call) -> Traced:
        query, key, value = (call.labels(name) for name in ("query", "key", "value"))
        if call.node["enable_gqa"] is True:
            for labels in (query, key, value):
                call.fix(labels, f"grouped-query attention {call.node.place} has no coupling rule yet")
            return blank((*query.shape[:-1], value.shape[-1]))
        scores = _contract(call, query, np.swapaxes(key, -1, -2))
        if isinstance(call.node["attn_mask"], Value | Tensor):
            reason = f"attention {call.node.place} masks them with a value that cannot shrink"
            scores = call.units.meet(scores, call.labels("attn_mask"), reason)
        return _contract(call, scores, value)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        query, key = call.labels("query").shape, call.labels("key").shape
        channels = math.prod(query[:-2]) * query[-1]
        return OpSpec(
            kind="attention",
            in_channels=channels,
            out_channels=channels,
            kernel=(query[-1],),
            in_size=(query[-2], key[-2]),
        )


def _contract(call: Call, a: LabelArray, b: LabelArray) -> LabelArray:
    """Labels of a batched a @ b: units along the contracted axis become one, units along batch axes meet.

    So the heads of an attention are its units: queries and keys of a head are contracted over its width.
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise BundleError(f"node {call.node.name!r} multiplies shapes {a.shape} and {b.shape}")
    rows, columns = call.units.tie(a, a.ndim - 1), call.units.tie(b, b.ndim - 2)
    rows = np.broadcast_to(rows, (*a.shape[:-1], 1))
    columns = np.broadcast_to(columns, (*b.shape[:-2], 1, b.shape[-1]))
    return call.units.meet(rows, columns, f"{call.node.name} multiplies them with values that cannot shrink")
