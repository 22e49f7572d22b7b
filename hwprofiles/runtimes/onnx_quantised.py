"""ONNX models in int8: a network with its tensors quantised, and kernels as they stand in such a network.

Quantisation is that of ONNX Runtime's own tool in its QDQ form, as the integer kernels of CPUs want it:
activations unsigned with one scale for each tensor, weights signed and symmetric with one scale for each
output channel. All ranges are made up, because no kernel takes longer for one value than for another: such a
network tells how long int8 takes, and nothing of its accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, shape_inference
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantType

from hwprofiles.ops import OpSpec, Size
from hwprofiles.runtimes.onnx_drawing import MICROSOFT, Sketch, draw_plain

# Operators that have an integer kernel or only move bytes; all others stay in floating point.
_QUANTISED = [
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "LeakyRelu", "MatMul", "MaxPool",
    "Mul", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
]  # fmt: skip
_RANGE = (-6.0, 6.0)  # made up, of every tensor but those behind a clip or a softmax
_CHANNELS_LAST, _CHANNELS_SECOND = (0, 2, 3, 1), (0, 3, 1, 2)


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network with its tensors quantised around every operator that an integer kernel may run.

    Raises:
        Exception: of whatever class ONNX Runtime's tool has for a network that it cannot quantise.
    """
    model = shape_inference.infer_shapes(model)
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, dict(_made_up_ranges(model.graph))),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=_QUANTISED,
        extra_options={},
    )
    quantizer.quantize_model()
    found: onnx.ModelProto = quantizer.model.model
    return found


def _made_up_ranges(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorData]]:
    """A range for every tensor; behind a clip without negative values, so that quantising does its work."""
    lowest, highest = (np.float32(bound) for bound in _RANGE)
    other = TensorData(lowest=lowest, highest=highest)
    clipped = TensorData(lowest=np.float32(0), highest=highest)
    yield from ((put.name, other) for put in graph.input)
    for node in graph.node:
        yield from ((name, clipped if node.op_type in ("Relu", "Clip") else other) for name in node.output)


def draw_int8(kernel: OpSpec, batch: int) -> Sketch:
    """A kernel of `onnx_int8_lowering`, which `quantised` and ONNX Runtime make of what is drawn here."""
    kind, _, how = kernel.kind.partition("_int8")
    spec = replace(kernel, kind=kind)
    if kind == "conv2d" and how[-1:].isdigit():
        spec = spec.with_channels(spec.in_channels, _unpadded(spec.out_channels, how))
    if kind in ("quantize", "dequantize"):
        return _draw_reorder(spec, batch)
    if "pool2d" in kind:
        return _draw_plain_max_pool(spec, batch) if how == "_plain" else _draw_pool(spec, batch)
    sketch = _BetweenBytes(
        maps="2d" in kind or (len(spec.in_size) == 2 and (kind == "group_norm" or spec.fused == ("cat",))),
        result=(0.0, 1.0) if kind == "softmax" else _RANGE,
    )
    if kind == "attention":
        _draw_attention(sketch, spec, batch)
    elif spec.fused == ("cat",):
        _draw_cat(sketch, spec, batch)
    elif spec.fused == ("pad",):
        _draw_pad(sketch, spec, batch)
    else:
        draw_plain(spec, batch, sketch)
    sketch.close()
    return sketch


def _unpadded(channels: int, how: str) -> int:
    """The most output channels that a convolution of some kind pads to so many."""
    left = int(how[-1])
    return channels - (4 - left % 4 if left or how.startswith("_narrow") else 0)


class _ByteSketch(Sketch):
    """Whose inputs and result are quantised."""

    result = TensorProto.UINT8

    def bytes(self, *shape: int) -> str:
        return self.feed(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))

    def scale(self, lowest: float, highest: float) -> tuple[str, str]:
        """The scale of a range, and the byte that zero is."""
        step = (highest - lowest) / 255
        return (
            self.constant(np.array(step, dtype=np.float32)),
            self.constant(np.array(round(-lowest / step), dtype=np.uint8)),
        )


class _BetweenBytes(_ByteSketch):
    """On which operators in floating point are drawn, with quantised inputs and result around them.

    Maps have their channels last there: the transpositions that say so meet those that ONNX Runtime puts
    around its kernel, and both disappear.
    """

    def __init__(self, *, maps: bool, result: tuple[float, float]) -> None:
        super().__init__()
        self._maps = maps
        self._result = result

    def input(self, *shape: int) -> str:
        if not self._maps:
            return self.node("DequantizeLinear", self.bytes(*shape), *self.scale(*_RANGE))
        last = self.bytes(*(shape[axis] for axis in _CHANNELS_LAST))
        return self.node(
            "DequantizeLinear", self.node("Transpose", last, perm=_CHANNELS_SECOND), *self.scale(*_RANGE)
        )

    def close(self) -> None:
        value = self.node("QuantizeLinear", self.last, *self.scale(*self._result))
        if self._maps:
            self.node("Transpose", value, perm=_CHANNELS_LAST)


def _draw_attention(sketch: Sketch, spec: OpSpec, batch: int) -> None:
    """As exporters write it: half of the scale on either side of the product."""
    heads, (queries, keys), (width, value_width) = spec.out_channels, spec.in_size, spec.head_widths
    half = sketch.constant(np.array(width**-0.25, dtype=np.float32))
    query = sketch.node("Mul", sketch.input(batch, heads, queries, width), half)
    key = sketch.node("Transpose", sketch.input(batch, heads, keys, width), perm=(0, 1, 3, 2))
    weights = sketch.node("Softmax", sketch.node("MatMul", query, sketch.node("Mul", key, half)))
    sketch.node("MatMul", weights, sketch.input(batch, heads, keys, value_width))


def _draw_cat(sketch: Sketch, spec: OpSpec, batch: int) -> None:
    """A concatenation of two halves of the channels."""
    half = spec.out_channels // 2
    parts = [
        sketch.input(*_shape(batch, part, spec.in_size)) for part in (half, spec.out_channels - half) if part
    ]
    sketch.node("Concat", *parts, axis=_shape(0, 1, spec.in_size).index(1))


def _draw_pad(sketch: Sketch, spec: OpSpec, batch: int) -> None:
    """Half of the channels, filled up with zeros."""
    half = spec.out_channels // 2
    before, behind = (_shape(0, channels, (0,) * len(spec.in_size)) for channels in (0, half))
    value = sketch.input(*_shape(batch, spec.out_channels - half, spec.in_size))
    sketch.node("Pad", value, sketch.constant(np.array([*before, *behind])))


def _draw_pool(spec: OpSpec, batch: int) -> Sketch:
    sketch = _ByteSketch()
    value = sketch.bytes(batch, *spec.in_size, spec.in_channels)
    window = {"kernel_shape": spec.kernel, "strides": spec.stride, "pads": spec.padding}
    if spec.kind == "max_pool2d":
        sketch.node("NhwcMaxPool", value, domain=MICROSOFT, **window)
    else:
        scales = (*sketch.scale(*_RANGE), *sketch.scale(*_RANGE))
        sketch.node("QLinearAveragePool", value, *scales, domain=MICROSOFT, channels_last=1, **window)
    return sketch


def _draw_plain_max_pool(spec: OpSpec, batch: int) -> Sketch:
    """Of floats, as behind a norm: ONNX Runtime brings channels last behind it only, which takes long."""
    sketch = _ByteSketch()
    floats = sketch.input(batch, spec.in_channels, *spec.in_size)
    value = sketch.node("QuantizeLinear", floats, *sketch.scale(*_RANGE))
    value = sketch.node("MaxPool", value, kernel_shape=spec.kernel, strides=spec.stride, pads=spec.padding)
    sketch.node("Transpose", value, perm=_CHANNELS_LAST)
    return sketch


def _draw_reorder(spec: OpSpec, batch: int) -> Sketch:
    """Out of floats or into them; a map's channels come last, or second again."""
    sketch, maps = _ByteSketch(), len(spec.in_size) == 2
    if spec.kind == "quantize":
        floats = sketch.input(*_shape(batch, spec.in_channels, spec.in_size))
        value = sketch.node("QuantizeLinear", floats, *sketch.scale(*_RANGE))
        if maps:
            sketch.node("Transpose", value, perm=_CHANNELS_LAST)
    else:
        value = sketch.bytes(batch, *spec.in_size, spec.in_channels)
        if maps:
            value = sketch.node("Transpose", value, perm=_CHANNELS_SECOND)
        sketch.node("DequantizeLinear", value, *sketch.scale(*_RANGE))
        sketch.result = TensorProto.FLOAT
    return sketch


def _shape(batch: int, channels: int, size: Size) -> tuple[int, ...]:
    """Channels second where there are two spatial axes, and last otherwise."""
    return (batch, channels, *size) if len(size) == 2 else (batch, *size, channels)
