"""From labels to groups: which units exist, which must go together, which may not go at all, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import BundleError, RequestError, nearest
from trials.candidate import Axis, Candidate, Space
from trials.graph import MAX_ELEMENTS, Graph
from trials.labels import LabelArray, Units, blank, compact, varying
from trials.oprules import Call, Rule, TensorAxis, Traced, rule_of

Kept = Mapping[str, NDArray[np.int64]]
"""Group name → indices of the units that stay, ascending; a group left out stays whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that may be removed one by one, each of them with everything it is coupled to.

    `units` (size,) are label classes in the order of the first tensor that makes them. `members` are the
    tensor axes that shrink, as "name:axis"; `width` is how many positions of the first one unit owns (the
    head width, where units are heads).
    """

    name: str
    size: int
    width: int
    units: NDArray[np.int64]
    members: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "heads" if self.width > 1 else "channels"


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
    that read them.
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

    def space(self, *, step: int = 1, lowest_keep: float = 0.1) -> Space:
        """The candidates a search may propose: one axis per group, counts in steps of `step`.

        A group smaller than two steps gets the largest step that leaves it a choice.
        """
        axes = []
        for group in self.groups:
            own = (
                1
                if group.width > 1
                else max(s for s in range(1, step + 1) if step % s == 0 and 2 * s <= max(2, group.size))
            )
            axes.append(
                Axis(
                    name=group.name, size=group.size, step=own, lowest=max(1, round(lowest_keep * group.size))
                )
            )
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
        return replace(self, groups=groups, frozen=(*self.frozen, *frozen))

    def alive(self, kept: Kept) -> NDArray[np.bool_]:
        """(classes + 1,) True where a class of units stays.

        Raises:
            RequestError: an unknown group, an index out of range, or a group left without units.
        """
        alive = np.ones(self.classes + 1, dtype=np.bool_)
        for name, indices in kept.items():
            group = self.group(name)
            if not len(indices) or min(indices) < 0 or max(indices) >= group.size:
                raise RequestError(
                    f"group {name!r} keeps units {list(indices)[:5]}; allowed: some of 0 to {group.size - 1}"
                )
            alive[group.units] = False
            alive[group.units[indices]] = True
        return alive

    def coefficients(self, vector: int) -> tuple[float, NDArray[np.float64]]:
        """How the size of an axis follows from kept counts: `constant + coefficients (groups,) @ kept`."""
        counts = np.bincount(self.vectors[vector], minlength=self.classes + 1)
        per_group = np.array([counts[group.units].sum() / group.size for group in self.groups])
        return float(counts.sum() - sum(counts[group.units].sum() for group in self.groups)), per_group


class PrunedSizes:
    """Sizes of values with some units gone (`oprules.Sizes`)."""

    def __init__(self, coupling: Coupling, alive: NDArray[np.bool_]) -> None:
        self.coupling = coupling
        self.masks = [alive[vector] for vector in coupling.vectors]

    def mask(self, value: str, axis: int, item: int = 0) -> NDArray[np.bool_]:
        vector = self.coupling.value_axes.get((value, item, axis))
        return (
            np.ones(self._shape(value, item)[axis], dtype=np.bool_) if vector is None else self.masks[vector]
        )

    def size(self, value: str, axis: int, item: int = 0) -> int:
        vector = self.coupling.value_axes.get((value, item, axis))
        return self._shape(value, item)[axis] if vector is None else int(self.masks[vector].sum())

    def rank(self, value: str) -> int:
        return len(self._shape(value, 0))

    def _shape(self, value: str, item: int) -> tuple[int, ...]:
        traced = self.coupling.traced[value]
        return (traced[item] if isinstance(traced, tuple) else traced).shape


def trace(graph: Graph) -> tuple[Units, dict[str, Traced], list[TensorAxis]]:
    """Run every op's rule on label arrays at batch 1.

    Raises:
        UnsupportedOpError: an op without a rule.
        BundleError: shapes that do not fit together, or larger than allowed.
    """
    units, axes = Units(), list[TensorAxis]()
    values: dict[str, Traced] = {item.name: blank((1, *item.shape)) for item in graph.inputs}
    raw: set[str] = set()
    for node in graph.nodes:
        rule, call = rule_of(node.op), Call(node, units, values, graph.tensors, axes, raw)
        try:
            result = rule.trace(call)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BundleError(
                f"node {node.name!r} ({node.op}) is not a valid call: {type(error).__name__} {error}; "
                "export the model again"
            ) from None
        for part in result if isinstance(result, tuple) else (result,):
            if part.ndim > 10 or part.size > MAX_ELEMENTS or part.size == 0:
                raise BundleError(
                    f"node {node.name!r} ({node.op}) makes a value of shape {part.shape}; "
                    f"allowed: at most 10 axes and 1 to {MAX_ELEMENTS} elements"
                )
        values[node.name] = result
    for axis in axes:
        if axis.tensor in raw:
            units.fix(axis.labels, f"its tensor {axis.tensor} is also used as a value of its own")
    for output in graph.outputs:
        result = values[output.name]
        for part in result if isinstance(result, tuple) else (result,):
            units.fix(compact(part), "it is an output of the model")
    return units, values, axes


def analyse(graph: Graph) -> Coupling:
    """Find the groups of a graph, named by the user's own parameter names, in running order."""
    units, values, axes = trace(graph)
    _join_shared_tensors(units, axes)
    roots = _make_rectangular(units, values)

    vectors: list[NDArray[np.int64]] = []
    index: dict[bytes, int] = {}

    def vector_of(labels: LabelArray) -> int | None:
        classes = roots[labels]
        if not classes.any():
            return None
        key = classes.tobytes()
        if key not in index:
            index[key] = len(vectors)
            vectors.append(classes)
        return index[key]

    tensor_axes: dict[tuple[str, int], int] = {}
    contracted: set[tuple[str, int]] = set()
    made: set[tuple[str, int]] = set()
    makers: dict[int, list[TensorAxis]] = defaultdict(list)
    for axis in axes:
        vector = vector_of(axis.labels)
        if vector is not None:
            tensor_axes[axis.tensor, axis.axis] = vector
            makers[vector].append(axis)
            if axis.role == "in":
                contracted.add((axis.tensor, axis.axis))
            elif axis.role == "out":
                made.add((axis.tensor, axis.axis))
    value_axes: dict[tuple[str, int, int], int] = {}
    for name, traced in values.items():
        for item, part in enumerate(traced if isinstance(traced, tuple) else (traced,)):
            for dim in varying(roots[compact(part)]):
                small = compact(part)
                line = small[tuple(slice(None) if d == dim else 0 for d in range(small.ndim))]
                vector = vector_of(line)
                if vector is not None:
                    value_axes[name, item, dim] = vector
    groups, frozen = _collect(units, roots, vectors, makers, axes)
    return Coupling(
        graph=graph,
        groups=groups,
        frozen=frozen,
        vectors=tuple(vectors),
        tensor_axes=tensor_axes,
        contracted=frozenset(contracted),
        made=frozenset(made),
        value_axes=value_axes,
        traced=values,
        classes=len(roots) - 1,
    )


def _join_shared_tensors(units: Units, axes: list[TensorAxis]) -> None:
    first: dict[tuple[str, int], TensorAxis] = {}
    for axis in axes:
        one = first.setdefault((axis.tensor, axis.axis), axis)
        if one is not axis:
            units.join(one.labels, axis.labels)
            beside = (one.labels == 0) != (axis.labels == 0)
            for side in (one, axis):
                units.fix(side.labels[beside], f"{axis.tensor} is also used where units cannot go")


def _make_rectangular(units: Units, values: Mapping[str, Traced]) -> LabelArray:
    """Join units until removing any class leaves every value a full array; returns the classes.

    Where a value's classes change along several axes, the largest axis keeps its units and the others are
    tied: a channel shuffle then loses the same channels from each of its parts. Fixed classes become 0.
    """
    parts = [
        part for traced in values.values() for part in (traced if isinstance(traced, tuple) else (traced,))
    ]
    pending = [part for part in {id(compact(part)): compact(part) for part in parts}.values() if part.any()]
    while True:
        roots = units.roots()
        fixed = np.array([root == 0 or bool(units.reason(int(root))) for root in roots])
        roots = np.where(fixed, 0, roots)
        uneven = [part for part in pending if len(varying(roots[part])) > 1]
        if not uneven:
            return roots
        for part in uneven:
            small = part
            keep = max(varying(roots[part]), key=lambda axis: small.shape[axis])
            for axis in varying(roots[part]):
                if axis != keep:
                    small = units.tie(small, axis)


def _collect(
    units: Units,
    roots: LabelArray,
    vectors: list[NDArray[np.int64]],
    makers: Mapping[int, list[TensorAxis]],
    axes: list[TensorAxis],
) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    """Classes that sit in the same axes, equally often, are the units of one group."""
    signature: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for vector, classes in enumerate(vectors):
        found, counts = np.unique(classes, return_counts=True)
        for one, count in zip(found.tolist(), counts.tolist(), strict=True):
            if one:
                signature[one].append((vector, count))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for one in sorted(signature):
        alike[tuple(signature[one])].append(one)

    groups: list[Group] = []
    frozen: list[Frozen] = []
    names: dict[str, int] = defaultdict(int)
    for sign, alikes in alike.items():
        bound = [(axis, count) for vector, count in sign for axis in makers.get(vector, ())]
        made = [(axis, count) for axis, count in bound if axis.role == "out"]
        if not made:
            continue
        name = _module(made[0][0].tensor)
        names[name] += 1
        if names[name] > 1:
            name = f"{name}#{names[name]}"
        if not any(axis.role == "in" for axis, _ in bound):
            frozen.append(Frozen(name=name, size=len(alikes), reason="no layer reads it through weights"))
        elif len(alikes) == 1:
            frozen.append(Frozen(name=name, size=1, reason="it is a single unit, so nothing can go"))
        else:
            members = tuple(dict.fromkeys(f"{axis.tensor}:{axis.axis}" for axis, _ in bound))
            groups.append(
                Group(name=name, size=len(alikes), width=made[0][1], units=np.array(alikes), members=members)
            )
    return tuple(groups), (*_fixed(units, roots, axes), *frozen)


def _fixed(units: Units, roots: LabelArray, axes: list[TensorAxis]) -> list[Frozen]:
    """Each tensor that makes fixed units, with the reason of the first of them."""
    found: dict[str, Frozen] = {}
    for axis in axes:
        stuck = [label for label in axis.labels.tolist() if label and roots[label] == 0]
        if axis.role == "out" and stuck:
            reason = next(
                filter(None, (units.reason(units.find(label)) for label in stuck)), "it cannot shrink"
            )
            found.setdefault(axis.tensor, Frozen(name=_module(axis.tensor), size=len(stuck), reason=reason))
    return list(found.values())


def _module(tensor: str) -> str:
    return tensor.removesuffix(".weight") or tensor


def even_kept(coupling: Coupling, candidate: Candidate) -> Kept:
    """Units spread evenly over each group: a selection for costs and proofs, where any units do."""
    return {
        group.name: np.linspace(0, group.size - 1, count).round().astype(np.int64)
        for group, count in zip(coupling.groups, candidate.kept, strict=True)
    }


def sized_nodes(graph: Graph) -> list[int]:
    """Positions of the nodes whose literals may change with units."""
    return [i for i, node in enumerate(graph.nodes) if type(rule_of(node.op)).resize is not Rule.resize]
