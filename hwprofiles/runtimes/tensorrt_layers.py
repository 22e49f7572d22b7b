"""The layers of a TensorRT engine, read as the operators of a model's graph.

An engine inspector describes an engine as JSON, and `trtexec --exportLayerInfo` writes the same:

    {"Layers": [{"Name", "LayerType", "ParameterType", "Inputs", "Outputs", ...}], ...}

What becomes of its layers:

- A convolution is one with a sum, where it reads a second tensor, and an activation; its batch norm is in
  its weights. Which activation, its field says, or the ONNX nodes that it is named after.
- Sums and activations in kernels of their own ("PWN(...)") belong to the layer whose result they alone read,
  as in a model's graph; behind anything else they are operators, and share their kernel's time evenly.
- A reformat, which brings a tensor into the layout or the type that a kernel wants, counts for its first
  reader, and at an output for the layer that made it. Which kernels need one, no shape tells; but those that
  were built did.
- Regions that Myelin fused, plugins, layers merged side by side ("a || b"), concatenations and all else that
  shapes and names do not tell are left over by name.

So the operators of an engine take what its layers take, no more and no less, but for what is left over.

Sources: NVIDIA/TensorRT, tools/experimental/trt-engine-explorer (the engines under examples and tests/inputs,
TensorRT 8.4 to 8.6); "Migrating from TensorRT 10.x to 11.x", page "IEngineInspector".
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hwprofiles.errors import ProfileError
from hwprofiles.ops import INPUT, OpGraph, OpSpec, Size
from hwprofiles.runtimes.protocol import PLAIN, Lowering

_MAX_COUNT = 2**20
"""Of channels, and of positions along an axis."""
_MOVES = {"REFORMAT", "CAST", "QDQ", "IDENTITY"}
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
_ACTIVATIONS = {
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
_POINTWISE = {**_ACTIVATIONS, "add": "add", "sub": "sub", "mul": "mul", "div": "div"}
_LAYERS = {"conv2d", "depthwise_conv2d", "linear"}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineGraph:
    """An engine as a network of operators.

    `parts`: for each operator the layers that it takes, by name, its own first, with the share of their time.
    `left_over`: layers that are no operator that can be told, and so in none of them.
    """

    graph: OpGraph
    parts: tuple[Mapping[str, float], ...]
    left_over: tuple[Layer, ...]

    def operators_ms(self, layers_ms: Mapping[str, float]) -> list[float]:
        """Milliseconds of each operator, of the times of all layers that operators take."""
        return [sum(share * layers_ms[name] for name, share in parts.items()) for parts in self.parts]

    def kernels_ms(self, layers_ms: Mapping[str, float], rules: Lowering) -> dict[OpSpec, list[float]]:
        """By kernel the milliseconds of each operator that becomes it."""
        found: dict[OpSpec, list[float]] = defaultdict(list)
        for spec, ms in zip(self.graph.operators, self.operators_ms(layers_ms), strict=True):
            (kernel,) = rules.lower(spec, PLAIN).kernels
            found[kernel].append(ms)
        return found


def read_layers(described: object, source: str) -> tuple[Layer, ...]:
    """Return the layers of an engine in running order.

    Args:
        described: what an inspector tells, out of JSON.
        source: what messages call it.

    Raises:
        ProfileError: it is something else, or it holds names alone.
    """
    match described:
        case {"Layers": [*layers]}:
            return tuple(_layer(layer, source) for layer in layers)
    raise ProfileError(f"{source} does not tell the layers of an engine; export it again")


def _layer(told: object, source: str) -> Layer:
    if isinstance(told, dict):
        match told:
            case {"Name": str(name), "LayerType": str(kind), "Inputs": [*reads], "Outputs": [*writes]}:
                place = f"{source}, layer {name[:80]!r}"
                inputs, outputs = (tuple(_tensor(put, place) for put in puts) for puts in (reads, writes))
                return Layer(name=name, kind=kind, inputs=inputs, outputs=outputs, fields=told)
    raise ProfileError(
        f"{source} tells nothing of layer {str(told)[:80]!r}; build the engine with detailed profiling "
        "verbosity (trtexec: --profilingVerbosity=detailed)"
    )


def _tensor(told: object, place: str) -> Tensor:
    match told:
        case {"Name": str(name), "Dimensions": [*sizes]}:
            return Tensor(name=name, shape=tuple(sizes))
    raise ProfileError(f"{place} reads or writes something without a name or sizes; export it again")


def engine_graph(layers: Sequence[Layer], batch: int, source: str) -> EngineGraph:
    """Return what operators the layers of an engine are.

    Args:
        batch: how many samples the device runs at a time.
        source: what messages call the engine.

    Raises:
        ProfileError: a layer lacks what belongs to its kind, has impossible sizes or runs another batch.
    """
    nodes, left_over = _nodes(layers, batch, source)
    uses = Counter(read for node in nodes for read in set(node.reads))
    operators: list[_Operator] = []
    became = {INPUT: INPUT}  # of each node, the operator that it is or is part of
    for number, node in enumerate(nodes):
        last = max(node.reads, default=INPUT)
        layer = operators[became[last]] if became[last] != INPUT else None
        reads = tuple(dict.fromkeys(became[read] for read in node.reads))
        if node.spec is None:  # left over; whoever reads it reads nothing that is known
            became[number] = INPUT
            if layer:
                layer.take(node.parts)
        elif layer and uses[last] == 1 and _follows(layer.spec, node.spec, len(reads)):
            became[number] = became[last]
            layer.spec = replace(layer.spec, fused=layer.spec.fused + node.spec.fused)
            layer.reads += tuple(read for read in reads if read not in (became[last], *layer.reads))
            layer.take(node.parts)
        else:
            became[number] = len(operators)
            operators.append(_Operator(node.spec, reads, dict(node.parts)))
    read = {source for operator in operators for source in operator.reads}
    return EngineGraph(
        graph=OpGraph(
            operators=tuple(operator.spec for operator in operators),
            sources=tuple(operator.reads for operator in operators),
            outputs=tuple(position for position in range(len(operators)) if position not in read),
        ),
        parts=tuple(operator.parts for operator in operators),
        left_over=tuple(left_over),
    )


@dataclass(slots=True)
class _Node:
    """One operator of a layer, or a layer left over.

    `reads`: the nodes whose results it reads. `parts`: the layers that it takes, with their share of time;
    of a layer left over the reformats of its result.
    """

    spec: OpSpec | None
    reads: tuple[int, ...]
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Operator:
    """An operator in the making, which reads other operators."""

    spec: OpSpec
    reads: tuple[int, ...]
    parts: dict[str, float]

    def take(self, parts: Mapping[str, float]) -> None:
        for name, share in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + share


def _nodes(layers: Sequence[Layer], batch: int, source: str) -> tuple[list[_Node], list[Layer]]:
    """The operators of each layer, still apart, with the reformats that they need; and layers left over."""
    nodes: list[_Node] = []
    left_over: list[Layer] = []
    made_by: dict[str, int] = {}
    waiting: dict[str, dict[str, float]] = defaultdict(dict)  # by tensor, reformats that no reader took yet
    for layer in layers:
        reads = tuple(made_by.get(put.name, INPUT) for put in layer.inputs)
        specs = _operators(layer, batch, f"{source}, layer {layer.name[:80]!r}")
        made = reads[0] if reads else INPUT
        if specs:
            parts = {layer.name: 1 / len(specs)}
            for put in layer.inputs:
                parts |= waiting.pop(put.name, {})
            for spec in specs:
                nodes.append(_Node(spec, reads, parts))
                made = len(nodes) - 1
                reads, parts = (made,), {layer.name: 1 / len(specs)}
        elif specs is None:
            left_over.append(layer)
            nodes.append(_Node(None, reads))
            made = len(nodes) - 1
        else:
            moved = {layer.name: 1.0}
            for put in layer.inputs:
                moved |= waiting.pop(put.name, {})
            waiting[layer.outputs[0].name] |= moved
        made_by |= dict.fromkeys((put.name for put in layer.outputs), made)
    for name, moved in waiting.items():
        if nodes:
            nodes[made_by[name]].parts |= moved  # what is made of an input counts for the last node
    return nodes, left_over


def _follows(layer: OpSpec, behind: OpSpec, reads: int) -> bool:
    """Whether a sum or an activation is part of the layer before it, by the rule of a model's graph."""
    if layer.kind not in _LAYERS or behind.kind != "elementwise":
        return False
    (name,) = behind.fused
    if name == "add":
        return not layer.fused and reads == 2
    return name in _ACTIVATIONS.values() and layer.fused in ((), ("add",))


def _operators(layer: Layer, batch: int, place: str) -> tuple[OpSpec, ...] | None:
    """The operators that a layer is: none where it only moves data, `None` where that cannot be told."""
    kind, origin = layer.fields.get("ParameterType"), layer.fields.get("Origin", "REFORMAT")
    if layer.kind == "NoOp" or (kind == "Reformat" and origin in _MOVES):
        return () if layer.outputs else None
    if not layer.inputs or not layer.outputs or "||" in layer.name:
        return None
    try:
        reads, writes = ([_counts(put.shape) for put in puts] for puts in (layer.inputs, layer.outputs))
        specs = _specs(layer, reads, writes)
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
        case _, ("gemm" | "linear" | "matmul", *behind) if set(behind) <= _ACTIVATIONS.keys():
            return _linear(reads, writes, _activation(behind))
        case _, ("globalaveragepool" | "reducemean" | "mean",):
            return _mean(reads, writes)
    return _pointwise(named, reads, writes)


def _counts(told: Sequence[Any], lowest: int = 1) -> Size:
    """Whole numbers; ValueError where they are something else."""
    counts = tuple(told)
    if not all(type(count) is int and lowest <= count <= _MAX_COUNT for count in counts):
        raise ValueError(told)
    return counts


def _named_after(layer: Layer) -> tuple[str, ...]:
    """The ONNX operators that a layer became of, as far as their nodes' names tell: ("conv", "relu").

    A node is called "Conv_5", "/layer1/conv1/Conv" or "node_add_25", by who exported it.
    """
    nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.fields.get("Metadata", "")))
    nodes = nodes or re.findall(r"[^\s(),+]+", layer.name.replace("PWN(", "("))
    last = (node.rpartition("/")[2].removeprefix("node_") for node in nodes)
    names = [re.sub(r"(_\d+)+$", "", name).replace("_", "").lower() for name in last]
    found: list[str] = []
    for name in names:
        if name == "mul" and found and found[-1] in _GATES:
            found[-1] = _GATES[found[-1]]
        else:
            found.append(name)
    return tuple(found)


def _convolution(
    layer: Layer, reads: list[Size], writes: list[Size], named: tuple[str, ...]
) -> tuple[OpSpec] | None:
    told = layer.fields
    (source, *beside), (result, *more) = reads, writes
    kernel, stride, dilation = (_counts(told[name]) for name in ("Kernel", "Stride", "Dilation"))
    padding, groups = _padding(layer), told["Groups"]
    if type(groups) is not int or groups < 1:
        raise ValueError("Groups")
    sizes = tuple(
        (source[2 + d] + padding[d] + padding[d + 2] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d in (0, 1)
    )
    activation = _activation(named) or _ACTIVATION_FIELDS.get(told.get("Activation", "NONE"))
    if activation is None or result[1:] != (told["OutMaps"], *sizes) or beside not in ([], [result]) or more:
        return None  # it does more than a convolution does, such as the pooling behind it
    depthwise = groups == source[1] > 1
    spec = OpSpec(
        kind="depthwise_conv2d" if depthwise else "conv2d",
        in_channels=source[1],
        out_channels=result[1],
        in_size=source[2:],
        out_size=sizes,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=0 if depthwise else groups,
        fused=(*(["add"] if beside else []), *activation),
    )
    return (spec,)


def _activation(named: Sequence[str]) -> tuple[str, ...]:
    return tuple(_ACTIVATIONS[name] for name in named if name in _ACTIVATIONS)[-1:]


def _padding(layer: Layer) -> Size:
    """(top, left, bottom, right)."""
    before, after = (_counts(layer.fields[name], lowest=0) for name in ("PrePadding", "PostPadding"))
    return (*before, *after)


def _pool(layer: Layer, reads: list[Size], writes: list[Size]) -> OpSpec:
    (source,), (result,) = reads, writes
    return OpSpec(
        kind=_POOLS[layer.fields["PoolingType"]],
        in_channels=source[1],
        out_channels=source[1],
        in_size=source[2:],
        out_size=result[2:],
        kernel=_counts(layer.fields["WindowSize"]),
        stride=_counts(layer.fields["Stride"]),
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
