"""The operators of a model: what each node is to the hardware, and what runs in one kernel. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hwprofiles.ops import ACTIVATIONS, INPUT, OpGraph, OpSpec
from trials.graph import Graph, Node, Value
from trials.groups import Coupling
from trials.labels import Units
from trials.oprules import Call, moving_axes, rule_of
from trials.polynomials import ZERO, Polynomial, constant
from trials.tracing import parts_of

_BILINEAR = {
    "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "attention", "matmul",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of the dense model; its channels, and the numbers of its `result`, by kept counts."""

    name: str
    spec: OpSpec
    in_channels: Polynomial
    out_channels: Polynomial
    result: Polynomial

    @property
    def macs(self) -> Polynomial:
        """Multiply-accumulates of one sample."""
        groups = max(1, self.spec.groups)
        macs = self.out_channels * constant(self.spec.with_channels(groups, groups).macs / groups**2)
        return macs * self.in_channels if self.spec.kind in _BILINEAR else macs


def of_nodes(coupling: Coupling) -> dict[str, Operator]:
    """Node → the operator that it is by itself, of all nodes for which something runs."""
    unit_axes: dict[str, tuple[int, ...]] = {}
    for value, item, axis in sorted(coupling.value_axes):
        if item == 0:
            unit_axes[value] = (*unit_axes.get(value, ()), axis)
    found = {}
    for node in coupling.graph.nodes:
        call = Call(node, Units(), coupling.traced, coupling.graph.tensors, unit_axes=unit_axes)
        spec = rule_of(node.op).operator(call, coupling.traced[node.name])
        if spec is not None:
            inward, outward = _channels(coupling, call, spec)
            found[node.name] = Operator(
                name=node.place,
                spec=spec,
                in_channels=inward,
                out_channels=outward,
                result=_result(coupling, node.name),
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


def _channels(coupling: Coupling, call: Call, spec: OpSpec) -> tuple[Polynomial, Polynomial]:
    """Channels in and out of an operator."""
    node = call.node
    if known := rule_of(node.op).channels(call):
        inward, outward = (sum((coupling.product(length) for length in lengths), ZERO) for lengths in known)
        return inward, outward
    made, parts = Value(node.name), parts_of(coupling.traced[node.name])
    source = next((arg for arg in node.args.values() if isinstance(arg, Value)), made)
    if "1d" in spec.kind or "2d" in spec.kind:
        return coupling.length(source, 1), coupling.length(made, 1)
    if spec.kind == "linear":
        (read,) = parts_of(coupling.traced[source.name])
        return coupling.length(source, read.ndim - 1), coupling.length(made, parts[0].ndim - 1)
    axes = [(made, axis) for axis in moving_axes(call, parts[0].ndim)]
    moved = sum((coupling.product(axes, item) for item in range(len(parts))), ZERO)
    return moved, moved


def _result(coupling: Coupling, value: str) -> Polynomial:
    """How many numbers a value holds, all of its parts together."""
    parts = parts_of(coupling.traced[value])
    axes = ([(Value(value), axis) for axis in range(part.ndim)] for part in parts)
    return sum((coupling.product(each, item) for item, each in enumerate(axes)), ZERO)


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
    "group_norm": _ACTIVATION,
    "instance_norm": _ACTIVATION,
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
