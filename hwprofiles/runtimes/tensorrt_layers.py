"""The layers of a TensorRT engine, read as the operators of a model's graph.

An engine inspector describes an engine as JSON, and `trtexec --exportLayerInfo` writes the same:

    {"Layers": [{"Name", "LayerType", "ParameterType", "Inputs", "Outputs", ...}], ...}

What becomes of its layers:

- A convolution is one with a sum, where it reads a second tensor, and an activation; its batch norm is in
  its weights. Which activation, its field says, or the ONNX nodes that it is named after. A transposed one
  differs by the type of its layer alone.
- Sums and activations in kernels of their own ("PWN(...)") belong to the layer whose result they alone read,
  as in a model's graph; behind anything else they are operators, and share their kernel's time evenly.
- A reformat, which brings a tensor into the layout or the type that a kernel wants, counts for its first
  reader, and at an output for the layer that made it. Which kernels need one, no shape tells; but those that
  were built did.
- Regions that Myelin fused, plugins, layers merged side by side ("a || b"), concatenations, resizes and all
  else that shapes and names do not tell are left over by name.

So the operators of an engine take what its layers take, no more and no less, but for what is left over.

Sources: NVIDIA/TensorRT, tools/experimental/trt-engine-explorer (the engines under examples and tests/inputs,
TensorRT 8.4 to 8.6); "Migrating from TensorRT 10.x to 11.x", page "IEngineInspector".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hwprofiles.errors import ProfileError
from hwprofiles.ops import INPUT, OpGraph, OpSpec
from hwprofiles.runtimes.protocol import PLAIN, Lowering
from hwprofiles.runtimes.tensorrt_operators import ACTIVATIONS, Layer, Tensor, operators_of

_LAYERS = {"conv2d", "depthwise_conv2d", "conv_transpose2d", "linear"}


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
        specs = operators_of(layer, batch, f"{source}, layer {layer.name[:80]!r}")
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
    return name in ACTIVATIONS.values() and layer.fused in ((), ("add",))
