"""What a candidate costs, by arithmetic: MACs, parameters and operators, thousands of candidates a second.

Every axis that can shrink is an affine function of the kept counts, so a whole population is a few matrix
products. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hwprofiles.ops import ACTIVATIONS, INPUT, OpGraph, OpSpec
from trials.candidate import Candidate, Counts, as_counts
from trials.graph import Graph, Node, Value
from trials.groups import Coupling
from trials.labels import Units
from trials.oprules import Call, rule_of

_BILINEAR = {"conv2d", "conv_transpose2d", "linear"}

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


class Costs:
    """Costs of candidates of one model. A population is `Counts`: (candidates, groups).

    `op_graph` is the dense model's; `operators` are its operators in the same order, with what prunes them.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.operators, self.op_graph = _operators(coupling)
        # Sparse: most operators follow one group, and a dense product waits for cores that workers keep busy.
        shape = len(self.operators), len(coupling.groups)
        self._in, self._out = (
            csr_array(np.array(rows, dtype=np.float32).reshape(shape))  # exact up to 2**24 channels
            for rows in (
                [op.in_coefficients for op in self.operators],
                [op.out_coefficients for op in self.operators],
            )
        )
        self._in_constant = np.array([op.in_constant for op in self.operators], dtype=np.float32)
        self._out_constant = np.array([op.out_constant for op in self.operators], dtype=np.float32)
        groups = [max(1, op.spec.groups) for op in self.operators]
        self._macs = np.array(
            [op.spec.with_channels(g, g).macs / g**2 for op, g in zip(self.operators, groups, strict=True)]
        )
        self._bilinear = np.array([op.spec.kind in _BILINEAR for op in self.operators])
        trainable = (name for name, spec in coupling.graph.tensors.items() if spec.trainable)
        self._trainable = TensorSizes(coupling, trainable)

    def channels(self, counts: Counts) -> tuple[Counts, Counts]:
        """(candidates, operators) channels in and out; those of one operator lie together in memory."""
        kept = np.ascontiguousarray(counts.T, dtype=np.float32)
        inward = np.rint(self._in_constant[:, None] + self._in @ kept).astype(np.int64)
        outward = np.rint(self._out_constant[:, None] + self._out @ kept).astype(np.int64)
        return inward.T, outward.T

    def candidate_graph(self, candidate: Candidate) -> OpGraph:
        inward, outward = self.channels(as_counts([candidate]))
        return self.op_graph.with_channels(inward[0].tolist(), outward[0].tolist())

    def macs(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates,) multiply-accumulates of one sample, in convolutions, linear layers and attention."""
        inward, outward = self.channels(counts)
        work = self._macs * outward * np.where(self._bilinear, inward, 1)
        total: NDArray[np.float64] = np.rint(work.sum(axis=1))
        return total

    def parameters(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates,) trainable numbers."""
        total: NDArray[np.float64] = self._trainable.numbers(counts).sum(axis=1)
        return total

    @property
    def touched(self) -> NDArray[np.bool_]:
        """(groups, operators) True where an operator shrinks with a group."""
        touched: NDArray[np.bool_] = (self._in.toarray() > 0) | (self._out.toarray() > 0)
        return touched.T

    def macs_shares(self) -> NDArray[np.float64]:
        """(groups,) the part of the dense model's MACs in operators that shrink with each group."""
        macs = np.array([op.spec.macs for op in self.operators], dtype=np.float64)
        shares: NDArray[np.float64] = self.touched @ macs / max(1.0, macs.sum())
        return shares


class TensorSizes:
    """How many numbers each of some tensors holds: the product of its axes, some of which units shrink."""

    def __init__(self, coupling: Coupling, names: Iterable[str]) -> None:
        self._tensors: list[tuple[int, list[Affine]]] = []
        for name in names:
            shape = coupling.graph.tensors[name].shape
            vectors = [coupling.tensor_axes.get((name, axis)) for axis in range(len(shape))]
            fixed = math.prod(size for size, vector in zip(shape, vectors, strict=True) if vector is None)
            moving = [coupling.coefficients(vector) for vector in vectors if vector is not None]
            self._tensors.append((fixed, moving))

    def numbers(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates, tensors) whole numbers."""
        found = np.empty((len(counts), len(self._tensors)))
        for column, (fixed, moving) in enumerate(self._tensors):
            found[:, column] = fixed
            for constant, coefficients in moving:
                found[:, column] *= constant + counts @ coefficients
        return np.rint(found)


def _operators(coupling: Coupling) -> tuple[tuple[Operator, ...], OpGraph]:
    graph = coupling.graph
    made_by: dict[str, int] = {item.name: INPUT for item in graph.inputs}
    sources: list[tuple[int, ...]] = []
    channel_axes = {value: axis for value, item, axis in coupling.value_axes if item == 0}
    epilogues = _epilogues(graph)
    nodes = {node.name: node for node in graph.nodes}
    absorbed = {node for chain in epilogues.values() for node, _ in chain}
    found: list[Operator] = []
    for node in graph.nodes:
        if node.name in absorbed:
            continue
        read = [made_by[name] for name in node.values if name in made_by]
        call = Call(node, Units(), coupling.traced, graph.tensors, channel_axes=channel_axes)
        spec = rule_of(node.op).operator(call, coupling.traced[node.name])
        if spec is None:
            if read:
                made_by[node.name] = read[0]
            continue
        made_by[node.name] = len(found)
        if node.name in epilogues:
            spec = replace(spec, fused=tuple(name for _, name in epilogues[node.name]))
            chain = [nodes[name] for name, _ in epilogues[node.name]]
            made_by |= dict.fromkeys((item.name for item in chain), len(found))
            beside = (name for item in chain for name in item.values)
            read += [made_by[name] for name in beside if made_by.get(name, len(found)) != len(found)]
        sources.append(tuple(dict.fromkeys(read)))
        source, result = _channel_axes(coupling, node, spec)
        found.append(
            Operator(
                name=node.place,
                spec=spec,
                in_constant=source[0],
                in_coefficients=source[1],
                out_constant=result[0],
                out_coefficients=result[1],
            )
        )
    outputs = tuple(dict.fromkeys(made_by[value.name] for value in graph.outputs if value.name in made_by))
    operators = tuple(operator.spec for operator in found)
    return tuple(found), OpGraph(operators=operators, sources=tuple(sources), outputs=outputs)


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
