"""Labels: which unit does each element of a value belong to, and which units must go together.

A label array has the shape of the value (at batch 1) and holds one label per element; 0 means that it
belongs to no unit. Arrays are kept broadcast: an axis along which labels do not change has stride 0, so a
feature map costs as much as its channels. Units that must be removed together are joined (union-find).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import BundleError

LabelArray = NDArray[np.int64]

MAX_UNITS = 2**22
MAX_LABELS = 2**26
"""Labels written while one graph is traced: bounds what a hostile graph costs. A ResNet-56 writes 18 000."""
PAIR_COST = 8
"""Joining one pair takes as long as writing about this many labels."""
BESIDE_BLANKS = "their axis is shared with values that no layer makes, such as an input"


def blank(shape: tuple[int, ...]) -> LabelArray:
    """Labels of a value that belongs to no unit."""
    return np.broadcast_to(np.zeros((), dtype=np.int64), shape)


def compact(labels: LabelArray) -> LabelArray:
    """The same labels with every axis along which nothing changes cut to size 1; a view, never a copy."""
    for axis in sorted(range(labels.ndim), key=lambda axis: labels.strides[axis] != 0):
        first = labels[(slice(None),) * axis + (slice(0, 1),)]
        if labels.strides[axis] == 0 or (labels == first).all():
            labels = first
    return labels


def spread(labels: LabelArray) -> LabelArray:
    """Equal labels in the broadcast form, whatever copies a reshape made."""
    return np.broadcast_to(compact(labels), labels.shape)


def varying(labels: LabelArray) -> list[int]:
    """The axes along which labels change."""
    return [axis for axis, size in enumerate(compact(labels).shape) if size > 1]


def _from_behind(labels: LabelArray) -> list[int]:
    """`varying`, counted from the last axis on, so that arrays of different ranks compare."""
    return [axis - labels.ndim for axis in varying(labels)]


def lines(labels: LabelArray, axis: int) -> int:
    """How many different slices an axis has: those of copies, and of broadcast ones, count once."""
    rows = np.moveaxis(compact(labels), axis, 0)
    return len(np.unique(rows.reshape(len(rows), -1), axis=0))


def written(labels: LabelArray) -> int:
    """How many labels an array holds in memory, its broadcast axes counted once."""
    return math.prod(s for s, stride in zip(labels.shape, labels.strides, strict=True) if stride)


class Units:
    """All units of a graph: labels 1, 2, …, joined into classes; a fixed class may not be removed.

    Values of several heads could lose whole heads, or with `by_width` the same places of every head's width.
    `multiplied` are the labels that products of two values read, `summed` those that one sums over.
    """

    def __init__(self, *, by_width: bool = False) -> None:
        self.by_width = by_width
        self.multiplied: set[int] = set()
        self.summed: set[int] = set()
        self._parent: list[int] = [0]
        self._reason: dict[int, str] = {}
        self._written = 0

    def charge(self, labels: int) -> None:
        """Count labels that are about to be written, or just were.

        Raises:
            BundleError: the graph has used up `MAX_LABELS`.
        """
        self._written += labels
        if self._written > MAX_LABELS:
            raise BundleError(
                f"following the graph's units takes more than {MAX_LABELS} labels; it is too large to prune"
            )

    def new(self, count: int) -> LabelArray:
        """Labels of `count` fresh units.

        Raises:
            BundleError: the graph has more than `MAX_UNITS`.
        """
        first = len(self._parent)
        if first + count > MAX_UNITS:
            raise BundleError(f"the graph has more than {MAX_UNITS} channels and features, too many to prune")
        self.charge(count)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def find(self, label: int) -> int:
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def classes(self) -> LabelArray:
        """(labels,) the class of every label, which is its smallest label; 0 for units that may not go."""
        parent = self._roots()
        parent[np.isin(parent, list(self._reason))] = 0
        return parent

    def _roots(self) -> LabelArray:
        parent = np.array(self._parent, dtype=np.int64)
        while not np.array_equal(parent, above := parent[parent]):
            parent = above
        return parent

    def beside(self, labels: Collection[int]) -> NDArray[np.bool_]:
        """(labels,) True for those that are joined with one of these, fixed or not."""
        roots = self._roots()
        return np.isin(roots, roots[list(labels)])

    def apart_along(self, axes: Sequence[int]) -> int:
        """Of axes along which units differ, heads before what is in them, the one along which they may go."""
        return axes[-1 if self.by_width else 0]

    def join(self, a: LabelArray, b: LabelArray) -> None:
        """Join equally shaped label arrays element by element; a 0 on either side joins nothing."""
        self.charge(PAIR_COST * a.size)
        count = len(self._parent)
        for pair in np.unique(a.ravel() * count + b.ravel()).tolist():
            one, other = divmod(pair, count)
            if one and other:
                self._join(one, other)

    def _join(self, one: int, other: int) -> None:
        a, b = sorted((self.find(one), self.find(other)))
        if a != b:
            self._parent[b] = a
            if b in self._reason:
                self._reason.setdefault(a, self._reason.pop(b))

    def tie(self, labels: LabelArray, axis: int) -> LabelArray:
        """Join all units along an axis into one; returns the labels with every constant axis cut to size 1.

        Units beside elements of no unit cannot go, because those elements would stay.
        """
        labels = compact(labels)
        first = labels[(slice(None),) * axis + (slice(0, 1),)]
        if labels.shape[axis] > 1:
            self.join(labels, np.broadcast_to(first, labels.shape))
            mixed = (labels == 0).any(axis=axis, keepdims=True) & (labels != 0)
            self.fix(labels[mixed], BESIDE_BLANKS)
        return first if first.all() else np.max(labels, axis=axis, keepdims=True)

    def joined(self, labels: LabelArray) -> LabelArray:
        """The same labels, but one alone for all that are joined by now."""
        small = compact(labels)
        self.charge(small.size)
        found, places = np.unique(small, return_inverse=True)
        roots = np.array([self.find(label) for label in found.tolist()], dtype=np.int64)
        return np.broadcast_to(roots[places].reshape(small.shape), labels.shape)

    def fix(self, labels: LabelArray, reason: str) -> None:
        """Forbid removing these units; the first reason given is kept."""
        for label in np.unique(compact(labels)).tolist():
            if label:
                self._reason.setdefault(self.find(label), reason)

    def reason(self, label: int) -> str:
        """Why a unit may not be removed, or ""."""
        return self._reason.get(self.find(label), "")

    def meet(self, a: LabelArray, b: LabelArray, reason: str) -> LabelArray:
        """Labels of an elementwise result with broadcasting; operands' units at the same place are joined.

        A unit that meets an element of no unit along an axis where both have their full size is fixed with
        `reason`: the other operand cannot shrink with it. Units that differ along another axis as well, such
        as heads of a width, only become one along the first. Where those of an operand differ along that one
        alone, such as gains for all heads, the operand's own units are fixed.
        """
        small_a, small_b = compact(a), compact(b)
        axes_a, axes_b = (_from_behind(small) for small in (small_a, small_b))
        if len(axes_a) > 1 and axes_b and self.apart_along(axes_a) not in axes_b:
            self.fix(b, reason)
            return self.meet(a, blank(b.shape), reason)
        if len(axes_b) > 1 and axes_a and self.apart_along(axes_b) not in axes_a:
            self.fix(a, reason)
            return self.meet(blank(a.shape), b, reason)
        full = np.broadcast_shapes(small_a.shape, small_b.shape)
        wide_a, wide_b = np.broadcast_to(small_a, full), np.broadcast_to(small_b, full)
        self.join(wide_a, wide_b)
        for mine, other, other_shape in ((wide_a, wide_b, b.shape), (wide_b, wide_a, a.shape)):
            alone = (mine != 0) & (other == 0)
            if alone.any():
                sizes = (1,) * (mine.ndim - len(other_shape)) + other_shape
                axes = varying(mine)
                shared = [axis for axis in axes if sizes[axis] > 1]
                stay = self.by_width and axes[-1:] == shared[-1:]
                if alone.all() and len(shared) < len(axes) and not stay:
                    for axis in shared:
                        self.tie(mine, axis)
                elif shared:
                    self.fix(mine[alone], reason)
        result = np.where(wide_a != 0, wide_a, wide_b)
        return np.broadcast_to(result, np.broadcast_shapes(a.shape, b.shape))
