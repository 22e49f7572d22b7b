"""An ONNX network as torch functions, on any torch device.

The rules cover what networks are exported to; a test compares them with ONNX Runtime. Whatever of a network
follows from shapes and weights alone is worked out once. Images lie channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from hwprofiles.errors import UnsupportedOpError, nearest

Attributes = Mapping[str, Any]
Constants = Sequence[NDArray[Any] | None]
"""Of a node's inputs: those that are known before it runs."""
Step = Callable[..., Tensor]


class TorchNetwork:
    """An ONNX network on a torch device, with its inputs; `outputs` are those of the latest run.

    Raises:
        UnsupportedOpError: there is no rule for one of its operators.
    """

    def __init__(
        self, model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], place: torch.device
    ) -> None:
        known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._values = {name: _on(place, values) for name, values in {**known, **feeds}.items()}
        self._steps: list[tuple[Step, tuple[str, ...], str]] = []
        self._outputs = [put.name for put in model.graph.output]
        for node in model.graph.node:
            if node.op_type not in RULES:
                raise UnsupportedOpError(
                    f"runtime 'torch' has no rule for the ONNX operator {node.op_type}; "
                    f"{nearest(node.op_type, RULES)}"
                )
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            step = RULES[node.op_type](attributes, [known.get(name) for name in node.input])
            inputs, output = tuple(filter(None, node.input)), node.output[0]
            self._values[output] = step(*(self._values[name] for name in inputs))
            if node.op_type == "Shape" or all(name in known for name in inputs):
                known[output] = self._values[output].cpu().numpy()
            else:
                self._steps.append((step, inputs, output))

    @property
    def outputs(self) -> list[Tensor]:
        return [self._values[name] for name in self._outputs]

    def run(self) -> None:
        for step, inputs, output in self._steps:
            self._values[output] = step(*(self._values[name] for name in inputs))


def _on(place: torch.device, values: NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(np.array(values)).to(place)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _window(given: Attributes) -> tuple[list[int], list[int], list[int]]:
    """Stride, dilation, and padding as `F.pad` takes it: left, right, top, bottom."""
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    return given.get("strides", [1, 1]), given.get("dilations", [1, 1]), [left, right, top, bottom]


def _conv(given: Attributes, known: Constants) -> Step:
    stride, dilation, (left, right, top, bottom) = _window(given)
    groups = given.get("group", 1)
    if (left, top) == (right, bottom):
        return lambda x, w, b=None: F.conv2d(x, w, b, stride, [top, left], dilation, groups)
    around = [left, right, top, bottom]
    return lambda x, w, b=None: F.conv2d(F.pad(x, around), w, b, stride, 0, dilation, groups)


def _conv_transpose(given: Attributes, known: Constants) -> Step:
    stride, dilation, (left, right, top, bottom) = _window(given)
    _only("ConvTranspose", "equal padding on both sides", (left, top) == (right, bottom))
    groups, beyond = given.get("group", 1), given.get("output_padding", [0, 0])
    return lambda x, w, b=None: F.conv_transpose2d(x, w, b, stride, [top, left], beyond, groups, dilation)


def _resize(given: Attributes, known: Constants) -> Step:
    mode, place = (given.get(name, b"").decode() for name in ("mode", "coordinate_transformation_mode"))
    how = f"{mode} {place} {given.get('nearest_mode', b'').decode() if mode == 'nearest' else ''}".strip()
    _only("Resize", f"what torch has: {', '.join(_INTERPOLATIONS)}", how in _INTERPOLATIONS)
    settings = _INTERPOLATIONS[how]
    _, _, factors, sizes = (*known, None)[:4]
    if factors is not None:
        spatial = tuple(float(factor) for factor in factors.ravel()[2:])
        return lambda x, *_: F.interpolate(x, scale_factor=spatial, **settings)
    size = _integers(sizes)[2:]
    return lambda x, *_: F.interpolate(x, size=size, **settings)


_INTERPOLATIONS: Mapping[str, Mapping[str, Any]] = {
    "nearest asymmetric floor": {"mode": "nearest"},
    "linear half_pixel": {"mode": "bilinear", "align_corners": False},
    "linear align_corners": {"mode": "bilinear", "align_corners": True},
}


def _max_pool(given: Attributes, known: Constants) -> Step:
    stride, dilation, around = _window(given)
    kernel, up = given["kernel_shape"], bool(given.get("ceil_mode", 0))
    return lambda x: F.max_pool2d(
        F.pad(x, around, value=-torch.inf), kernel, stride, 0, dilation, ceil_mode=up
    )


def _average_pool(given: Attributes, known: Constants) -> Step:
    stride, _, (left, right, top, bottom) = _window(given)
    _only("AveragePool", "equal padding on both sides", (left, top) == (right, bottom))
    kernel, up = given["kernel_shape"], bool(given.get("ceil_mode", 0))
    whole = bool(given.get("count_include_pad", 0))
    return lambda x: F.avg_pool2d(x, kernel, stride, [top, left], up, whole)


def _gemm(given: Attributes, known: Constants) -> Step:
    turned = given.get("transB", 0)
    _only("Gemm", "alpha = beta = 1", given.get("alpha", 1) == given.get("beta", 1) == 1)
    _only("Gemm", "transA = 0", not given.get("transA", 0))
    return lambda x, w, b=None: F.linear(x, w if turned else w.T, b)


def _clip(given: Attributes, known: Constants) -> Step:
    least, most = (None if limit is None else float(limit) for limit in (*known[1:], None, None)[:2])
    return lambda x, *limits: x.clamp(least, most)


def _batch_norm(given: Attributes, known: Constants) -> Step:
    eps = given.get("epsilon", 1e-5)
    return lambda x, scale, shift, mean, var: F.batch_norm(x, mean, var, scale, shift, eps=eps)


def _layer_norm(given: Attributes, known: Constants) -> Step:
    axis, eps = given.get("axis", -1), given.get("epsilon", 1e-5)
    return lambda x, scale, shift=None: F.layer_norm(x, x.shape[axis:], scale, shift, eps)


def _instance_norm(given: Attributes, known: Constants) -> Step:
    eps = given.get("epsilon", 1e-5)
    return lambda x, scale, shift: F.instance_norm(x, weight=scale, bias=shift, eps=eps)


def _cumulative_sum(given: Attributes, known: Constants) -> Step:
    (axis,) = _integers(known[1])
    _only("CumSum", "its plain form", not given.get("exclusive", 0) and not given.get("reverse", 0))
    return lambda x, _: x.cumsum(axis, dtype=x.dtype)


def _reduce_mean(given: Attributes, known: Constants) -> Step:
    axes, keep = _integers(known[1]), bool(given.get("keepdims", 1))
    return lambda x, _: x.mean(axes, keepdim=keep)


def _reshape(given: Attributes, known: Constants) -> Step:
    sizes = _integers(known[1])
    return lambda x, _: x.reshape([size or x.shape[axis] for axis, size in enumerate(sizes)])


def _slice(given: Attributes, known: Constants) -> Step:
    starts, ends = _integers(known[1]), _integers(known[2])
    axes = _integers(known[3]) if len(known) > 3 else range(len(starts))
    steps = _integers(known[4]) if len(known) > 4 else [1] * len(starts)
    _only("Slice", "steps above 0", min(steps) > 0)

    def cut(x: Tensor, *_: Tensor) -> Tensor:
        places = [slice(None)] * x.ndim
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            places[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))  # ends may lie far beyond
        return x[tuple(places)]

    return cut


def _pad(given: Attributes, known: Constants) -> Step:
    pads = _integers(known[1])
    _only("Pad", "zeros", given.get("mode", b"constant") == b"constant" and not any(map(np.any, known[2:3])))
    before, after = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    around = [size for pair in reversed(list(zip(before, after, strict=True))) for size in pair]
    return lambda x, *_: F.pad(x, around)


def _gather(given: Attributes, known: Constants) -> Step:
    axis = given.get("axis", 0)

    def take(x: Tensor, places: Tensor) -> Tensor:
        found = x.index_select(axis, places.reshape(-1) % x.shape[axis])
        return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis:][1:])

    return take


def _expand(given: Attributes, known: Constants) -> Step:
    sizes = tuple(_integers(known[1]))
    return lambda x, _: x.expand(np.broadcast_shapes(x.shape, sizes))


def _shape(given: Attributes, known: Constants) -> Step:
    start, end = given.get("start", 0), given.get("end")
    return lambda x: torch.tensor(x.shape[start:end])


def _integers(values: NDArray[Any] | None) -> list[int]:
    if values is None:
        raise UnsupportedOpError(
            "runtime 'torch' runs networks of fixed shapes, and this one works a shape out of its data; "
            "export it with fixed sizes"
        )
    return [int(value) for value in values.ravel()]


def _only(op: str, allowed: str, holds: bool) -> None:
    if not holds:
        raise UnsupportedOpError(f"runtime 'torch' runs the ONNX operator {op} only with {allowed}")


def _plain(function: Callable[..., Tensor]) -> Callable[[Attributes, Constants], Step]:
    return lambda given, known: function


RULES: Mapping[str, Callable[[Attributes, Constants], Step]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Resize": _resize,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "ReduceMean": _reduce_mean,
    "CumSum": _cumulative_sum,
    "Clip": _clip,
    "Reshape": _reshape,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "Shape": _shape,
    "Softmax": lambda given, known: lambda x: x.softmax(given.get("axis", -1)),
    "Transpose": lambda given, known: lambda x: x.permute(given["perm"]),
    "Concat": lambda given, known: lambda *parts: torch.cat(parts, given["axis"]),
    "Squeeze": lambda given, known: lambda x, _: x.squeeze(_integers(known[1])),
    "Expand": _expand,
    "Gelu": lambda given, known: lambda x: F.gelu(x, approximate=given.get("approximate", b"none").decode()),
    "Identity": _plain(torch.clone),
    "MatMul": _plain(torch.matmul),
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _plain(torch.div),
    "Pow": _plain(torch.pow),
    "Sqrt": _plain(torch.sqrt),
    "Reciprocal": _plain(torch.reciprocal),
    "Relu": _plain(F.relu),
    "Sigmoid": _plain(torch.sigmoid),
    "HardSwish": _plain(F.hardswish),
    "Tanh": _plain(torch.tanh),
}
