"""What an export writes otherwise than the model has it: norms within layers or in parts, factors for sizes.

No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from trials.graph import Arg, Graph, Node, Tensor, Value
from trials.oprules.rule import with_args
from trials.tracing import trace

TRANSPOSED = "aten.conv_transpose2d.input"
_CONVOLUTIONS = ("aten.conv2d.default", "aten.conv2d.padding", TRANSPOSED)
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
        if convolution.op == TRANSPOSED and convolution["groups"] > 1:
            continue  # whose weight holds the outputs of a single group
        if any(uses[name] > 1 for name in (convolution.name, *convolution.tensors)):
            continue
        if convolution["bias"] is not None or bias_name(convolution) not in graph.tensors:
            yield norm, convolution


def bias_name(convolution: Node) -> str:
    """The name of its bias, or the one it would have."""
    bias, weight = convolution["bias"], convolution["weight"]
    return str(bias.name if bias is not None else weight.name.removesuffix("weight") + "bias")


def by_division(graph: Graph) -> Graph:
    """Write every RMS norm as a division by a root, which ONNX Runtime makes one kernel of.

    torch's exporter multiplies with the reciprocal of the root instead, and that runs as seven.
    """
    parts = (_divided(node) if node.op == "aten.rms_norm.default" else [node] for node in graph.nodes)
    return replace(graph, nodes=tuple(part for node in parts for part in node))


def _divided(norm: Node) -> list[Node]:
    found: list[Node] = []

    def node(op: str, **args: Arg) -> Value:
        found.append(Node(f"{norm.name}__{len(found)}", f"aten.{op}", args))
        return Value(found[-1].name)

    axes = tuple(range(-len(norm["normalized_shape"]), 0))
    square = node("pow.Tensor_Scalar", self=norm["input"], exponent=2.0)
    mean = node("mean.dim", self=square, dim=axes, keepdim=True, dtype=None)
    eps = np.finfo(np.float32).eps.item() if norm["eps"] is None else norm["eps"]
    root = node("sqrt.default", self=node("add.Scalar", self=mean, other=eps, alpha=1))
    value = node("div.Tensor", self=norm["input"], other=root)
    if norm["weight"] is not None:
        node("mul.Tensor", self=value, other=norm["weight"])
    *earlier, last = found
    return [*earlier, replace(last, name=norm.name)]


def by_factors(graph: Graph) -> Graph:
    """Write every resize to a whole multiple of a map's size as one by factors; the result is the same.

    A size is worked out in the network when the batch is free, and then ONNX Runtime has no kernel on blocks
    for it.
    """
    if not any(_to_size(node) for node in graph.nodes):
        return graph
    _, shapes, _ = trace(graph)

    def written(node: Node) -> Node:
        if not _to_size(node):
            return node
        size = np.shape(shapes[node["input"].name])[2:]
        wanted = node["output_size"]
        if any(after % before for before, after in zip(size, wanted, strict=True)):
            return node
        factors = tuple(float(after // before) for before, after in zip(size, wanted, strict=True))
        return with_args(node, output_size=None, scale_factors=factors)

    return replace(graph, nodes=tuple(map(written, graph.nodes)))


def _to_size(node: Node) -> bool:
    return node.op.startswith("aten.upsample_") and node["output_size"] is not None
