"""Labels: which unit does each element of a value belong to, and which units must go together.

A label array has the shape of the value (at batch 1) and holds one label per element; 0 means that it
belongs to no unit. Arrays are kept broadcast: an axis along which labels do not change has stride 0, so a
feature map costs as much as its channels. Units that must be removed together are joined (union-find).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.int64]


def blank(shape: tuple[int, ...]) -> LabelArray:
    """Labels of a value that belongs to no unit."""
    return np.broadcast_to(np.zeros((), dtype=np.int64), shape)


def compact(labels: LabelArray) -> LabelArray:
    """The same labels with every axis along which nothing changes cut to size 1."""
    for axis, size in enumerate(labels.shape):
        if size > 1:
            first = labels.take([0], axis=axis)
            if labels.strides[axis] == 0 or (labels == first).all():
                labels = first
    return labels


def spread(labels: LabelArray) -> LabelArray:
    """Equal labels in the broadcast form, whatever copies a reshape made."""
    return np.broadcast_to(compact(labels), labels.shape)


def varying(labels: LabelArray) -> list[int]:
    """The axes along which labels change."""
    return [axis for axis, size in enumerate(compact(labels).shape) if size > 1]


class Units:
    """All units of a graph: labels 1, 2, …, joined into classes; a fixed class may not be removed."""

    def __init__(self) -> None:
        self._parent: list[int] = [0]
        self._reason: dict[int, str] = {}

    def new(self, count: int) -> LabelArray:
        """Labels of `count` fresh units."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def find(self, label: int) -> int:
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def roots(self) -> LabelArray:
        """(labels,) the class of every label; index 0 is 0."""
        return np.array([self.find(label) for label in range(len(self._parent))], dtype=np.int64)

    def join(self, a: LabelArray, b: LabelArray) -> None:
        """Join equally shaped label arrays element by element; a 0 on either side joins nothing."""
        pairs = np.unique(np.stack([a.ravel(), b.ravel()], axis=1), axis=0)
        for one, other in pairs[(pairs != 0).all(axis=1)].tolist():
            self._join(one, other)

    def _join(self, one: int, other: int) -> None:
        a, b = sorted((self.find(one), self.find(other)))
        if a != b:
            self._parent[b] = a
            if b in self._reason:
                self._reason.setdefault(a, self._reason.pop(b))

    def tie(self, labels: LabelArray, axis: int) -> LabelArray:
        """Join all units along an axis into one; returns the labels with that axis cut to size 1."""
        labels = compact(labels)
        first = labels.take([0], axis=axis)
        if labels.shape[axis] > 1:
            self.join(labels, np.broadcast_to(first, labels.shape))
            self.fix_beside_blanks(labels, axis)
        return first if first.all() else np.max(labels, axis=axis, keepdims=True)

    def fix_beside_blanks(self, labels: LabelArray, axis: int) -> None:
        """Units tied to elements that belong to no unit cannot go."""
        mixed = (labels == 0).any(axis=axis, keepdims=True) & (labels != 0)
        if mixed.any():
            self.fix(labels[mixed], "it shares an axis with elements that belong to no unit")

    def fix(self, labels: LabelArray, reason: str) -> None:
        """Forbid removing these units; the first reason given is kept."""
        for label in np.unique(labels).tolist():
            if label:
                self._reason.setdefault(self.find(label), reason)

    def reason(self, root: int) -> str:
        """Why a class may not be removed, or ""."""
        return self._reason.get(root, "")

    def meet(self, a: LabelArray, b: LabelArray, reason: str) -> LabelArray:
        """Labels of an elementwise result with broadcasting; operands' units at the same place are joined.

        A unit that meets an element of no unit along an axis where both have their full size is fixed with
        `reason`: the other operand cannot shrink with it.
        """
        small_a, small_b = compact(a), compact(b)
        full = np.broadcast_shapes(small_a.shape, small_b.shape)
        wide_a, wide_b = np.broadcast_to(small_a, full), np.broadcast_to(small_b, full)
        self.join(wide_a, wide_b)
        for mine, other, other_shape in ((wide_a, wide_b, b.shape), (wide_b, wide_a, a.shape)):
            alone = (mine != 0) & (other == 0)
            if alone.any():
                sizes = (1,) * (mine.ndim - len(other_shape)) + other_shape
                if any(sizes[axis] > 1 for axis in varying(mine)):
                    self.fix(mine[alone], reason)
        result = np.where(wide_a != 0, wide_a, wide_b)
        return np.broadcast_to(result, np.broadcast_shapes(a.shape, b.shape))
