"""Layer-wise relevance propagation: which units the answers rest on.

Relevance starts as 1 at each example's own class and is handed back, node by node, to what a value was made
of. It travels as the gradients of a network whose nodes compute what they always do, but hand back relevance:

- convolutions, linear layers and sums of values by their positive contributions (alpha 1, beta 0),
- norms and functions of a single value whole and in place,
- products, attention and other meetings of values by the epsilon rule, to each an equal part,
- data movement and pooling as gradients do.

Sources: Yeom et al., Pruning by Explaining, Pattern Recognition 115, 2021, arXiv 1912.08881; its rules are
those of Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
Propagation, PLoS ONE 10(7), 2015, section "Layer-wise relevance propagation". Departures: nodes that have no
rule there have those above, and biases take no relevance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from trials.criteria.evidence import Evidence, Readings, Scores, Tensors
from trials.graph import Graph, Node
from trials.network import Network, Step, build
from trials.oprules import rule_of
from trials.oprules.attention import Attention, Einsum, Matmul
from trials.oprules.norms import BatchNorm, GroupNorm, InstanceNorm, Statistics
from trials.oprules.pointwise import Elementwise
from trials.weights import layer_weights

_NORMS = BatchNorm | GroupNorm | InstanceNorm | Statistics

BATCH = 32
EPSILON = 0.01
"""Of the largest number of a value: keeps relevance bounded where contributions cancel."""
SMALLEST = 1e-30

Values = dict[str, Any]
"""Value name → a tensor, or a list of them."""


def relevance(evidence: Evidence) -> Scores:
    """Relevance of each unit for the examples' own classes, added up over examples, places and readers."""
    graph, readings = evidence.coupling.graph, Readings(evidence.coupling)
    explained = _Explained(graph, evidence.tensors)
    for inputs, labels in evidence.batches(BATCH):
        values = explained.run(inputs)
        logits, read = values[graph.outputs[0].name], [values[name] for name in readings.names]
        start = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        found = torch.autograd.grad(logits, read, start, materialize_grads=True)
        for name, each in zip(readings.names, found, strict=True):
            readings.add(name, each)
    return readings.totals()


class _Explained:
    """A network in eval mode whose gradients are relevance."""

    def __init__(self, graph: Graph, tensors: Tensors) -> None:
        self.graph = graph
        self.weights = layer_weights(graph)
        biases = {
            node["bias"].name: torch.zeros_like(tensors[node["bias"].name])
            for node in graph.nodes
            if self._is_layer(node) and node["bias"] is not None
        }
        above = {name: tensors[name].clamp(min=0) for name in self.weights}
        below = {name: tensors[name].clamp(max=0) for name in self.weights}
        self.whole = _still(graph, tensors)
        self.above, self.below = (_still(graph, {**tensors, **biases, **part}) for part in (above, below))

    def _is_layer(self, node: Node) -> bool:
        return "weight" in node.args and not self.weights.keys().isdisjoint(node.tensors)

    def run(self, inputs: tuple[torch.Tensor, ...]) -> Values:
        """Every value of the network, and of each the relevance by `torch.autograd.grad`."""
        values: Values = {item.name: _followed(x) for item, x in zip(self.graph.inputs, inputs, strict=True)}
        for step in self.whole.steps:
            values[step.name] = _followed(self._value(step, values, len(inputs[0])))
        return values

    def _value(self, step: Step, values: Values, batch: int) -> Any:
        node, rule = step.node, rule_of(step.node.op)
        result = step(self.whole, values, batch)
        sources = {name: values[name] for name in node.values if _is_number(values[name])}
        if not sources or not _is_number(result):
            return result
        if self._is_layer(node):
            name, x = node["input"].name, values[node["input"].name]
            made = step(self.above, {**values, name: _part(x, x.clamp(min=0))}, batch)
            made = made + step(self.below, {**values, name: _part(x, x.clamp(max=0))}, batch)
            return _made_of(result, made, made)
        if isinstance(rule, Elementwise | _NORMS) and len(sources) == 1:
            (x,) = sources.values()
            return result.detach() + (x - x.detach())
        if node.op == "aten.add.Tensor" and node["alpha"] == 1:
            one, other = sources.values()
            made = _part(one, one.clamp(min=0)) + _part(other, other.clamp(min=0))
            return _made_of(result, made, made)
        if isinstance(rule, Elementwise | Matmul | Einsum | Attention):
            made = step(self.whole, {**values, **{name: _part(x, x) for name, x in sources.items()}}, batch)
            away = torch.where(result < 0, -EPSILON, EPSILON) * result.abs().max()
            return _made_of(result, made / len(sources), result + away)
        return result


def _part(value: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """`part`, whose gradient flows into `value` times `part`."""
    return part.detach() * (1 + value - value.detach())


def _made_of(result: torch.Tensor, parts: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """`result`, whose gradient flows into `parts` over their `whole`, and is lost where that is nothing."""
    whole = torch.where(whole.abs() > SMALLEST, whole, torch.inf).detach()
    share = parts / whole
    return result.detach() + (share - share.detach())


def _followed(value: Any) -> Any:
    """The value as something that has a gradient."""
    return value.detach().requires_grad_() if _is_number(value) and not value.requires_grad else value


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _still(graph: Graph, tensors: Tensors) -> Network:
    """A network in eval mode that is not trained."""
    return build(graph, tensors).eval().requires_grad_(False)
