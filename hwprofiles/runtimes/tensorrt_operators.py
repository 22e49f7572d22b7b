"""One layer of a TensorRT engine, as the operators of a model's graph that it is; see `tensorrt_layers`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwprofiles.errors import ProfileError
from hwprofiles.ops import OpSpec, Size

_MAX_COUNT = 2**20
"""Of channels, and of positions along an axis."""
_MOVES = ("REFORMAT", "CAST", "QDQ", "IDENTITY")
"""Why a layer that computes nothing brings a tensor into another layout or type."""
_POOLS = {"MAX": "max_pool2d", "AVERAGE": "avg_pool2d"}
_ACTIVATION_FIELDS = {
    "NONE": (),
    "RELU": ("relu",),
    "SIGMOID": ("sigmoid",),
    "TANH": ("tanh",),
    "CLIP": ("clamp",),
    "CLIPPED_RELU": ("clamp",),
}
ACTIVATIONS = {
    "relu": "relu",
    "clip": "clamp",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "leakyrelu": "leaky_relu",
    "elu": "elu",
    "gelu": "gelu",
    "mish": "mish",
    "silu": "silu",
}
_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
"""Activations that, multiplied with what they read, are another one."""
_POINTWISE = {**ACTIVATIONS, "add": "add", "sub": "sub", "mul": "mul", "div": "div"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """What a layer reads or writes; the batch is the first of its sizes."""

    name: str
    shape: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine, with all that the inspector tells about it as `fields`."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    fields: Mapping[str, Any]


def operators_of(layer: Layer, batch: int, place: str) -> tuple[OpSpec, ...] | None:
    """The operators that a layer is: none where it only moves data, `None` where that cannot be told."""
    kind, origin = layer.fields.get("ParameterType"), layer.fields.get("Origin", "REFORMAT")
    if layer.kind == "NoOp" or (kind == "Reformat" and origin in _MOVES):
        return () if layer.outputs else None
    if not layer.inputs or not layer.outputs or "||" in layer.name:
        return None
    try:
        reads, writes = ([_counts(put.shape) for put in puts] for puts in (layer.inputs, layer.outputs))
        specs = _specs(layer, reads, writes)
        for spec in specs or ():
            spec.check()
    except (KeyError, TypeError, ValueError, IndexError):
        if kind not in ("Convolution", "Pooling"):
            return None
        raise ProfileError(
            f"{place} lacks what a {layer.kind} has, or has impossible sizes; export it again"
        ) from None
    if specs and reads[0][0] != batch:
        raise ProfileError(
            f"{place} runs a batch of {reads[0][0]}, and the device is said to run {batch}; describe the "
            "device with the engine's batch"
        )
    return specs


def _specs(layer: Layer, reads: list[Size], writes: list[Size]) -> tuple[OpSpec, ...] | None:
    named = _named_after(layer)
    match layer.fields.get("ParameterType"), named:
        case "Convolution", _ if len(reads[0]) == 4:
            return _convolution(layer, reads, writes, named)
        case "Pooling", _ if len(reads[0]) == 4:
            return (_pool(layer, reads, writes),)
        case _, ("gemm" | "linear" | "matmul", *behind) if set(behind) <= ACTIVATIONS.keys():
            return _linear(reads, writes, _activation(behind))
        case _, ("globalaveragepool" | "reducemean" | "mean",):
            return _mean(reads, writes)
    return _pointwise(named, reads, writes)


def _counts(told: Sequence[Any], length: int | None = None, *, lowest: int = 1) -> Size:
    """Whole numbers, `length` of them; ValueError where they are something else."""
    counts = tuple(told)
    if len(counts) != (length or len(counts)) or not all(
        type(count) is int and lowest <= count <= _MAX_COUNT for count in counts
    ):
        raise ValueError(told)
    return counts


def _named_after(layer: Layer) -> tuple[str, ...]:
    """The ONNX operators that a layer became of, as far as their nodes' names tell: ("conv", "relu").

    A node is called "Conv_5", "/layer1/conv1/Conv" or "node_add_25", by who exported it.
    """
    nodes = re.findall(r"\[ONNX Layer: ([^\[\]]+)\]", str(layer.fields.get("Metadata", "")))
    nodes = nodes or re.findall(r"[^\s(),+]+", layer.name.replace("PWN(", "("))
    last = (node.rpartition("/")[2].removeprefix("node_") for node in nodes)
    found: list[str] = []
    for name in map(_unnumbered, last):
        if name == "mul" and found and found[-1] in _GATES:
            found[-1] = _GATES[found[-1]]
        else:
            found.append(name)
    return tuple(found)


def _unnumbered(name: str) -> str:
    """The operator in a node's name: "globalaveragepool" of "Global_AveragePool_7_1"."""
    parts = name.split("_")
    while len(parts) > 1 and parts[-1].isdecimal():
        parts.pop()
    return "".join(parts).lower()


def _convolution(
    layer: Layer, reads: list[Size], writes: list[Size], named: tuple[str, ...]
) -> tuple[OpSpec] | None:
    told = layer.fields
    (source, *beside), (result, *more) = reads, writes
    kernel, stride, dilation = (_counts(told[name], 2) for name in ("Kernel", "Stride", "Dilation"))
    padding, groups = _padding(layer), told["Groups"]
    if type(groups) is not int or groups < 1 or source[1] % groups or result[1] % groups:
        raise ValueError("Groups")
    transposed = "Deconvolution" in layer.kind  # its parameters are of the same type
    around = [padding[d] + padding[d + 2] for d in (0, 1)]
    spans = [step * (taps - 1) + 1 for step, taps in zip(dilation, kernel, strict=True)]
    sizes = tuple(
        (source[2 + d] - 1) * stride[d] + spans[d] - around[d]
        if transposed
        else (source[2 + d] + around[d] - spans[d]) // stride[d] + 1
        for d in (0, 1)
    )
    activation = _activation(named) or _ACTIVATION_FIELDS.get(told.get("Activation", "NONE"))
    if activation is None or result[1:] != (told["OutMaps"], *sizes) or beside not in ([], [result]) or more:
        return None  # it does more than a convolution does, such as the pooling behind it
    depthwise = groups == source[1] > 1 and not transposed
    spec = OpSpec(
        kind="conv_transpose2d" if transposed else "depthwise_conv2d" if depthwise else "conv2d",
        in_channels=source[1],
        out_channels=result[1],
        in_size=source[2:],
        out_size=sizes,
        kernel=kernel,
        stride=stride,
        padding=padding[:2] * 2 if transposed else padding,  # a model's own; output padding takes off behind
        dilation=dilation,
        groups=0 if depthwise else groups,
        fused=(*(["add"] if beside else []), *activation),
    )
    return (spec,)


def _activation(named: Sequence[str]) -> tuple[str, ...]:
    return tuple(ACTIVATIONS[name] for name in named if name in ACTIVATIONS)[-1:]


def _padding(layer: Layer) -> Size:
    """(top, left, bottom, right)."""
    before, after = (_counts(layer.fields[name], 2, lowest=0) for name in ("PrePadding", "PostPadding"))
    return (*before, *after)


def _pool(layer: Layer, reads: list[Size], writes: list[Size]) -> OpSpec:
    (source,), (result,) = reads, writes
    return OpSpec(
        kind=_POOLS[layer.fields["PoolingType"]],
        in_channels=source[1],
        out_channels=source[1],
        in_size=source[2:],
        out_size=result[2:],
        kernel=_counts(layer.fields["WindowSize"], 2),
        stride=_counts(layer.fields["Stride"], 2),
        padding=_padding(layer),
    )


def _linear(reads: list[Size], writes: list[Size], fused: tuple[str, ...]) -> tuple[OpSpec, ...] | None:
    """Of one vector a sample; several, and products of two tensors, cannot be told from shapes."""
    source, result = (_vector(shape) for shape in (reads[0], writes[0]))
    if len(reads) > 1 or source is None or result is None:
        return None
    return (OpSpec(kind="linear", in_channels=source, out_channels=result, in_size=(1,), fused=fused),)


def _vector(shape: Size) -> int | None:
    """The length of the vector that each sample is, if it is one."""
    return shape[1] if len(shape) > 1 and set(shape[2:]) <= {1} else None


def _mean(reads: list[Size], writes: list[Size]) -> tuple[OpSpec, ...] | None:
    (source, *more), result = reads, writes[0]
    if more or len(source) != 4 or _vector(result) != source[1]:
        return None
    _, channels, *size = source
    over = tuple(size)
    spec = OpSpec(kind="mean2d", in_channels=channels, out_channels=channels, in_size=over, out_size=(1, 1))
    return (replace(spec, kernel=over, stride=over, padding=(0,) * 4),)


def _pointwise(named: tuple[str, ...], reads: list[Size], writes: list[Size]) -> tuple[OpSpec, ...] | None:
    (result, *more) = writes
    whole = result in reads and len(result) in (2, 4)
    if more or not whole or not named or not set(named) <= _POINTWISE.keys():
        return None
    _, channels, *size = result
    spec = OpSpec(kind="elementwise", in_channels=channels, out_channels=channels)
    spec = replace(spec, in_size=tuple(size), out_size=tuple(size))
    return tuple(replace(spec, fused=(_POINTWISE[name],)) for name in named)
