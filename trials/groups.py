"""From labels to groups: which units exist, which must go together, which may not go at all, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import BundleError, RequestError, nearest
from trials.blocks import Block, find_blocks
from trials.candidate import Axis, Candidate, Space
from trials.graph import MAX_ELEMENTS, Graph, Tensor, Value, module_of
from trials.labels import LabelArray, Units, blank, compact, lines, varying, written
from trials.oprules import Call, Rule, TensorAxis, Traced, rule_of

MAX_VALUE_RANK = 10
BLOCK = "block"
"""The kind of a group that is a whole residual block."""

Kept = Mapping[str, NDArray[np.int64]]
"""Group name → indices of the units that stay, ascending; a group left out stays whole.

Of a block none may be left.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that may be removed one by one, each of them with everything it is coupled to.

    `units` (size,) are label classes in the order of the first tensor that makes them. `members` are the
    tensor axes that shrink, as "name:axis"; `width` is how many positions of the first one unit owns. `kind`
    is "heads" where some of those are neighbours, and "channels" elsewhere, as in a gated unit of two halves.

    A whole residual block is a group of one unit, of kind "block", that has no label and may go as well.
    """

    name: str
    kind: str
    size: int
    width: int
    units: NDArray[np.int64]
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Units that stay, under the name their group would have had."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Coupling:
    """A graph with its groups: everything that pruning and costs need, worked out once per model.

    `vectors` are the distinct label vectors of all axes that can shrink, as classes; `tensor_axes` maps
    (tensor, axis) and `value_axes` maps (value, item, axis) to an index into them. `traced` keeps the label
    array of every value, for its dense shape. `made` are the tensor axes that make units, `contracted` those
    that read them. `sized` are the positions of the nodes whose literals may change. `blocks` are those that
    may be dropped whole, each beside a group of its name.
    """

    graph: Graph
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    vectors: tuple[NDArray[np.int64], ...]
    tensor_axes: Mapping[tuple[str, int], int]
    contracted: frozenset[tuple[str, int]]
    made: frozenset[tuple[str, int]]
    value_axes: Mapping[tuple[str, int, int], int]
    traced: Mapping[str, Traced]
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
            divisors = [size for size in range(1, step + 1) if step % size == 0]
            own = max((size for size in divisors if 2 * size <= group.size), default=1)
            own = 1 if group.kind == "heads" else own
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

    def coefficients(self, vector: int) -> tuple[float, NDArray[np.float64]]:
        """How the size of an axis follows from kept counts: `constant + coefficients (groups,) @ kept`."""
        counts = np.bincount(self.vectors[vector], minlength=self.classes + 1)
        per_group = np.array([counts[group.units].sum() / group.size for group in self.groups])
        return float(counts.sum() - sum(counts[group.units].sum() for group in self.groups)), per_group


class PrunedSizes:
    """Sizes of values and tensors with some units gone (`oprules.Sizes`)."""

    def __init__(self, coupling: Coupling, alive: NDArray[np.bool_]) -> None:
        self.coupling = coupling
        self.masks = [alive[vector] for vector in coupling.vectors]

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
        return _parts(self.coupling.traced[of.name])[0].shape


def trace(graph: Graph) -> tuple[Units, dict[str, Traced], list[TensorAxis]]:
    """Run every op's rule on label arrays at batch 1.

    Raises:
        UnsupportedOpError: an op without a rule.
        BundleError: shapes that do not fit together, or larger than allowed.
    """
    units, axes = Units(), list[TensorAxis]()
    values: dict[str, Traced] = {item.name: blank((1, *item.shape)) for item in graph.inputs}
    for node in graph.nodes:
        try:
            result = rule_of(node.op).trace(Call(node, units, values, graph.tensors, axes))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
            raise BundleError(
                f"node {node.name!r} ({node.op}) is not a valid call: {type(error).__name__} {error}; "
                "export the model again"
            ) from None
        for part in _parts(result):
            units.charge(written(part))
            if part.ndim > MAX_VALUE_RANK or not 0 < part.size <= MAX_ELEMENTS:
                raise BundleError(
                    f"node {node.name!r} ({node.op}) makes a value of shape {part.shape}; "
                    f"allowed: at most {MAX_VALUE_RANK} axes and 1 to {MAX_ELEMENTS} elements"
                )
        values[node.name] = result
    for output in graph.outputs:
        labels = values[output.name]
        if isinstance(labels, tuple):
            raise BundleError(f"the graph returns the list {output.name!r}; allowed: single values")
        units.fix(labels, "it is an output of the model")
    return units, values, axes


def _parts(traced: Traced) -> tuple[LabelArray, ...]:
    return traced if isinstance(traced, tuple) else (traced,)


def analyse(graph: Graph, *, blocks: bool = False) -> Coupling:
    """Find the groups of a graph, named by the user's own parameter names, in running order.

    Args:
        blocks: whether whole residual blocks may go, too; they come behind all other groups.

    Raises:
        UnsupportedOpError: an op without a rule.
        BundleError: shapes that do not fit together, or larger than allowed.
    """
    units, values, axes = trace(graph)
    _join_shared_tensors(graph, units, axes)
    classes = _make_rectangular(units, values, _rigid(graph, values))

    vectors: list[NDArray[np.int64]] = []
    index: dict[bytes, int] = {}

    def vector_of(labels: LabelArray) -> int | None:
        vector = classes[labels]
        if not vector.any():
            return None
        found = index.setdefault(vector.tobytes(), len(vectors))
        if found == len(vectors):
            vectors.append(vector)
        return found

    tensor_axes: dict[tuple[str, int], int] = {}
    bound: dict[int, list[TensorAxis]] = defaultdict(list)
    for axis in axes:
        vector = vector_of(axis.labels)
        if vector is not None:
            tensor_axes[axis.tensor, axis.axis] = vector
            bound[vector].append(axis)
    value_axes: dict[tuple[str, int, int], int] = {}
    alone: set[int] = set()
    for name, traced in values.items():
        for item, part in enumerate(_parts(traced)):
            small = compact(part)
            dims = varying(classes[small])
            if not dims:
                alone |= set(classes[small].ravel()[:1].tolist())
            for dim in dims:
                vector = vector_of(small[tuple(slice(None) if d == dim else 0 for d in range(small.ndim))])
                if vector is not None:
                    value_axes[name, item, dim] = vector
    groups, frozen = _collect(vectors, bound, alone)
    found = find_blocks(graph, values, {group.name for group in groups}) if blocks else ()
    return Coupling(
        graph=graph,
        groups=(*groups, *map(_group_of, found)),
        frozen=(*_fixed(units, classes, axes), *frozen),
        vectors=tuple(vectors),
        tensor_axes=tensor_axes,
        contracted=_with_role("in", bound),
        made=_with_role("out", bound),
        value_axes=value_axes,
        traced=values,
        classes=len(classes) - 1,
        sized=tuple(i for i, node in enumerate(graph.nodes) if _resizes(rule_of(node.op))),
        blocks=found,
    )


def _group_of(block: Block) -> Group:
    no_units = np.zeros(0, dtype=np.int64)
    return Group(name=block.name, kind=BLOCK, size=1, width=1, units=no_units, members=())


def _with_role(role: str, bound: Mapping[int, list[TensorAxis]]) -> frozenset[tuple[str, int]]:
    return frozenset(
        (axis.tensor, axis.axis) for found in bound.values() for axis in found if axis.role == role
    )


def _resizes(rule: Rule) -> bool:
    return type(rule).resize is not Rule.resize


def _join_shared_tensors(graph: Graph, units: Units, axes: list[TensorAxis]) -> None:
    """A tensor that is used twice loses the same positions for both uses, or none if a use needs it whole."""
    uses: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for node in graph.nodes:
        for argument, arg in node.args.items():
            for item in arg if isinstance(arg, tuple) else (arg,):
                if isinstance(item, Tensor):
                    uses[item.name].add((node.name, argument))
    shared: dict[tuple[str, int], list[TensorAxis]] = defaultdict(list)
    for axis in axes:
        shared[axis.tensor, axis.axis].append(axis)
    for (tensor, _), bound in shared.items():
        for axis in bound[1:]:
            units.join(bound[0].labels, axis.labels)
        whole = np.any([axis.labels == 0 for axis in bound], axis=0) | (
            uses[tensor] > {axis.use for axis in bound}
        )
        for axis in bound:
            units.fix(axis.labels[whole], f"{tensor} is also used where units cannot go")


@dataclass(frozen=True, slots=True)
class _Rigid:
    """An axis that must keep its size because a literal of `node` counts along it."""

    node: str
    labels: LabelArray
    axis: int


def _rigid(graph: Graph, values: Mapping[str, Traced]) -> list[_Rigid]:
    found = []
    for node in graph.nodes:
        read = node.args.get("self")
        labels = values[read.name] if isinstance(read, Value) else None
        if isinstance(labels, np.ndarray):
            found += [
                _Rigid(node.name, compact(labels), axis) for axis in rule_of(node.op).rigid(node, labels.ndim)
            ]
    return found


def _make_rectangular(units: Units, values: Mapping[str, Traced], rigid: list[_Rigid]) -> LabelArray:
    """Join units until removing any class leaves every value a full array; returns `Units.classes`.

    Where a value's classes change along several axes, the one with most units keeps them and the others are
    tied: a channel shuffle then loses the same channels from each of its parts. What still changes along a
    rigid axis after that is fixed.
    """
    small = {id(part): compact(part) for traced in values.values() for part in _parts(traced)}
    pending = [part for part in small.values() if part.any()]
    while True:
        classes = units.classes()
        pending = [part for part in pending if classes[part].any()]
        uneven = [part for part in pending if len(varying(classes[part])) > 1]
        for part in uneven:
            changing = varying(classes[part])
            changing.remove(max(changing, key=lambda axis: lines(classes[part], axis)))
            for axis in changing:
                part = units.tie(part, axis)
        stuck = [one for one in rigid if one.axis in varying(classes[one.labels])]
        if not uneven and not stuck:
            return classes
        if not uneven:
            for one in stuck:
                units.fix(one.labels, f"{one.node} counts along them")


def _collect(
    vectors: list[NDArray[np.int64]], bound: Mapping[int, list[TensorAxis]], alone: Collection[int]
) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    """Classes that sit in the same axes, equally often, are the units of one group.

    One that is all of some value, in `alone`, is a group by itself: without it the value would be empty.
    """
    signature: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for vector, classes in enumerate(vectors):
        found, counts = np.unique(classes, return_counts=True)
        for one, count in zip(found.tolist(), counts.tolist(), strict=True):
            if one:
                signature[one].append((vector, count))
    for one in signature.keys() & alone:
        signature[one].append((-one, 0))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for one in sorted(signature):
        alike[tuple(signature[one])].append(one)

    groups: list[Group] = []
    frozen: list[Frozen] = []
    names: dict[str, int] = defaultdict(int)
    for sign, units in alike.items():
        members = [(axis, vector) for vector, _ in sign for axis in bound.get(vector, ())]
        makers = [(axis, vector) for axis, vector in members if axis.role == "out"]
        if not makers:
            continue
        first, vector = makers[0]
        positions = np.flatnonzero(vectors[vector] == units[0])
        name = module_of(first.tensor)
        names[name] += 1
        if names[name] > 1:
            name = f"{name}#{names[name]}"
        if not any(axis.role == "in" for axis, _ in members):
            frozen.append(Frozen(name=name, size=len(units), reason="no layer reads it through weights"))
        elif len(units) == 1:
            many = f"its {len(positions)} channels can only go all at once"
            reason = many if len(positions) > 1 else "it is a single unit, so nothing can go"
            frozen.append(Frozen(name=name, size=len(positions), reason=reason))
        else:
            axes = tuple(dict.fromkeys(f"{axis.tensor}:{axis.axis}" for axis, _ in members))
            groups.append(
                Group(
                    name=name,
                    kind="heads" if 1 in np.diff(positions) else "channels",
                    size=len(units),
                    width=len(positions),
                    units=np.array(units),
                    members=axes,
                )
            )
    return tuple(groups), tuple(frozen)


def _fixed(units: Units, classes: LabelArray, axes: list[TensorAxis]) -> list[Frozen]:
    """Each tensor that makes fixed units, with the reason of the first of them."""
    found: dict[str, Frozen] = {}
    for axis in axes:
        stuck = [label for label in axis.labels.tolist() if label and classes[label] == 0]
        if axis.role == "out" and stuck:
            frozen = Frozen(name=module_of(axis.tensor), size=len(stuck), reason=units.reason(stuck[0]))
            found.setdefault(axis.tensor, frozen)
    return list(found.values())


def even_kept(coupling: Coupling, candidate: Candidate) -> Kept:
    """Units spread evenly over each group: a selection for costs and measurements, where any units do."""
    return {
        group.name: np.linspace(0, group.size - 1, count).round().astype(np.int64)
        for group, count in zip(coupling.groups, candidate.kept, strict=True)
    }
