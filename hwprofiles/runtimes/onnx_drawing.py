"""Operators drawn as ONNX models of their own: as exporters write them, or as kernels on blocks of channels.

An elementwise operator that has no line in `POINTWISE` is drawn as an addition, which reads two tensors and
writes one; a `copy` as one copy of its result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.ops import OpSpec
from hwprofiles.runtimes.rules import whole_factors

NCHWC = "com.microsoft.nchwc"
"""The domain of ONNX Runtime's kernels on blocks of channels."""
MICROSOFT = "com.microsoft"
"""The domain of what else ONNX Runtime has and ONNX has not."""
_HEAD_WIDTH = 64
_OPSETS = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in (NCHWC, MICROSOFT))]
_IR_VERSION = 10

# What a convolution kernel can apply to its own output: ONNX activation and its parameters.
ACTIVATIONS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "relu": ("Relu", ()),
    "relu6": ("Clip", (0.0, 6.0)),
    "hardtanh": ("Clip", (0.0, 6.0)),
    "sigmoid": ("Sigmoid", ()),
    "tanh": ("Tanh", ()),
    "leaky_relu": ("LeakyRelu", (0.01,)),
    "hardsigmoid": ("HardSigmoid", (1 / 6, 0.5)),
    "hardswish": ("HardSwish", ()),
}
# One ONNX operator each, of one input unless it is named in _BINARY.
POINTWISE = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "leaky_relu": "LeakyRelu",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "gelu": "Gelu",
    "elu": "Elu",
    "softplus": "Softplus",
    "mish": "Mish",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "maximum": "Max",
    "minimum": "Min",
}
_BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min"}


def layer_model(spec: OpSpec, batch: int) -> onnx.ModelProto:
    """Return one operator as a network of its own, as an exporter would write it."""
    return draw_plain(spec, batch).model()


class Sketch:
    """A small ONNX model under construction; the last node's output is the model's, and of type `result`."""

    result = TensorProto.FLOAT

    def __init__(self) -> None:
        self.inputs: dict[str, NDArray[Any]] = {}
        self._weights: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._random = np.random.default_rng(0)

    def input(self, *shape: int) -> str:
        return self.feed(self._random.standard_normal(shape, dtype=np.float32))

    def feed(self, values: NDArray[Any]) -> str:
        """An input that takes such values."""
        name = f"input{len(self.inputs)}"
        self.inputs[name] = values
        return name

    def weight(self, *shape: int) -> str:
        """Positive values that keep sums near 1, so that no kernel meets infinities or denormals."""
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(self._random.uniform(0.5, 1.5, shape).astype(np.float32) / fan_in)

    def constant(self, values: NDArray[Any]) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    @property
    def last(self) -> str:
        return str(self._nodes[-1].output[0])

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        output = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], domain=domain, **attributes))
        return output

    def model(self) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
            for name, values in self.inputs.items()
        ]
        output = helper.make_tensor_value_info(self.last, self.result, None)
        graph = helper.make_graph(self._nodes, "operator", inputs, [output], self._weights)
        return helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)


def draw_blocked(spec: OpSpec, batch: int, padded: int) -> Sketch:
    """A kernel on blocked activations. Its channels are padded already, unless it is one that pads."""
    sketch = Sketch()
    if spec.kind == "reorder_output":
        blocks = sketch.input(batch, padded, *spec.in_size)
        sketch.node("ReorderOutput", blocks, domain=NCHWC, channels=spec.out_channels)
        return sketch
    x = sketch.input(*_input_shape(spec, batch))
    if spec.kind == "reorder_input":
        sketch.node("ReorderInput", x, domain=NCHWC)
    elif "pool2d" in spec.kind:
        sketch.node(_pool(spec), x, domain=NCHWC, **_window(spec))
    elif spec.kind.startswith("resize2d"):
        sketch.node("Upsample", x, domain=NCHWC, scales=(1, 1, *whole_factors(spec)), **_interpolation(spec))
    else:
        groups = spec.groups or spec.in_channels
        weight = sketch.weight(spec.out_channels, spec.in_channels // groups, *spec.kernel)
        inputs = [x, weight, sketch.weight(spec.out_channels)]
        attributes: dict[str, Any] = {**_window(spec), "dilations": spec.dilation, "group": groups}
        for name in spec.fused:
            if name == "add":
                inputs.append(sketch.input(*_output_shape(spec, batch)))
            else:
                attributes["activation"], parameters = ACTIVATIONS[name]
                if parameters:
                    attributes["activation_params"] = parameters
        sketch.node("Conv", *inputs, domain=NCHWC, **attributes)
    return sketch


def draw_plain(spec: OpSpec, batch: int, onto: Sketch | None = None) -> Sketch:
    """An operator as an exported network has it, for ONNX Runtime to fuse."""
    sketch = onto or Sketch()
    kind, inputs, outputs = spec.kind, spec.in_channels, spec.out_channels
    value = sketch.input(*_input_shape(spec, batch))
    fused = spec.fused
    if "conv2d" in kind:
        groups = spec.groups or inputs
        weight = sketch.weight(outputs, inputs // groups, *spec.kernel)
        window = {**_window(spec), "dilations": spec.dilation, "group": groups}
        value = sketch.node("Conv", value, weight, sketch.weight(outputs), **window)
    elif "conv_transpose2d" in kind:
        value = _draw_transposed(sketch, value, spec)
    elif kind == "resize2d":
        value, fused = _draw_resize(sketch, value, spec, batch), ()
    elif kind == "mean2d":
        value = sketch.node("ReduceMean", value, sketch.constant(np.array([2, 3])), keepdims=1)
    elif "pool2d" in kind:
        value = sketch.node(_pool(spec), value, **_window(spec))
    elif kind == "linear":
        value = _draw_linear(sketch, value, spec)
    elif kind == "matmul":
        value = sketch.node("MatMul", value, sketch.input(batch, outputs, *spec.lengths[1:]))
        for name in fused:  # by a number, which ONNX Runtime makes part of the product
            value = sketch.node(POINTWISE[name], value, sketch.constant(np.array(2.0, dtype=np.float32)))
        fused = ()
    elif kind == "attention":
        value = _draw_attention(sketch, value, spec, batch)
    elif kind == "layer_norm":
        width = _normalised(spec)
        value = sketch.node("LayerNormalization", value, sketch.weight(width), sketch.weight(width))
    elif kind == "rms_norm":
        value = _draw_rms_norm(sketch, value, _normalised(spec))
    elif kind == "group_norm":
        value = _draw_group_norm(sketch, value, spec, batch)
    elif kind == "instance_norm":
        value = sketch.node("InstanceNormalization", value, sketch.weight(inputs), sketch.weight(inputs))
    elif kind == "cumsum":
        value = sketch.node("CumSum", value, sketch.constant(np.array(-2 if spec.kernel else -1)))
    elif kind == "batch_norm":
        value = sketch.node("BatchNormalization", value, *(sketch.weight(inputs) for _ in range(4)))
    elif kind == "softmax":
        value = sketch.node("Softmax", value)
    elif kind == "elementwise":
        fused = spec.fused or ("add",)
    elif kind == "copy":
        value, fused = _draw_copy(sketch, value, spec), ()
    else:
        value = sketch.node("Relu", value)
    _draw_epilogue(sketch, value, fused, _output_shape(spec, batch))
    return sketch


def _draw_transposed(sketch: Sketch, value: str, spec: OpSpec) -> str:
    groups = spec.groups or spec.in_channels
    weight = sketch.weight(spec.in_channels, spec.out_channels // groups, *spec.kernel)
    window = {**_window(spec), "dilations": spec.dilation, "group": groups}
    beyond = [
        spec.out_size[d]
        - ((spec.in_size[d] - 1) * spec.stride[d] + spec.dilation[d] * (spec.kernel[d] - 1) + 1)
        + (spec.padding[d] + spec.padding[d + 2])
        for d in (0, 1)
    ]
    bias = sketch.weight(spec.out_channels)
    return sketch.node("ConvTranspose", value, weight, bias, output_padding=beyond, **window)


def _draw_resize(sketch: Sketch, value: str, spec: OpSpec, batch: int) -> str:
    attributes = _interpolation(spec)
    if spec.fused == ("nearest",):
        attributes["nearest_mode"] = "floor"
    if factors := whole_factors(spec):
        scales = sketch.constant(np.array((1, 1, *factors), dtype=np.float32))
        return sketch.node("Resize", value, "", scales, **attributes)
    sizes = sketch.constant(np.array(_output_shape(spec, batch)))
    return sketch.node("Resize", value, "", "", sizes, **attributes)


def _interpolation(spec: OpSpec) -> dict[str, Any]:
    """As torch resizes; aligning the corners takes as long as not."""
    nearest = spec.fused == ("nearest",)
    return {
        "mode": "nearest" if nearest else "linear",
        "coordinate_transformation_mode": "asymmetric" if nearest else "half_pixel",
    }


def _draw_linear(sketch: Sketch, value: str, spec: OpSpec) -> str:
    """Of one vector a Gemm; of several, as exporters write it, a product and a sum."""
    weight, bias = sketch.weight(spec.in_channels, spec.out_channels), sketch.weight(spec.out_channels)
    if math.prod(spec.in_size) == 1:
        return sketch.node("Gemm", value, weight, bias)
    return sketch.node("Add", sketch.node("MatMul", value, weight), bias)


def _draw_copy(sketch: Sketch, value: str, spec: OpSpec) -> str:
    """Of tokens and heads that change places, as attention has it, a transposition; else a plain copy."""
    if spec.fused != ("transpose",) or len(spec.in_size) > 2:
        return sketch.node("Identity", value)
    if len(spec.in_size) == 1:  # of heads and their width together: in as long pieces as most heads have
        width = math.gcd(spec.in_channels, _HEAD_WIDTH)
        shape = sketch.constant(np.array([-1, spec.in_size[0], spec.in_channels // width, width]))
        value = sketch.node("Reshape", value, shape)
    return sketch.node("Transpose", value, perm=(0, 2, 1, 3))


def _draw_attention(sketch: Sketch, query: str, spec: OpSpec, batch: int) -> str:
    heads, (_, keys), (width, value_width) = spec.out_channels, spec.in_size, spec.head_widths
    scores = sketch.node("MatMul", query, sketch.input(batch, heads, width, keys))
    scaled = sketch.node("Mul", scores, sketch.constant(np.array(width**-0.5, dtype=np.float32)))
    weights = sketch.node("Softmax", scaled)
    return sketch.node("MatMul", weights, sketch.input(batch, heads, keys, value_width))


def _draw_rms_norm(sketch: Sketch, value: str, width: int) -> str:
    """As our exporter writes it, which ONNX Runtime makes one kernel of."""
    square = sketch.node("Pow", value, sketch.constant(np.array(2.0, dtype=np.float32)))
    mean = sketch.node("ReduceMean", square, sketch.constant(np.array([-1])), keepdims=1)
    above_zero = sketch.node("Add", mean, sketch.constant(np.array(1e-6, dtype=np.float32)))
    normalised = sketch.node("Div", value, sketch.node("Sqrt", above_zero))
    return sketch.node("Mul", normalised, sketch.weight(width))


def _draw_group_norm(sketch: Sketch, value: str, spec: OpSpec, batch: int) -> str:
    """As torch's exporter writes it: each part as a channel, then a gain and a shift by channel."""
    parts, shape = spec.in_channels // spec.kernel[0], _input_shape(spec, batch)
    one, zero = (sketch.constant(np.full(parts, number, dtype=np.float32)) for number in (1, 0))
    value = sketch.node("Reshape", value, sketch.constant(np.array([batch, parts, -1])))
    value = sketch.node("InstanceNormalization", value, one, zero)
    value = sketch.node("Reshape", value, sketch.constant(np.array(shape)))
    by_channel = (spec.in_channels, *(1 for _ in spec.in_size))
    value = sketch.node("Mul", value, sketch.weight(*by_channel))
    return sketch.node("Add", value, sketch.weight(*by_channel))


def _normalised(spec: OpSpec) -> int:
    """How many numbers a layer norm or an RMS norm takes together."""
    return spec.kernel[0] if spec.kernel else spec.in_channels


def _draw_epilogue(sketch: Sketch, value: str, names: Sequence[str], shape: tuple[int, ...]) -> None:
    """Append what follows an operator whose output has `shape`."""
    for name in names:
        if name == "silu":
            value = sketch.node("Mul", value, sketch.node("Sigmoid", value))
        elif name in ("relu6", "hardtanh", "clamp"):
            limits = (sketch.constant(np.array(limit, dtype=np.float32)) for limit in (0.0, 6.0))
            value = sketch.node("Clip", value, *limits)
        elif name == "batch_norm":
            value = sketch.node("BatchNormalization", value, *(sketch.weight(shape[1]) for _ in range(4)))
        elif name == "layer_norm":
            value = sketch.node(
                "LayerNormalization", value, sketch.weight(shape[-1]), sketch.weight(shape[-1])
            )
        else:
            op = POINTWISE.get(name, "Add")
            value = sketch.node(op, value, *([sketch.input(*shape)] if op in _BINARY else []))


def _input_shape(spec: OpSpec, batch: int) -> tuple[int, ...]:
    """Channels second where there are two spatial axes, and last otherwise; what is summed last, too."""
    if spec.kind == "linear":
        return _vectors(spec, batch, spec.in_channels)
    if spec.kind in ("layer_norm", "rms_norm"):
        width = _normalised(spec)
        return (batch, spec.in_channels * math.prod(spec.in_size) // width, width)
    if spec.kind == "cumsum" and spec.kernel:
        return (batch, math.prod(spec.in_size) // spec.kernel[0], spec.kernel[0], spec.in_channels)
    if spec.kind in ("group_norm", "instance_norm"):
        return (batch, spec.in_channels, *spec.in_size)
    if spec.kind == "attention":
        return (batch, spec.out_channels, spec.in_size[0], spec.head_widths[0])
    if spec.kind == "matmul":
        return (batch, spec.out_channels, *spec.lengths[:2])
    if len(spec.in_size) == 2:
        return (batch, spec.in_channels, *spec.in_size)
    return (batch, *spec.in_size, spec.in_channels)


def _output_shape(spec: OpSpec, batch: int) -> tuple[int, ...]:
    if spec.kind == "linear":
        return _vectors(spec, batch, spec.out_channels)
    if "2d" in spec.kind:
        return (batch, spec.out_channels, *spec.out_size)
    if spec.kind == "matmul":
        rows, _, columns = spec.lengths
        return (batch, spec.out_channels, rows, columns)
    return _input_shape(spec, batch)


def _vectors(spec: OpSpec, batch: int, channels: int) -> tuple[int, ...]:
    """The shape of what a linear layer reads or writes: a vector of each sample, or rows of them."""
    rows = math.prod(spec.in_size)
    return (batch, channels) if rows == 1 else (batch, rows, channels)


def _pool(spec: OpSpec) -> str:
    return "MaxPool" if spec.kind.startswith("max") else "AveragePool"


def _window(spec: OpSpec) -> dict[str, Any]:
    return {"kernel_shape": spec.kernel, "strides": spec.stride, "pads": spec.padding}
