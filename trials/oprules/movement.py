"""Data movement, executed on the label arrays themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from hwprofiles.errors import BundleError
from hwprofiles.ops import OpSpec
from trials.graph import INT_END, MAX_ELEMENTS, Arg, Batch, Node, Tensor, Value
from trials.labels import MAX_LABELS, LabelArray, blank, compact, spread, varying, written
from trials.oprules.rule import Call, Rule, Sizes, Traced, moving, plain, with_args

MAX_PARTS = 4096
"""Into which one value may be split."""


class Move(Rule):
    """Runs `move` on the labels; `costs` names the copy that the hardware makes, if it makes one."""

    def __init__(self, move: Callable[..., Any], *, costs: str = "") -> None:
        self.move, self.costs = move, costs

    def trace(self, call: Call) -> Traced:
        try:
            moved = self.move(*(self._argument(call, arg) for arg in call.node.args.values()))
        except (ValueError, IndexError, TypeError) as error:
            raise BundleError(f"node {call.node.name!r} ({call.node.op}) cannot run: {error}") from None
        parts = moved if isinstance(moved, list) else [moved]
        for part in parts:
            call.units.charge(written(part))
        return tuple(spread(part) for part in parts) if isinstance(moved, list) else spread(moved)

    @staticmethod
    def _argument(call: Call, arg: Arg) -> Any:
        if isinstance(arg, Value | Tensor):
            return call.of(arg)
        if isinstance(arg, tuple) and any(isinstance(item, Value | Tensor) for item in arg):
            return [call.of(item) for item in arg]
        return plain(arg)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", self.costs) if self.costs else None


class Reshape(Move):
    """View, reshape, unflatten, expand: the literal named `sized` holds sizes of the result."""

    def __init__(self, move: Callable[..., Any], sized: str, *, costs: str = "") -> None:
        super().__init__(move, costs=costs)
        self.sized = sized

    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not isinstance(node["self"], Value):
            return node
        literals = node[self.sized]
        start = node["dim"] % sizes.rank(node["self"].name) if "dim" in node.args else 0
        resized: list[Arg] = []
        for axis, literal in enumerate(literals, start):
            size = sizes.size(node.name, axis) if literal != -1 else -1
            resized.append(Batch(size) if isinstance(literal, Batch) else size)
        return with_args(node, **{self.sized: tuple(resized)})


class Squeeze(Move):
    """Only axes of size 1 in the dense value go; one that pruning brings to size 1 stays."""

    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not isinstance(node["self"], Value):
            return node
        read, dims = node["self"].name, _dims(node["dim"], sizes.rank(node["self"].name))
        dropped = tuple(dim for dim in dims if len(sizes.mask(read, dim)) == 1)
        if not dropped:
            return replace(node, op="aten.alias.default", args={"self": node["self"]})
        return replace(node, op="aten.squeeze.dims", args={"self": node["self"], "dim": dropped})


class Slice(Move):
    def rigid(self, node: Node, rank: int) -> list[int]:
        return [] if node["step"] == 1 else [node["dim"] % rank]

    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not isinstance(node["self"], Value):
            return node
        mask = sizes.mask(node["self"].name, node["dim"] % sizes.rank(node["self"].name))
        if mask.all():
            return node
        start, end, _ = slice(node["start"], node["end"]).indices(len(mask))
        kept = int(mask[:start].sum())
        return with_args(node, start=kept, end=kept + int(mask[start:end].sum()))


class Pick(Move):
    """Select and unbind: they count along one axis."""

    def rigid(self, node: Node, rank: int) -> list[int]:
        return [node["dim"] % rank]


class Split(Move):
    """chunk and split; after pruning the parts may differ, so both become split_with_sizes."""

    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not isinstance(node["self"], Value):
            return node
        dim = node["dim"] % sizes.rank(node["self"].name)
        mask = sizes.mask(node["self"].name, dim)
        if mask.all():
            return node
        literal = next(arg for name, arg in node.args.items() if name not in ("self", "dim"))
        parts: list[LabelArray] = self.move(mask.astype(np.int64), literal, 0)
        args: dict[str, Arg] = {
            "self": node["self"],
            "split_sizes": tuple(int(part.sum()) for part in parts),
            "dim": dim,
        }
        return replace(node, op="aten.split_with_sizes.default", args=args)


class Item(Rule):
    """One part of a value that is a list."""

    def trace(self, call: Call) -> Traced:
        items, index = call.values[call.node["self"].name], call.node["index"]
        if not isinstance(items, tuple) or not -len(items) <= index < len(items):
            raise BundleError(f"node {call.node.name!r} takes item {index} of something else")
        found: LabelArray = items[index]
        return found


class Pad(Rule):
    """Padding. New channels of a constant are units: a sum may join them with a convolution's."""

    def trace(self, call: Call) -> Traced:
        x = call.labels("self")
        pads = self.pads(call.node, x.ndim)
        shape = tuple(size + before + after for size, (before, after) in zip(x.shape, pads, strict=True))
        if math.prod(shape) > MAX_ELEMENTS:
            raise BundleError(f"node {call.node.name!r} pads to {shape}, more than {MAX_ELEMENTS} elements")
        grown = compact(x)
        for axis in varying(x):
            if sum(pads[axis]):
                fresh = call.node["mode"] == "constant"
                if not fresh:
                    call.fix(x, f"{call.node.name} pads them by {call.node['mode']!r}")
                grown = self._grow(call, grown, axis, pads[axis], fresh=fresh)
        return np.broadcast_to(grown, shape)

    @staticmethod
    def _grow(call: Call, labels: LabelArray, axis: int, pads: tuple[int, int], *, fresh: bool) -> LabelArray:
        """Labels with new positions before and after those along an axis, each a unit if `fresh`."""
        sides = []
        for count in pads:
            line = call.units.new(count) if fresh else blank((count,))
            shape = tuple(count if d == axis else size for d, size in enumerate(labels.shape))
            line = line.reshape([-1 if d == axis else 1 for d in range(labels.ndim)])
            sides.append(np.broadcast_to(line, shape))
        call.units.charge(labels.size)
        return np.concatenate([sides[0], labels, sides[1]], axis=axis)

    @staticmethod
    def pads(node: Node, rank: int) -> list[tuple[int, int]]:
        """(before, after) of each axis; ATen lists the last axis first.

        Raises:
            BundleError: the literal is not pairs of integers from 0 to a million.
        """
        flat = node["pad"]
        if len(flat) % 2 or len(flat) > 2 * rank or not all(type(p) is int and 0 <= p < 2**20 for p in flat):
            raise BundleError(
                f"node {node.name!r} pads by {str(flat)[:60]}; allowed: pairs of integers from 0 to a million"
            )
        pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
        return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]

    def resize(self, node: Node, sizes: Sizes) -> Node:
        flat: list[int] = []
        for axis, (before, after) in enumerate(self.pads(node, sizes.rank(node.name))):
            mask = sizes.mask(node.name, axis)
            flat = [int(mask[:before].sum()), int(mask[len(mask) - after :].sum()), *flat]
        return with_args(node, pad=tuple(flat[: len(node["pad"])]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "pad")


class Range(Rule):
    """A range of integers, made from literals alone."""

    def trace(self, call: Call) -> Traced:
        start, end = plain(call.node.args.get("start", 0)), plain(call.node["end"])
        if type(start) is not int or type(end) is not int:
            raise BundleError(f"node {call.node.name!r} counts from {start!r} to {end!r}; allowed: integers")
        return blank((max(0, end - start),))


# What the moves do to a label array. Most return views; whatever writes labels checks how many first.


def reshape(x: LabelArray, size: tuple[int, ...]) -> LabelArray:
    if x.size <= MAX_LABELS:
        return x.reshape(size)
    return x.reshape(size, copy=False)


def flatten(x: LabelArray, start: int, end: int) -> LabelArray:
    start, end = (normalize_axis_index(dim, max(1, x.ndim)) for dim in (start, end))
    if start > end:
        raise ValueError(f"flattens from axis {start} to {end}")
    return reshape(x, (*x.shape[:start], -1, *x.shape[end + 1 :]))


def unflatten(x: LabelArray, dim: int, sizes: tuple[int, ...]) -> LabelArray:
    dim = normalize_axis_index(dim, x.ndim)
    return reshape(x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


def squeeze(x: LabelArray, dim: int | tuple[int, ...]) -> LabelArray:
    return x.squeeze(tuple(d for d in _dims(dim, x.ndim) if x.shape[d] == 1))


def _dims(dim: int | tuple[int, ...], rank: int) -> list[int]:
    """One axis or several as axes counted from the front, ascending."""
    return sorted({normalize_axis_index(d, rank) for d in (dim if isinstance(dim, tuple) else (dim,))})


def expand(x: LabelArray, size: tuple[int, ...], implicit: bool = False) -> LabelArray:
    own = (1,) * (len(size) - x.ndim) + x.shape
    return np.broadcast_to(x, tuple(o if s == -1 else s for o, s in zip(own, size, strict=True)))


def repeat(x: LabelArray, repeats: tuple[int, ...]) -> LabelArray:
    x = x.reshape((1,) * (len(repeats) - x.ndim) + x.shape)
    shape = tuple(size * times for size, times in zip(x.shape, repeats, strict=True))
    small, moved = compact(x), varying(x)
    times = [count if axis in moved else 1 for axis, count in enumerate(repeats)]
    if small.size * math.prod(times) > MAX_LABELS:
        raise ValueError(f"repeats {list(repeats)}, which is too large")
    return np.broadcast_to(np.tile(small, times), shape)


def concatenate(parts: Sequence[LabelArray], dim: int) -> LabelArray:
    dim = normalize_axis_index(dim, parts[0].ndim)
    outlines = {(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}
    if len(outlines) > 1:
        raise ValueError(f"parts of shapes {[part.shape for part in parts]} do not fit")
    total = sum(part.shape[dim] for part in parts)
    shape = (*parts[0].shape[:dim], total, *parts[0].shape[dim + 1 :])
    if not any(compact(part).any() for part in parts):
        return blank(shape)
    changing = {dim}.union(*(varying(part) for part in parts))
    index = tuple(slice(None) if axis in changing else slice(0, 1) for axis in range(len(shape)))
    thin = [part[index] for part in parts]
    if sum(part.size for part in thin) > MAX_LABELS:
        raise ValueError(f"makes a value of shape {shape}, which is too large")
    return np.broadcast_to(np.concatenate(thin, axis=dim), shape)


def stack(parts: Sequence[LabelArray], dim: int) -> LabelArray:
    return concatenate([np.expand_dims(part, dim) for part in parts], dim)


def slice_(x: LabelArray, dim: int, start: int | None, end: int | None, step: int) -> LabelArray:
    if step < 1:
        raise ValueError(f"has the step {step}")
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, None if end == INT_END else end, step)
    return x[tuple(index)]


def select(x: LabelArray, dim: int, index: int) -> LabelArray:
    return np.asarray(np.moveaxis(x, dim, 0)[index])


def chunk(x: LabelArray, chunks: int, dim: int) -> list[LabelArray]:
    return split(x, -(-x.shape[dim] // chunks), dim)


def split(x: LabelArray, size: int | tuple[int, ...], dim: int) -> list[LabelArray]:
    total = x.shape[dim]
    if isinstance(size, int):
        if size < 1 or total > MAX_PARTS * size:
            raise ValueError(
                f"splits {total} positions into parts of {size}; at most {MAX_PARTS} parts are allowed"
            )
        size = tuple(min(size, total - start) for start in range(0, total, size))
    if min(size) < 1 or sum(size) != total:
        raise ValueError(f"splits {total} positions into parts of {size}")
    return np.split(x, np.cumsum(size)[:-1], axis=dim)


def unbind(x: LabelArray, dim: int) -> list[LabelArray]:
    if x.shape[dim] > MAX_PARTS:
        raise ValueError(f"unbinds {x.shape[dim]} parts; at most {MAX_PARTS} are allowed")
    return [np.asarray(part) for part in np.moveaxis(x, dim, 0)]
