"""Data movement, executed on the label arrays themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hwprofiles.errors import BundleError
from hwprofiles.ops import OpSpec
from trials.graph import MAX_ELEMENTS, Arg, Batch, Node, Tensor, Value
from trials.labels import LabelArray, blank, compact, spread, varying, written
from trials.oprules.moves import dims_of
from trials.oprules.rule import Call, Rule, Sizes, Traced, moving, plain, with_args


class Move(Rule):
    """Units go where their elements go."""

    def __init__(self, move: Callable[..., Any], *, costs: str = "") -> None:
        """`move` is run on the labels; `costs` names the copy that the hardware makes, if it makes one."""
        self.move, self.costs = move, costs

    def trace(self, call: Call) -> Traced:
        try:
            moved = self.move(*(self._argument(call, name, arg) for name, arg in call.node.args.items()))
        except (ValueError, IndexError, TypeError) as error:
            raise BundleError(f"node {call.node.name!r} ({call.node.op}) cannot run: {error}") from None
        parts = moved if isinstance(moved, list) else [moved]
        for part in parts:
            call.units.charge(written(part))
        return tuple(spread(part) for part in parts) if isinstance(moved, list) else spread(moved)

    def _argument(self, call: Call, name: str, arg: Arg) -> Any:
        if isinstance(arg, Tensor) and self.rigid(call.node, len(call.specs[arg.name].shape)):
            return call.of(arg)
        if isinstance(arg, Value | Tensor):
            return call.own(name, arg)
        if isinstance(arg, tuple) and any(isinstance(item, Value | Tensor) for item in arg):
            return [call.own(name, item) for item in arg]
        return plain(arg)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", self.costs) if self.costs else None


class Reshape(Move):
    """Units go where their elements go, and the sizes that the call names follow them.

    Where one axis becomes several, such as heads and their width, units stay apart along one of those.
    """

    def __init__(self, move: Callable[..., Any], sized: str, *, costs: str = "") -> None:
        """`sized` names the literal that holds sizes of the result."""
        super().__init__(move, costs=costs)
        self.sized = sized

    def resize(self, node: Node, sizes: Sizes) -> Node:
        literals = node[self.sized]
        start = node["dim"] % sizes.rank(node["self"]) if "dim" in node.args else 0
        resized: list[Arg] = []
        for axis, literal in enumerate(literals, start):
            size = sizes.size(Value(node.name), axis) if literal != -1 else -1
            resized.append(Batch(size) if isinstance(literal, Batch) else size)
        return with_args(node, **{self.sized: tuple(resized)})


class Squeeze(Move):
    """Only axes of size 1 in the dense value go; one that pruning brings to size 1 stays."""

    def resize(self, node: Node, sizes: Sizes) -> Node:
        dims = dims_of(node["dim"], sizes.rank(node["self"]))
        dropped = tuple(dim for dim in dims if len(sizes.mask(node["self"], dim)) == 1)
        if not dropped:
            return replace(node, op="aten.alias.default", args={"self": node["self"]})
        return replace(node, op="aten.squeeze.dims", args={"self": node["self"], "dim": dropped})


class Slice(Move):
    """Units go where their elements go, and both ends of the slice follow; units along a stride stay."""

    def rigid(self, node: Node, rank: int) -> list[int]:
        return [] if node["step"] == 1 else [node["dim"] % rank]

    def resize(self, node: Node, sizes: Sizes) -> Node:
        mask = sizes.mask(node["self"], node["dim"] % sizes.rank(node["self"]))
        if mask.all():
            return node
        start, end, _ = slice(node["start"], node["end"]).indices(len(mask))
        kept = int(mask[:start].sum())
        return with_args(node, start=kept, end=kept + int(mask[start:end].sum()))


class Pick(Move):
    """Select, unbind, roll, differences of neighbours: they count along their axes, so units there stay."""

    def rigid(self, node: Node, rank: int) -> list[int]:
        return dims_of(node["dims"] if "dims" in node.args else node["dim"], rank)


class Split(Move):
    """Units go where their elements go. Parts may differ in size after pruning."""

    def resize(self, node: Node, sizes: Sizes) -> Node:
        dim = node["dim"] % sizes.rank(node["self"])
        mask = sizes.mask(node["self"], dim)
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
    """Units go where their elements go, and new channels of a constant are units that others may join."""

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
        for axis, (before, after) in enumerate(self.pads(node, sizes.rank(Value(node.name)))):
            mask = sizes.mask(Value(node.name), axis)
            flat = [int(mask[:before].sum()), int(mask[len(mask) - after :].sum()), *flat]
        return with_args(node, pad=tuple(flat[: len(node["pad"])]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "pad")


class Index(Rule):
    """Elements picked by indices along some axes: units along those stay, and all others pass through."""

    def trace(self, call: Call) -> Traced:
        indices = call.node["indices"]
        picked = [axis for axis, index in enumerate(indices) if index is not None]
        x = call.own("self", call.node["self"], whole=picked)
        x = call.tied(x, picked, f"{call.node.name} picks some of them")
        shape = np.broadcast_shapes(*(call.of(indices[axis]).shape for axis in picked))
        rest = x[tuple(0 if axis in picked else slice(None) for axis in range(x.ndim))]
        # Axes of indices that are not beside each other come first, as in PyTorch.
        place = picked[0] if picked == list(range(picked[0], picked[-1] + 1)) else 0
        rest = rest[(slice(None),) * place + (None,) * len(shape)]
        return np.broadcast_to(rest, (*rest.shape[:place], *shape, *rest.shape[place + len(shape) :]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "gather")


class Fresh(Rule):
    """A value of one number in a shape of its own: it belongs to no unit."""

    def trace(self, call: Call) -> Traced:
        return blank(plain(call.node["size"]))


class Range(Rule):
    """A range of integers, made from literals alone."""

    def trace(self, call: Call) -> Traced:
        start, end = plain(call.node.args.get("start", 0)), plain(call.node["end"])
        if type(start) is not int or type(end) is not int:
            raise BundleError(f"node {call.node.name!r} counts from {start!r} to {end!r}; allowed: integers")
        return blank((max(0, end - start),))
