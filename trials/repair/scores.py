"""Queries and keys that lose places of their width: what stays of their scores is turned into those left.

A score is q . k, a sum over places. Where a matrix turns the queries of a head and its inverse, transposed,
the keys, every score stays as it is; so a turn that puts most of the scores into the fewest places costs
nothing, and what is then cut off is what scores miss least. Which places go does not matter after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trials.graph import Node, Value
from trials.groups import Coupling, Kept
from trials.labels import Units, compact, varying
from trials.oprules import Attention, Call, Product, rule_of
from trials.oprules.movement import Item, Move
from trials.oprules.pointwise import Free
from trials.repair.moments import RIDGE
from trials.tracing import parts_of

Tensors = Mapping[str, torch.Tensor]
Turn = tuple[torch.Tensor, torch.Tensor]
"""(heads, width, width) for queries, and for keys."""
_LAYERS = ("aten.linear.", "aten.conv1d.", "aten.conv2d.")
_SCALES = ("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar")


@dataclass(frozen=True, slots=True)
class Side:
    """The queries of a product, or its keys.

    `axes` bring `value` into the order (batch, …heads, …tokens, width). `tensors` are the weight and, if
    there is one, the bias of the layer that makes it; `rows` (heads, width) say which of their rows.
    """

    value: str
    axes: tuple[int, ...]
    tensors: tuple[str, ...]
    rows: NDArray[np.int64]

    def by_head(self, numbers: torch.Tensor) -> torch.Tensor:
        """(inputs, heads, tokens, width) of the value."""
        heads, width = self.rows.shape
        return numbers.permute(self.axes).reshape(len(numbers), heads, -1, width)


@dataclass(frozen=True, slots=True)
class Scores:
    """A product, the `node`, of queries and keys; each made by a layer and only moved, or scaled, since."""

    node: str
    query: Side
    key: Side


class ScoreSums:
    """Second moments of the queries and the keys of each head, as they come in: (heads, width, width)."""

    def __init__(self) -> None:
        self.queries: torch.Tensor | float = 0.0
        self.keys: torch.Tensor | float = 0.0

    def add(self, queries: torch.Tensor, keys: torch.Tensor) -> None:
        """(inputs, heads, tokens, width) each."""
        self.queries = self.queries + _second_moments(queries)
        self.keys = self.keys + _second_moments(keys)

    def turn(self) -> Turn:
        """Rows in the order of what scores would miss most.

        With moments Q and K of queries and keys that do not depend on each other, the best n places for all
        scores are the eigenvectors of the n largest eigenvalues of K^1/2 Q K^1/2.

        Source: Eckart and Young, The approximation of one matrix by another of lower rank, Psychometrika 1,
        1936, in the metric of both.
        """
        assert isinstance(self.queries, torch.Tensor)
        assert isinstance(self.keys, torch.Tensor)
        spread, axes = torch.linalg.eigh(self.keys)
        spread = (spread + RIDGE * spread.mean(1, keepdim=True) + 1e-12)[:, None, :]
        root, inverse = (axes * power @ axes.mT for power in (spread.sqrt(), spread.rsqrt()))
        worth, axes = torch.linalg.eigh(root @ self.queries @ root)
        axes, worth = axes.flip(2), worth.flip(1)
        # Both sides as large as each other: whatever is trained or quantised after this finds them so.
        even = (worth + RIDGE * worth.mean(1, keepdim=True) + 1e-12).pow(0.25)[:, :, None]
        return axes.mT @ root / even, axes.mT @ inverse * even


def _second_moments(values: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.einsum("nhti,nhtj->hij", values, values).double()
    return found


def find_scores(coupling: Coupling) -> list[Scores]:
    """The products whose queries and keys may be turned, in running order.

    Left out are those between which and their layers is more than data movement and a factor, such as rotary
    positions, a norm or a gain for each place; those whose queries or keys anything else reads; those of
    unlike numbers of heads; and those of layers that read units, which aim at what they made before.
    """
    operands = {node.name: pair for node in coupling.graph.nodes if (pair := _operands(coupling, node))}
    makers, found = _Makers(coupling), []
    for node, pair in operands.items():
        match [makers.side(*operand) for operand in pair]:
            case [Side() as query, Side() as key] if query.rows.shape == key.rows.shape:
                own = {(side.tensors[0], row) for side in (query, key) for row in side.rows.ravel().tolist()}
                if len(own) == 2 * query.rows.size:
                    found.append(Scores(node, query, key))
    return found


def turned(coupling: Coupling, tensors: Tensors, kept: Kept, turns: Sequence[tuple[Scores, Turn]]) -> Tensors:
    """The same model, queries and keys of which places go turned so that those that stay hold most."""
    changed = dict(tensors)
    alive = coupling.alive(kept)
    for scores, turn in turns:
        vector = coupling.tensor_axes.get((scores.query.tensors[0], 0))
        if vector is None:
            continue
        stays = coupling.stays(vector, alive)[scores.query.rows]
        if (stays == stays[:, :1]).all():  # whole heads, if any, go
            continue
        # What is worth most comes first, and goes where places stay.
        places = np.argsort(~stays, axis=1, kind="stable")
        for side, matrices in zip((scores.query, scores.key), turn, strict=True):
            order = np.take_along_axis(side.rows, places, 1)
            for name in side.tensors:
                own = changed[name][side.rows]
                made = torch.einsum("hij,hj...->hi...", matrices.to(own.dtype), own)
                changed[name] = changed[name].index_put((torch.from_numpy(order),), made)
    return changed


def _operands(coupling: Coupling, node: Node) -> list[tuple[str, tuple[int, ...], int]]:
    """What a node multiplies: each value, its axes as `Side` has them, and how many are batch and heads."""
    rule = rule_of(node.op)
    if isinstance(rule, Attention):
        axes = tuple(range(np.ndim(coupling.traced[node["query"].name])))
        return [(node[name].name, axes, len(axes) - 2) for name in ("query", "key")]
    if not isinstance(rule, Product):
        return []
    terms = rule.terms(Call(node, Units(), coupling.traced, coupling.graph.tensors))
    return [
        (
            operand.name,
            tuple(map(letters.index, terms.both + terms.own(number) + terms.summed)),
            len(terms.both),
        )
        for number, (operand, letters) in enumerate(zip(terms.operands, terms.letters, strict=True))
        if isinstance(operand, Value) and len(terms.summed) == 1 and terms.summed in letters
    ]


class _Makers:
    """Which layers make values, and how often something reads what they make."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.nodes = {node.name: node for node in coupling.graph.nodes}
        self.uses = Counter(name for node in self.nodes.values() for name in node.tensors)
        self.consumers = coupling.graph.consumers()

    def side(self, value: str, axes: tuple[int, ...], leading: int) -> Side | None:
        """Queries or keys, if they may be turned; see `find_scores`."""
        layer = self._layer(value)
        if layer is None:
            return None
        labels, made = (self.coupling.traced[name] for name in (value, layer.name))
        assert isinstance(labels, np.ndarray)
        labels = labels.transpose(axes)
        tokens = range(leading, labels.ndim - 1)
        if axes[0] != 0 or len(labels) > 1 or not set(varying(labels)).isdisjoint(tokens):
            return None
        firsts = labels[(slice(None),) * leading + (0,) * len(tokens)]
        reads = self._reads(layer.name)
        if any(reads[label] != 1 for label in firsts.ravel().tolist()):
            return None
        # A layer's units are numbered one by one.
        rows = firsts.reshape(-1, firsts.shape[-1]) - np.min(made)
        return Side(value, axes, tuple(layer.tensors), rows)

    def _reads(self, layer: str) -> Counter[int]:
        """How often each unit that a layer makes is read by what does more than pass it on."""
        reads: Counter[int] = Counter()
        passed = [layer]
        while passed:
            value = passed.pop()
            for node in self.consumers[value]:
                if _passes_on(node):
                    passed.append(node.name)
                else:
                    labels = [compact(part) for part in parts_of(self.coupling.traced[value])]
                    reads.update(
                        node.values.count(value) * np.unique(np.concatenate(labels, axis=None)).tolist()
                    )
        return reads

    def _layer(self, value: str) -> Node | None:
        """The layer that makes a value which is only moved, or scaled by a number, since."""
        while node := self.nodes.get(value):
            if node.op.startswith(_LAYERS):
                reads_units = (node.tensors[0], 1) in self.coupling.contracted
                own = all(self.uses[name] == 1 for name in node.tensors)
                return node if own and not reads_units and node.args.get("groups", 1) == 1 else None
            if not _passes_on(node):
                return None
            (value,) = node.values
        return None


def _passes_on(node: Node) -> bool:
    """Whether a node gives the elements of the only value that it reads, moved or times a number."""
    moved = isinstance(rule_of(node.op), Move | Item | Free) or node.op in _SCALES
    return moved and len(node.values) == 1 and not node.tensors
