"""The operators of a model: what each node is to the hardware, and what runs in one kernel. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwprofiles.ops import ACTIVATIONS, INPUT, OpGraph, OpSpec
from trials.graph import Graph, Node, Value
from trials.groups import Coupling
from trials.labels import Units
from trials.oprules import Call, rule_of

Affine = tuple[float, NDArray[np.float64]]
"""A size as `constant + coefficients @ kept`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of the dense model; its channels are `constant + coefficients @ kept`."""

    name: str
    spec: OpSpec
    in_constant: float
    in_coefficients: NDArray[np.float64]
    out_constant: float
    out_coefficients: NDArray[np.float64]


def of_nodes(coupling: Coupling) -> dict[str, Operator]:
    """Node → the operator that it is by itself, of all nodes for which something runs."""
    channel_axes = {value: axis for value, item, axis in coupling.value_axes if item == 0}
    found = {}
    for node in coupling.graph.nodes:
        call = Call(node, Units(), coupling.traced, coupling.graph.tensors, channel_axes=channel_axes)
        spec = rule_of(node.op).operator(call, coupling.traced[node.name])
        if spec is not None:
            source, result = _channel_axes(coupling, node, spec)
            found[node.name] = Operator(
                name=node.place,
                spec=spec,
                in_constant=source[0],
                in_coefficients=source[1],
                out_constant=result[0],
                out_coefficients=result[1],
            )
    return found


def in_order(graph: Graph, each: Mapping[str, Operator]) -> tuple[dict[str, Operator], OpGraph]:
    """The operators of a graph in running order, by the nodes that they start from, and as a network.

    Args:
        each: what each node is by itself; here those that may run in the kernel of another are part of it.
    """
    made_by: dict[str, int] = {item.name: INPUT for item in graph.inputs}
    sources: list[tuple[int, ...]] = []
    epilogues = _epilogues(graph)
    nodes = {node.name: node for node in graph.nodes}
    absorbed = {node for chain in epilogues.values() for node, _ in chain}
    found: dict[str, Operator] = {}
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        read = [made_by[name] for name in node.values if name in made_by]
        operator = each.get(node.name)
        if operator is None:
            if read:
                made_by[node.name] = read[0]
            continue
        made_by[node.name] = len(found)
        if node.name in epilogues:
            fused = tuple(name for _, name in epilogues[node.name])
            operator = replace(operator, spec=replace(operator.spec, fused=fused))
            chain = [nodes[name] for name, _ in epilogues[node.name]]
            made_by |= dict.fromkeys((item.name for item in chain), len(found))
            beside = (name for item in chain for name in item.values)
            read += [made_by[name] for name in beside if made_by.get(name, len(found)) != len(found)]
        sources.append(tuple(dict.fromkeys(read)))
        found[node.name] = operator
    outputs = tuple(dict.fromkeys(made_by[value.name] for value in graph.outputs if value.name in made_by))
    specs = tuple(operator.spec for operator in found.values())
    op_graph = OpGraph(operators=specs, sources=tuple(sources), outputs=outputs)
    return found, op_graph


def _channel_axes(coupling: Coupling, node: Node, spec: OpSpec) -> tuple[Affine, Affine]:
    """Channels in and out of an operator as affine functions of kept counts."""

    def affine(value: str, axis: int, dense: int) -> Affine:
        """The channel count `dense` lies along `axis`, times what else the operator counts as channels."""
        traced = coupling.traced[value]
        parts = traced if isinstance(traced, tuple) else (traced,)
        constant, coefficients, size = 0.0, np.zeros(len(coupling.groups)), 0
        for item, part in enumerate(parts):
            axis_item = axis % part.ndim if part.ndim else 0
            vector = coupling.value_axes.get((value, item, axis_item))
            size += part.shape[axis_item] if part.ndim else 1
            if vector is None:
                constant += part.shape[axis_item] if part.ndim else 1
            else:
                more, rates = coupling.coefficients(vector)
                constant, coefficients = constant + more, coefficients + rates
        times = dense / size
        return constant * times, coefficients * times

    def unit_axis(value: str) -> int:
        return next((axis for name, _, axis in coupling.value_axes if name == value), 0)

    first = next((arg for arg in node.args.values() if isinstance(arg, Value)), None)
    source = first.name if first is not None else node.name
    match spec.kind:
        case kind if "2d" in kind:
            axes = (1, 1)
        case "linear":
            axes = (-1, -1)
        case "attention" | "matmul":
            axes = (unit_axis(source), unit_axis(source))
            return affine(source, axes[0], spec.in_channels), affine(source, axes[1], spec.out_channels)
        case _:
            axis = unit_axis(node.name)
            return affine(node.name, axis, spec.in_channels), affine(node.name, axis, spec.out_channels)
    return affine(source, axes[0], spec.in_channels), affine(node.name, axes[1], spec.out_channels)


def _epilogues(graph: Graph) -> dict[str, list[tuple[str, str]]]:
    """Layer → what follows it alone, as (node, what), in the order of `_EPILOGUES`.

    A sum belongs to the later of its two operands: the earlier one has to wait for it.
    """
    consumers = graph.consumers()
    order = {node.name: position for position, node in enumerate(graph.nodes)}
    outputs = {value.name for value in graph.outputs}
    taken: set[str] = set()
    found: dict[str, list[tuple[str, str]]] = {}
    for node in graph.nodes:
        places = _EPILOGUES.get(_plain_name(node), {})
        if not places or node.name in taken:
            continue
        chain: list[tuple[str, str]] = []
        tail, place = node.name, -1
        while len(consumers[tail]) == 1 and tail not in outputs:
            after = consumers[tail][0]
            what = _plain_name(after)
            if after.name in taken:
                break
            if what == "dropout":
                tail = after.name
                continue
            if places.get(what, -1) <= place or not _joins(after, what):
                break
            if what == "add":
                other = next((name for name in after.values if name != tail), tail)
                if order.get(other, -1) > order[tail]:
                    break
            chain.append((after.name, what))
            taken.add(after.name)
            tail, place = after.name, places[what]
        if chain:
            found[node.name] = chain
    return found


_ACTIVATION = dict.fromkeys(ACTIVATIONS, 2)
_EPILOGUES: dict[str, dict[str, int]] = {
    "conv2d": {"batch_norm": 0, "add": 1, **_ACTIVATION},
    "conv_transpose2d": {"batch_norm": 0, "add": 1, **_ACTIVATION},
    "linear": {"batch_norm": 0, "add": 1, "layer_norm": 2, **_ACTIVATION},
    "batch_norm": _ACTIVATION,
    "matmul": {"div": 0, "mul": 0},
}
"""What may follow which layer in the same kernel, each at its place."""


def _plain_name(node: Node) -> str:
    return node.op.split(".")[1] if "." in node.op else ""


def _joins(node: Node, what: str) -> bool:
    """Whether a node is a plain sum of two values, or a product with a number, where it is either."""
    if what == "add":
        return len(node.values) == 2 and node.args.get("alpha") in (None, 1)
    return what not in ("div", "mul") or (len(node.values) == 1 and not node.tensors)
