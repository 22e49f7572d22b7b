"""Which tensors of a graph are the weights of layers, and which are the scales of batch norms. No torch."""

from __future__ import annotations

from trials.graph import Graph, Tensor

_INPUT_AXES = {
    "aten.conv1d.default": 1,
    "aten.conv1d.padding": 1,
    "aten.conv2d.default": 1,
    "aten.conv2d.padding": 1,
    "aten.conv_transpose1d.default": 0,
    "aten.conv_transpose2d.input": 0,
    "aten.linear.default": 1,
}


def layer_weights(graph: Graph) -> dict[str, int]:
    """The weights of convolutions and linear layers in running order, each with the axis of its inputs."""
    return {
        weight.name: _INPUT_AXES[node.op]
        for node in graph.nodes
        if node.op in _INPUT_AXES and isinstance(weight := node["weight"], Tensor)
    }


def norm_scales(graph: Graph) -> list[str]:
    """The scales of the batch norms that have one, in running order, each once."""
    scales = [node["weight"] for node in graph.nodes if node.op == "aten.batch_norm.default"]
    return list(dict.fromkeys(scale.name for scale in scales if isinstance(scale, Tensor)))
