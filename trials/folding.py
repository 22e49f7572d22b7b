"""Which batch norms an export puts into the convolution before them. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trials.graph import Graph, Node, Tensor

_CONVOLUTIONS = ("aten.conv2d.default", "aten.conv2d.padding")
NORM_TENSORS = ("running_mean", "running_var", "weight", "bias")


def foldable(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Batch norms that have all their tensors, each with the convolution that it alone reads."""
    uses = Counter(name for node in graph.nodes for name in (*node.values, *node.tensors))
    uses.update(value.name for value in graph.outputs)
    convolutions = {node.name: node for node in graph.nodes if node.op in _CONVOLUTIONS}
    for norm in graph.nodes:
        if norm.op != "aten.batch_norm.default":
            continue
        convolution = convolutions.get(norm["input"].name)
        if convolution is None or not all(isinstance(norm[argument], Tensor) for argument in NORM_TENSORS):
            continue
        if any(uses[name] > 1 for name in (convolution.name, *convolution.tensors)):
            continue
        if convolution["bias"] is not None or bias_name(convolution) not in graph.tensors:
            yield norm, convolution


def bias_name(convolution: Node) -> str:
    """The name of its bias, or the one it would have."""
    bias, weight = convolution["bias"], convolution["weight"]
    return str(bias.name if bias is not None else weight.name.removesuffix("weight") + "bias")
