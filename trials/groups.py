"""From labels to groups: which units exist, which must go together, which may not go at all, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import RequestError, nearest
from trials.blocks import Block, find_blocks, without_blocks
from trials.candidate import Axis, Candidate, Space
from trials.graph import Graph, Tensor, Value
from trials.labels import compact, varying
from trials.oprules import Attention, Product, Rule, TensorAxis, Traced, rule_of
from trials.polynomials import ONE, Polynomial, constant
from trials.tracing import labelled, parts_of
from trials.units import BLOCK, HEADS, Classes, Frozen, Group, collect, fixed, fixed_width, holds

Kept = Mapping[str, NDArray[np.int64]]
"""Group name → indices of the units that stay, ascending; a group left out stays whole.

Of a block none may be left.
"""


@dataclass(frozen=True)
class Coupling:
    """A graph with its groups: everything that pruning and costs need, worked out once per model.

    `vectors` are the distinct `Classes` of all axes that can shrink; a position stays where all of its
    classes do. `tensor_axes` maps (tensor, axis) and `value_axes` maps (value, item, axis) to an index into
    them. `traced` keeps the label array of every value, for its dense shape. `made` are the tensor axes that
    make units, `contracted` those that read them; `summed` are the classes that a product of two values sums
    over, such as the places of a query. `sized` are the positions of the nodes whose literals may change.
    `blocks` are those that may be dropped whole, each beside a group of its name.
    """

    graph: Graph
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    vectors: tuple[Classes, ...]
    tensor_axes: Mapping[tuple[str, int], int]
    contracted: frozenset[tuple[str, int]]
    made: frozenset[tuple[str, int]]
    value_axes: Mapping[tuple[str, int, int], int]
    traced: Mapping[str, Traced]
    summed: frozenset[int]
    classes: int
    sized: tuple[int, ...]
    blocks: tuple[Block, ...] = ()

    def space(self, *, step: int = 1, lowest_keep: float = 0.1) -> Space:
        """The candidates a search may propose: one axis per group, counts in steps of `step`.

        Heads go one by one. A group smaller than two steps takes the largest divisor of the step that leaves
        it a choice. A block is kept or not.
        """
        axes = []
        for group in self.groups:
            if group.kind == BLOCK:
                axes.append(Axis(name=group.name, size=1, lowest=0))
                continue
            allowed = range(1, min(step, group.size // 2) + 1)
            own = max((size for size in allowed if step % size == 0), default=1)
            own = 1 if group.kind == HEADS else own
            lowest = -(-max(1, round(lowest_keep * group.size)) // own) * own
            axes.append(Axis(name=group.name, size=group.size, step=own, lowest=lowest))
        return Space(tuple(axes))

    def group(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise RequestError(
            f"there is no prunable group {name!r}; {nearest(name, [g.name for g in self.groups])}"
        )

    def without(self, refused: Mapping[str, str]) -> Coupling:
        """The same coupling with these groups frozen: name → reason."""
        frozen = [
            Frozen(name=g.name, size=g.size, reason=refused[g.name]) for g in self.groups if g.name in refused
        ]
        groups = tuple(g for g in self.groups if g.name not in refused)
        blocks = tuple(b for b in self.blocks if b.name not in refused)
        return replace(self, groups=groups, blocks=blocks, frozen=(*self.frozen, *frozen))

    def dropped(self, kept: Kept) -> tuple[Block, ...]:
        """The blocks of which nothing is kept."""
        return tuple(block for block in self.blocks if block.name in kept and not len(kept[block.name]))

    def gone(self, candidate: Candidate) -> dict[str, str]:
        """The groups of which a candidate counts units though they go with a block, and that block's name.

        Of blocks within blocks it is the outermost.
        """
        kept = {group.name: count for group, count in zip(self.groups, candidate.kept, strict=True)}
        dropped = sorted(
            (block for block in self.blocks if not kept[block.name]), key=lambda block: len(block.tensors)
        )
        left = without_blocks(self.graph, dropped).tensors
        block_of = {tensor: block.name for block in dropped for tensor in block.tensors}
        found = {}
        for group in self.groups:
            tensors = [member.rpartition(":")[0] for member in group.members]
            if kept[group.name] and left.keys().isdisjoint(tensors):
                found[group.name] = block_of.get(tensors[0], dropped[-1].name)
        return found

    def alive(self, kept: Kept) -> NDArray[np.bool_]:
        """(classes + 1,) True where a class of units stays.

        Raises:
            RequestError: an unknown group, an index out of range, or a group left without units.
        """
        alive = np.ones(self.classes + 1, dtype=np.bool_)
        for name, indices in kept.items():
            group = self.group(name)
            whole = group.kind == BLOCK
            out_of_range = min(indices, default=0) < 0 or max(indices, default=0) >= group.size
            if out_of_range or not (whole or len(indices)):
                raise RequestError(
                    f"group {name!r} keeps units {list(indices)[:5]}; allowed: some of 0 to {group.size - 1}"
                )
            if whole:  # it has no labels
                continue
            alive[group.units] = False
            alive[group.units[indices]] = True
        return alive

    def stays(self, vector: int, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(positions,) True where a position along an axis with these classes stays."""
        stays: NDArray[np.bool_] = np.logical_and.reduce(alive[self.vectors[vector]])
        return stays

    @cached_property
    def silenced(self) -> frozenset[tuple[str, int]]:
        """The tensor axes of which zeros at removed positions silence the units that go.

        Those that read units; where a product of two values reads them, those that make them, instead.
        """
        summing = [np.isin(classes, list(self.summed)).any() for classes in self.vectors]
        return self.contracted | {axis for axis, vector in self.tensor_axes.items() if summing[vector]}

    @cached_property
    def lengths(self) -> tuple[Polynomial, ...]:
        """For each of `vectors` how many positions stay, by the kept counts of the groups in their order."""
        owner = np.full(self.classes + 1, -1)
        for number, group in enumerate(self.groups):
            owner[group.units] = number
        found = []
        for classes in self.vectors:
            together = Counter(tuple(sorted(set(owners) - {-1})) for owners in owner[classes].T.tolist())
            found.append(
                Polynomial(
                    {
                        owners: count / prod(self.groups[number].size for number in owners)
                        for owners, count in together.items()
                    }
                )
            )
        return tuple(found)

    def length(self, of: Value | Tensor, axis: int, item: int = 0) -> Polynomial:
        """How long an axis of a value, or of one of the parts of a list, or of a tensor is."""
        if isinstance(of, Tensor):
            vector, shape = self.tensor_axes.get((of.name, axis)), self.graph.tensors[of.name].shape
        else:
            vector = self.value_axes.get((of.name, item, axis))
            shape = parts_of(self.traced[of.name])[item].shape
        return constant(shape[axis]) if vector is None else self.lengths[vector]

    def product(self, axes: Sequence[tuple[Value | Tensor, int]], item: int = 0) -> Polynomial:
        """The product of the lengths of some axes."""
        return prod((self.length(of, axis, item) for of, axis in axes), start=ONE)


class PrunedSizes:
    """Sizes of values and tensors with some units gone (`oprules.Sizes`)."""

    def __init__(self, coupling: Coupling, alive: NDArray[np.bool_]) -> None:
        self.coupling = coupling
        self.masks = [coupling.stays(vector, alive) for vector in range(len(coupling.vectors))]

    def mask(self, of: Value | Tensor, axis: int) -> NDArray[np.bool_]:
        vector = self._vector(of, axis)
        return np.ones(self._shape(of)[axis], dtype=np.bool_) if vector is None else self.masks[vector]

    def size(self, of: Value | Tensor, axis: int) -> int:
        vector = self._vector(of, axis)
        return self._shape(of)[axis] if vector is None else int(self.masks[vector].sum())

    def rank(self, of: Value | Tensor) -> int:
        return len(self._shape(of))

    def _vector(self, of: Value | Tensor, axis: int) -> int | None:
        if isinstance(of, Tensor):
            return self.coupling.tensor_axes.get((of.name, axis))
        return self.coupling.value_axes.get((of.name, 0, axis))

    def _shape(self, of: Value | Tensor) -> tuple[int, ...]:
        if isinstance(of, Tensor):
            return self.coupling.graph.tensors[of.name].shape
        return parts_of(self.coupling.traced[of.name])[0].shape


def analyse(graph: Graph, *, blocks: bool = False) -> Coupling:
    """Find the groups of a graph, named by the user's own parameter names, in running order.

    What products of two values read is labelled twice, by heads and by their width. Each labelling couples
    the whole graph by itself; where units of both go, the product of the heads and places that stay is left.

    Args:
        blocks: whether whole residual blocks may go, too; they come behind all other groups.

    Raises:
        UnsupportedOpError: an op without a rule.
        BundleError: shapes that do not fit together, or larger than allowed.
    """
    found = [labelled(graph)]
    if any(isinstance(rule_of(node.op), Product | Attention) for node in graph.nodes):
        found.append(labelled(graph, by_width=True))
    tensors: dict[tuple[str, int], Classes] = {}
    values: dict[tuple[str, int, int], Classes] = {}
    uses: dict[tuple[str, int], dict[str, TensorAxis]] = defaultdict(dict)
    alone: set[int] = set()
    summed: set[int] = set()
    above = 0

    def rows(positions: int) -> Classes:
        return np.zeros((len(found), positions), dtype=np.int64)

    for granularity, one in enumerate(found):
        classes = np.where(one.classes > 0, one.classes + above, 0)
        above += len(classes) - 1
        for axis in one.axes:
            place = axis.tensor, axis.axis
            uses[place].setdefault(axis.role, axis)
            tensors.setdefault(place, rows(len(axis.labels)))[granularity] = classes[axis.labels]
        for name, traced in one.values.items():
            for item, part in enumerate(parts_of(traced)):
                small = classes[compact(part)]
                dims = varying(small)
                if not dims:
                    alone |= set(small.ravel()[:1].tolist())
                for dim in dims:
                    line = small[tuple(slice(None) if d == dim else 0 for d in range(small.ndim))]
                    values.setdefault((name, item, dim), rows(len(line)))[granularity] = line
        summed |= set(classes[list(one.units.summed)].tolist()) - {0}

    index: dict[bytes, int] = {}
    vectors: list[Classes] = []

    def indexed(classes: Classes) -> int:
        vector = index.setdefault(classes.tobytes(), len(vectors))
        if vector == len(vectors):
            vectors.append(classes)
        return vector

    tensor_axes = {place: indexed(classes) for place, classes in tensors.items() if classes.any()}
    bound: dict[int, list[TensorAxis]] = defaultdict(list)
    for place, vector in tensor_axes.items():
        bound[vector] += uses[place].values()
    value_axes = {place: indexed(classes) for place, classes in values.items() if classes.any()}
    groups, frozen = collect(vectors, bound, alone, summed, len(found[0].classes))
    pruned = {place for place, vector in tensor_axes.items() if holds(vectors[vector][:1], groups)}
    whole = find_blocks(graph, found[0].values, {group.name for group in groups}) if blocks else ()
    return Coupling(
        graph=graph,
        groups=(*groups, *map(_group_of, whole)),
        frozen=(
            *fixed(found[0]),
            *frozen,
            *(item for one in found[1:] for item in fixed_width(one, pruned)),
        ),
        vectors=tuple(vectors),
        tensor_axes=tensor_axes,
        contracted=_with_role("in", bound),
        made=_with_role("out", bound),
        value_axes=value_axes,
        traced=found[0].values,
        summed=frozenset(summed),
        classes=above,
        sized=tuple(i for i, node in enumerate(graph.nodes) if _resizes(rule_of(node.op))),
        blocks=whole,
    )


def _group_of(block: Block) -> Group:
    no_units = np.zeros(0, dtype=np.int64)
    members = tuple(f"{tensor}:*" for tensor in block.tensors)
    return Group(name=block.name, kind=BLOCK, size=1, width=1, units=no_units, members=members)


def _with_role(role: str, bound: Mapping[int, list[TensorAxis]]) -> frozenset[tuple[str, int]]:
    return frozenset(
        (axis.tensor, axis.axis) for found in bound.values() for axis in found if axis.role == role
    )


def _resizes(rule: Rule) -> bool:
    return type(rule).resize is not Rule.resize


def even_kept(coupling: Coupling, candidate: Candidate) -> Kept:
    """Units spread evenly over each group: a selection for costs and measurements, where any units do."""
    return {
        group.name: np.linspace(0, group.size - 1, count).round().astype(np.int64)
        for group, count in zip(coupling.groups, candidate.kept, strict=True)
    }
