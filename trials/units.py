"""Groups of units, made of the classes along every axis: which go together, and which stay and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trials.graph import module_of
from trials.oprules import TensorAxis
from trials.tracing import Labelled

Classes = NDArray[np.int64]
"""(granularities, positions) along an axis: the class of each position, by heads and by their width."""

CHANNELS, HEADS, WIDTH, BLOCK = "channels", "heads", "head width", "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that may be removed one by one, each of them with everything it is coupled to.

    `units` (size,) are label classes in the order of the first tensor that makes them. `members` are the
    tensor axes that shrink, as "name:axis"; `width` is how many positions of the first one unit owns. `kind`
    is "heads" where some of those are neighbours, "head width" where they are the same places of all heads,
    and "channels" elsewhere, as in a gated unit of two halves.

    A whole residual block is a group of one unit, of kind "block", that has no label and may go as well. Its
    members are the tensors of its branch, as "name:*".
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


def collect(
    vectors: Sequence[Classes],
    bound: Mapping[int, list[TensorAxis]],
    alone: Collection[int],
    summed: Collection[int],
    first_of_width: int,
) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    """Classes that sit in the same axes, equally often, are the units of one group.

    One that is all of some value, in `alone`, is a group by itself: without it the value would be empty.
    Classes from `first_of_width` on are places of a width; those that are not the same of all heads, such as
    units that no heads divide, are no groups of their own.
    """
    signature: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for vector, classes in enumerate(vectors):
        found, counts = np.unique(classes, return_counts=True)
        for one, count in zip(found.tolist(), counts.tolist(), strict=True):
            if one:
                signature[one].append((vector, count))
    for one in signature.keys() & alone:
        signature[one].append((-one, 0))
    alike: dict[tuple[bool, tuple[tuple[int, int], ...]], list[int]] = defaultdict(list)
    for one in sorted(signature):
        alike[one >= first_of_width, tuple(signature[one])].append(one)

    groups: list[Group] = []
    frozen: list[Frozen] = []
    names: dict[str, int] = defaultdict(int)
    for (by_width, sign), units in alike.items():
        members = [(axis, vector) for vector, _ in sign for axis in bound.get(vector, ())]
        makers = [(axis, vector) for axis, vector in members if axis.role == "out"]
        if not makers or (by_width and not _divides(units, groups, [vectors[v] for v, _ in sign if v >= 0])):
            continue
        first, vector = makers[0]
        positions = np.flatnonzero((vectors[vector] == units[0]).any(axis=0))
        name = module_of(first.tensor) + (".width" if by_width else "")
        names[name] += 1
        if names[name] > 1:
            name = f"{name}#{names[name]}"
        if by_width and len(units) == 1 and not holds(vectors[vector][:1], groups):
            continue  # its heads are frozen, which says it all
        if units[0] not in summed and not any(axis.role == "in" for axis, _ in members):
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
                    kind=WIDTH if by_width else HEADS if 1 in np.diff(positions) else CHANNELS,
                    size=len(units),
                    width=len(positions),
                    units=np.array(units),
                    members=axes,
                )
            )
    # Both labellings number the units of a layer alike, so a width comes right behind its heads.
    groups.sort(key=lambda group: group.units[0] - (first_of_width - 1 if group.kind == WIDTH else 0))
    return tuple(groups), tuple(frozen)


def holds(classes: Classes, groups: Sequence[Group]) -> bool:
    """Whether units of a group are among these classes."""
    return any(np.isin(group.units, classes).any() for group in groups)


def _divides(units: Sequence[int], groups: Sequence[Group], vectors: Sequence[Classes]) -> bool:
    """Whether places of a width have as many positions in each unit of every group that they have some in.

    Then what is left of both is as many positions as the product of their counts says.
    """
    for heads, places in vectors:
        own = np.isin(places, units)
        for group in groups:
            both = own & np.isin(heads, group.units)
            if both.any():
                table = np.zeros((group.size, len(units)))
                rows = np.searchsorted(group.units, heads[both])
                np.add.at(table, (rows, np.searchsorted(units, places[both])), 1)
                if np.ptp(table):
                    return False
    return True


def fixed(one: Labelled) -> list[Frozen]:
    """Each tensor that makes fixed units, with the reason of the first of them."""
    found: dict[str, Frozen] = {}
    for axis in one.axes:
        stuck = [label for label in axis.labels.tolist() if label and one.classes[label] == 0]
        if axis.role == "out" and stuck:
            frozen = Frozen(name=module_of(axis.tensor), size=len(stuck), reason=one.units.reason(stuck[0]))
            found.setdefault(axis.tensor, frozen)
    return list(found.values())


def fixed_width(one: Labelled, pruned: Collection[tuple[str, int]]) -> Iterator[Frozen]:
    """The same of places of a width, where its heads are `pruned`."""
    read = one.units.beside(one.units.multiplied)
    for axis in one.axes:
        if axis.role == "out" and (axis.tensor, axis.axis) in pruned:
            stuck = [label for label in axis.labels.tolist() if read[label] and one.classes[label] == 0]
            if stuck:
                yield Frozen(
                    name=f"{module_of(axis.tensor)}.width",
                    size=len({one.units.find(label) for label in stuck}),
                    reason=one.units.reason(stuck[0]),
                )
