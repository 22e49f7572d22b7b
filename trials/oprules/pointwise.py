"""Functions of one element, norms and reductions: units pass through, per-unit tensors ride along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from hwprofiles.errors import BundleError, UnsupportedOpError
from hwprofiles.ops import OpSpec
from trials.graph import Node, Tensor, Value
from trials.labels import BESIDE_BLANKS, LabelArray, blank, compact, varying
from trials.oprules.rule import Call, Rule, Traced, moving, pair, plain


class Elementwise(Rule):
    """Any function of the elements at one place, with broadcasting; parameters among them ride along."""

    def trace(self, call: Call) -> Traced:
        values = [leaf for leaf in call.node.leaves() if isinstance(leaf, Value)]
        reason = f"{call.node.name} combines them with a value that cannot shrink"
        result = call.of(values[0]) if values else blank(())
        for value in values[1:]:
            result = call.units.meet(result, call.of(value), reason)
        for argument, arg in call.node.args.items():
            if isinstance(arg, Tensor):
                result = self._ride(call, argument, result)
        return result

    def _ride(self, call: Call, argument: str, labels: LabelArray) -> LabelArray:
        shape = call.spec(argument).shape
        full = np.broadcast_to(labels, np.broadcast_shapes(labels.shape, shape))
        offset = full.ndim - len(shape)
        shared = [axis for axis in varying(full) if axis >= offset and shape[axis - offset] > 1]
        if len(shared) > 1:
            blanks = bool((compact(labels) == 0).any())
            reason = f"{call.node[argument].name} differs along several of their axes"
            call.fix(full, BESIDE_BLANKS if blanks else reason)
        elif shared:
            call.bind(argument, shared[0] - offset, call.along(full, shared[0], "parameter of"), "along")
        return full

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "elementwise", call.node.op.split(".")[1])


class Free(Elementwise):
    """Elementwise, and nothing that a deployed model runs (dropout, clone, contiguous)."""

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return None


class Filled(Rule):
    """A value of one number in the shape of another."""

    def trace(self, call: Call) -> Traced:
        return blank(call.labels("self").shape)


class BatchNorm(Rule):
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


class Statistics(Rule):
    """Layer norm, group norm, softmax: units along the axes that it reduces over cannot go."""

    def __init__(self, kind: str, argument: str, axes: Callable[[Node, int], Iterable[int]]) -> None:
        self.kind, self.argument, self.axes = kind, argument, axes

    def trace(self, call: Call) -> Traced:
        x = call.labels(self.argument)
        if set(varying(x)) & {normalize_axis_index(axis, x.ndim) for axis in self.axes(call.node, x.ndim)}:
            kind = self.kind.replace("_", " ")
            call.fix(x, f"{kind} {call.node.place} takes its statistics over all of them")
        return x

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, self.kind)


class Reduce(Rule):
    """Mean or sum over axes; units along them cannot go."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def trace(self, call: Call) -> Traced:
        x, wanted = call.labels("self"), plain(call.node["dim"])
        dims = wanted if isinstance(wanted, tuple) and wanted else range(x.ndim)
        axes = {normalize_axis_index(axis, x.ndim) for axis in dims}
        if set(varying(x)) & axes:
            call.fix(x, f"{call.node.name} takes the {self.kind} over them")
        keep = call.node["keepdim"] is True
        index = tuple((slice(0, 1) if keep else 0) if axis in axes else slice(None) for axis in range(x.ndim))
        return np.asarray(x[index])

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x = call.labels("self").shape
        if len(x) == 4 and isinstance(result, np.ndarray) and result.shape[:2] == x[:2]:
            return _pool("mean2d", x, (1, 1), kernel=x[2:], stride=x[2:])
        return moving(call, result, "elementwise", self.kind)


Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
"""(kernel, stride, padding, out size), each (height, width)."""


class Pool2d(Rule):
    """Max and average pooling over windows."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def trace(self, call: Call) -> Traced:
        x = call.labels("self")
        if x.ndim != 4:
            raise BundleError(f"pool {call.node.name!r} reads a value of {x.ndim} axes, not 4")
        call.along(x, 1, "pool")
        return np.broadcast_to(x[:, :, :1, :1], (*x.shape[:2], *self.window(call)[3]))

    def window(self, call: Call) -> Window:
        size = call.labels("self").shape[2:]
        kernel, padding = pair(call.node["kernel_size"]), pair(call.node["padding"], lowest=0)
        stride = pair(call.node["stride"]) if call.node["stride"] else kernel
        dilation = pair(call.node.args.get("dilation", 1))
        up = call.node["ceil_mode"] is True
        height, width = (
            _windows(size[d], kernel[d], stride[d], padding[d], dilation[d], up=up) for d in (0, 1)
        )
        return kernel, stride, padding, (height, width)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        kernel, stride, padding, out = self.window(call)
        return _pool(self.kind, call.labels("self").shape, out, kernel, stride, padding)


class AdaptivePool2d(Pool2d):
    """Pooling to a given size; the window is the largest that it uses."""

    def window(self, call: Call) -> Window:
        size, wanted = call.labels("self").shape[2:], call.node["output_size"]
        height, width = pair(tuple(s if w is None else w for s, w in zip(size, wanted, strict=True)))
        kernel = (-(-size[0] // height), -(-size[1] // width))
        return kernel, (size[0] // height, size[1] // width), (0, 0), (height, width)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        spec = super().operator(call, result)
        assert spec is not None
        # An average over everything is what a mean is, and exporters write it as one.
        return replace(spec, kind="mean2d") if spec.kind == "avg_pool2d" and spec.out_size == (1, 1) else spec


class AdaptiveMaxPool2d(AdaptivePool2d):
    """Returns the largest elements and where they were."""

    def trace(self, call: Call) -> Traced:
        pooled = super().trace(call)
        assert isinstance(pooled, np.ndarray)
        return pooled, pooled


class Resize2d(Rule):
    """Interpolation between the pixels of each channel, to a size or by a factor."""

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


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, *, up: bool) -> int:
    """How many windows fit along one axis, counting a last partial one if `up`."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not up:
        return span // stride + 1
    count = -(-span // stride) + 1
    # The last window must start inside the input or its left padding, as in PyTorch.
    return count - 1 if (count - 1) * stride >= size + padding else count


def _pool(
    kind: str,
    shape: tuple[int, ...],
    out: tuple[int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, int] = (0, 0),
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
