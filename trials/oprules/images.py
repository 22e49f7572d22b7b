"""Ops on maps and sequences that mix no channels: pooling, resizing, shuffles."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hwprofiles.errors import BundleError
from hwprofiles.ops import OpSpec
from trials.oprules.rule import Call, Rule, Traced, moving, numbers, pair

Size = tuple[int, ...]
Window = tuple[Size, Size, Size, Size]
"""(kernel, stride, padding, out size), each with a number for every axis of places."""


class Pool(Rule):
    """Max and average pooling over windows: units pass through."""

    def __init__(self, kind: str, axes: int) -> None:
        """`axes` of places: 2 over maps, 1 over sequences."""
        self.kind, self.axes = f"{kind}_pool{axes}d", axes

    def trace(self, call: Call) -> Traced:
        x = call.labels("self")
        if x.ndim != 2 + self.axes:
            raise BundleError(f"pool {call.node.name!r} reads a value of {x.ndim} axes, not {2 + self.axes}")
        call.along(x, 1, "pool")
        first = x[(slice(None), slice(None), *(slice(0, 1) for _ in range(self.axes)))]
        return np.broadcast_to(first, (*x.shape[:2], *self.window(call)[3]))

    def window(self, call: Call) -> Window:
        node, axes = call.node, self.axes
        kernel, padding = numbers(node["kernel_size"], axes), numbers(node["padding"], axes, lowest=0)
        stride = numbers(node["stride"], axes) if node["stride"] else kernel
        dilation = numbers(node.args.get("dilation", 1), axes)
        each = zip(call.labels("self").shape[2:], kernel, stride, padding, dilation, strict=True)
        return kernel, stride, padding, tuple(_windows(*one, up=node["ceil_mode"] is True) for one in each)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        kernel, stride, padding, out = self.window(call)
        return pool(self.kind, call.labels("self").shape, out, kernel, stride, padding)


class AdaptivePool(Pool):
    """Pooling to a given size: units pass through. Its window is the largest that it uses."""

    def window(self, call: Call) -> Window:
        size, wanted = call.labels("self").shape[2:], call.node["output_size"]
        filled = tuple(s if w is None else w for s, w in zip(size, wanted, strict=True))
        made = numbers(filled, self.axes)
        kernel = tuple(-(-s // m) for s, m in zip(size, made, strict=True))
        stride = tuple(s // m for s, m in zip(size, made, strict=True))
        return kernel, stride, (0,) * self.axes, made

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        spec = super().operator(call, result)
        assert spec is not None
        # An average over everything is what a mean is, and exporters write it as one.
        return replace(spec, kind="mean2d") if spec.kind == "avg_pool2d" and spec.out_size == (1, 1) else spec


class AdaptiveMaxPool(AdaptivePool):
    """The largest elements and where they were: units pass through."""

    def trace(self, call: Call) -> Traced:
        pooled = super().trace(call)
        assert isinstance(pooled, np.ndarray)
        return pooled, pooled


class Resize2d(Rule):
    """Interpolation between the pixels of each channel, to a size or by a factor: units pass through."""

    def __init__(self, how: str) -> None:
        self.how = how

    def trace(self, call: Call) -> Traced:
        x = call.labels("input")
        if x.ndim != 4:
            raise BundleError(f"resize {call.node.name!r} reads a value of {x.ndim} axes, not 4")
        call.along(x, 1, "resize")
        return np.broadcast_to(x[:, :, :1, :1], (*x.shape[:2], *self.out_size(call)))

    @staticmethod
    def out_size(call: Call) -> tuple[int, int]:
        size, factors = call.node["output_size"], call.node["scale_factors"]
        if size is not None:
            return pair(size)
        height, width = call.labels("input").shape[2:]
        return pair((math.floor(height * factors[0]), math.floor(width * factors[1])))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x = call.labels("input").shape
        return OpSpec(
            kind="resize2d",
            in_channels=x[1],
            out_channels=x[1],
            in_size=x[2:],
            out_size=self.out_size(call),
            fused=(self.how,),
        )


class PixelShuffle(Rule):
    """r x r channels in a row make one of r x r times the pixels, and go together."""

    def trace(self, call: Call) -> Traced:
        x, factor = call.labels("self"), call.node["upscale_factor"]
        if x.ndim != 4 or type(factor) is not int or factor < 1 or x.shape[1] % factor**2:
            raise BundleError(f"node {call.node.name!r} shuffles {x.shape} by {str(factor)[:20]}")
        count = x.shape[1] // factor**2
        parts = call.along(x, 1, "pixel shuffle").reshape(count, factor**2)
        made = np.broadcast_to(call.units.tie(parts, 1)[:, 0], (count,))
        shape = (x.shape[0], count, x.shape[2] * factor, x.shape[3] * factor)
        return np.broadcast_to(made[None, :, None, None], shape)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "pixel_shuffle")


class PixelUnshuffle(Rule):
    """Every channel makes r x r in a row, which go with it."""

    def trace(self, call: Call) -> Traced:
        x, factor = call.labels("self"), call.node["downscale_factor"]
        if x.ndim != 4 or type(factor) is not int or factor < 1 or x.shape[2] % factor or x.shape[3] % factor:
            raise BundleError(f"node {call.node.name!r} shuffles {x.shape} by {str(factor)[:20]}")
        call.units.charge(x.shape[1] * factor**2)
        made = np.repeat(call.along(x, 1, "pixel shuffle"), factor**2)
        shape = (x.shape[0], len(made), x.shape[2] // factor, x.shape[3] // factor)
        return np.broadcast_to(made[None, :, None, None], shape)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "pixel_shuffle")


class ChannelShuffle(Rule):
    """The channels of every part of several take turns; those at the same place of each part go together."""

    def trace(self, call: Call) -> Traced:
        x, parts = call.labels("self"), call.node["groups"]
        if x.ndim < 3 or type(parts) is not int or parts < 1 or x.shape[1] % parts:
            raise BundleError(f"node {call.node.name!r} shuffles {x.shape} by {str(parts)[:20]}")
        call.units.charge(x.shape[1])
        channels = call.along(x, 1, "channel shuffle").reshape(parts, -1)
        call.units.tie(channels, 0)
        return np.broadcast_to(channels.T.reshape(-1, *(1,) * (x.ndim - 2)), x.shape)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "channel_shuffle")


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, *, up: bool) -> int:
    """How many windows fit along one axis, counting a last partial one if `up`."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not up:
        return span // stride + 1
    count = -(-span // stride) + 1
    # The last window must start inside the input or its left padding, as in PyTorch.
    return count - 1 if (count - 1) * stride >= size + padding else count


def pool(
    kind: str,
    shape: tuple[int, ...],
    out: Size,
    kernel: Size,
    stride: Size,
    padding: Size = (0, 0),
) -> OpSpec:
    return OpSpec(
        kind=kind,
        in_channels=shape[1],
        out_channels=shape[1],
        in_size=shape[2:],
        out_size=out,
        kernel=kernel,
        stride=stride,
        padding=(*padding, *padding),
    )
