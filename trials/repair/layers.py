"""Which layers a repair refits, where the error of each shows, and their weights as matrices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trials.graph import Graph, Node, Tensor
from trials.groups import Coupling

TRANSPOSED = "aten.conv_transpose"
EVERYWHERE = (-math.inf, math.inf)
_KINDS = ("aten.conv1d", "aten.conv2d", TRANSPOSED, "aten.linear")


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, transposed or not, or linear layer that reads units that may go.

    Its matrix is (outputs, features), the features in the order (tap of the kernel, input channel).

    `norm` is the batch norm that follows it alone. `target` is the value that should stay as in the dense
    model: the layer's own output, or the residual sum behind it, to which `beside` adds; "" if none does.
    `passes` is the range in which alone an activation right behind it tells numbers apart, of what its norm
    makes; everywhere without one. `shape` is that of its weight in the dense model.
    """

    node: Node
    weight: str
    bias: str
    norm: Node | None
    target: str
    beside: str
    passes: tuple[float, float]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the node, and so of the layer's output."""
        return self.node.name

    @property
    def spatial(self) -> bool:
        return len(self.shape) > 2

    @property
    def transposed(self) -> bool:
        return self.node.op.startswith(TRANSPOSED)

    @property
    def input_axis(self) -> int:
        """Of the weight, whose other one of the first two is that of the outputs."""
        return 0 if self.transposed else 1

    @property
    def features(self) -> int:
        """How many numbers an output is a sum of, in the dense model."""
        return self.shape[self.input_axis] * math.prod(self.shape[2:])

    @property
    def intercept(self) -> str:
        """The tensor that can shift the layer's outputs: its bias, or the mean its norm takes off; or ""."""
        if self.bias or self.norm is None:
            return self.bias
        mean: str = self.norm["running_mean"].name
        return mean

    @property
    def changes(self) -> list[str]:
        """The tensors that a repair of this layer writes."""
        return [name for name in (self.weight, self.intercept) if name]

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, pruned or not, as (outputs, features)."""
        return self._outputs_first(weight).flatten(1)

    def write(
        self, tensors: Mapping[str, torch.Tensor], matrix: torch.Tensor, intercept: torch.Tensor
    ) -> None:
        """Put a solution into the layer's tensors, in place."""
        weight = self._outputs_first(tensors[self.weight])
        weight.copy_(matrix.reshape(weight.shape))
        if self.bias:
            tensors[self.bias].copy_(intercept)
        elif self.intercept:
            # The norm subtracts its running mean from the layer's output: an intercept moves that instead.
            tensors[self.intercept].sub_(intercept)

    def _outputs_first(self, weight: torch.Tensor) -> torch.Tensor:
        """A view: (outputs, taps of the kernel if it has one, inputs)."""
        return (weight.transpose(0, 1) if self.transposed else weight).movedim(1, -1)

    def inputs(self, coupling: Coupling, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(channels,) True for those that it still reads; `alive` as `Coupling.alive` has it."""
        return self._alive(self.input_axis, coupling, alive)

    def outputs(self, coupling: Coupling, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(channels,) True for those that it still makes."""
        return self._alive(1 - self.input_axis, coupling, alive)

    def _alive(self, axis: int, coupling: Coupling, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        vector = coupling.tensor_axes.get((self.weight, axis))
        if vector is None:
            return np.ones(self.shape[axis], dtype=np.bool_)
        return coupling.stays(vector, alive)

    def read_by(self, channels: NDArray[np.int64]) -> torch.Tensor:
        """(..., taps) features, of the dense model, that input channels (...) are read by."""
        taps = np.arange(math.prod(self.shape[2:])) * self.shape[self.input_axis]
        return torch.from_numpy(channels[..., None] + taps)


def layers(coupling: Coupling) -> list[Layer]:
    """The layers to repair, in running order.

    Left out are those in groups, and those that share a tensor with another use of it.
    """
    graph = coupling.graph
    uses = Counter(name for node in graph.nodes for name in node.tensors)
    consumers = graph.consumers()
    found = []
    for node in graph.nodes:
        weight, bias = node.args.get("weight"), node.args.get("bias")
        if (
            not node.op.startswith(_KINDS)
            or not isinstance(weight, Tensor)
            or node.args.get("groups", 1) != 1
        ):
            continue
        norm, target, beside, passes = _aim(graph, consumers, node)
        layer = Layer(
            node=node,
            weight=weight.name,
            bias=bias.name if isinstance(bias, Tensor) else "",
            norm=norm,
            target=target,
            beside=beside,
            passes=passes,
            shape=tuple(graph.tensors[weight.name].shape),
        )
        reads_units = (weight.name, layer.input_axis) in coupling.contracted
        if reads_units and all(uses[name] == 1 for name in layer.changes):
            found.append(layer)
    return found


def _aim(
    graph: Graph, consumers: Mapping[str, list[Node]], layer: Node
) -> tuple[Node | None, str, str, tuple[float, float]]:
    """`norm`, `target`, `beside` and `passes`: follow its output for as long as one node alone reads it."""
    outputs = {value.name for value in graph.outputs}
    norm, tail = None, layer.name
    while len(consumers[tail]) == 1 and tail not in outputs:
        after = consumers[tail][0]
        if _is_residual_sum(after):
            other = next((name for name in after.values if name != tail), tail)
            if _ready_before(graph, other, layer.name):
                return norm, after.name, other, EVERYWHERE
            break
        if norm is None and _is_norm(after):
            norm = after
        elif after.op != "aten.dropout.default":
            return norm, layer.name, "", _passes(after)
        tail = after.name
    return norm, layer.name, "", EVERYWHERE


def _passes(node: Node) -> tuple[float, float]:
    if node.op == "aten.relu.default":
        return 0.0, math.inf
    return (node["min_val"], node["max_val"]) if node.op == "aten.hardtanh.default" else EVERYWHERE


def _is_residual_sum(node: Node) -> bool:
    return node.op == "aten.add.Tensor" and len(node.values) == 2 and node.args.get("alpha") == 1


def _is_norm(node: Node) -> bool:
    parts = ("weight", "bias", "running_mean", "running_var")
    return node.op == "aten.batch_norm.default" and all(isinstance(node[name], Tensor) for name in parts)


def _ready_before(graph: Graph, value: str, layer: str) -> bool:
    """Whether a value can be computed before a layer runs, without any layer that may itself need repair."""
    order = {node.name: position for position, node in enumerate(graph.nodes)}
    while order.get(value, -1) > order[layer]:
        node = graph.nodes[order[value]]
        if len(node.values) != 1 or "weight" in node.args:
            return False
        value = node.values[0]
    return True
