"""Products of two values: units along the axis that they are summed over become one."""

from __future__ import annotations

import math

import numpy as np

from hwprofiles.errors import BundleError, UnsupportedOpError
from hwprofiles.ops import OpSpec
from trials.graph import Node, Tensor, Value
from trials.labels import LabelArray, blank, compact
from trials.oprules.moves import repeat_interleave
from trials.oprules.rule import Call, Rule, Traced


class Matmul(Rule):
    """Product of two values: units along the axes before the last two, such as heads, meet."""

    def __init__(self, first: str, second: str) -> None:
        """`first` and `second` are ATen's names for the values."""
        self.first, self.second = first, second

    def trace(self, call: Call) -> Traced:
        return _contract(call, call.labels(self.first), call.labels(self.second))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        a, b = call.labels(self.first).shape, call.labels(self.second).shape
        count = math.prod(a[:-2])
        return OpSpec(
            kind="matmul", in_channels=count, out_channels=count, in_size=a[-2:], out_size=(a[-2], b[-1])
        )


class Einsum(Rule):
    """Product of two values whose axes have letters: units along a letter of both that stays meet."""

    def trace(self, call: Call) -> Traced:
        (first, second), result = self.letters(call.node)
        sizes = self._sizes(call)
        parts: list[LabelArray] = []
        for letters, arg in zip((first, second), call.node["tensors"], strict=True):
            small = compact(call.of(arg))
            for axis, letter in enumerate(letters):
                small = small if letter in result else call.units.tie(small, axis)
            order = sorted(range(len(letters)), key=lambda axis: result.find(letters[axis]))
            small = small.transpose(order)[(0,) * len(set(letters) - set(result))]
            small = small[tuple(slice(None) if letter in letters else None for letter in result)]
            shape = tuple(sizes[letter] if letter in letters else 1 for letter in result)
            parts.append(np.broadcast_to(small, shape))
        reason = f"{call.node.name} multiplies them with values that cannot shrink"
        return call.units.meet(parts[0], parts[1], reason)

    @staticmethod
    def letters(node: Node) -> tuple[tuple[str, str], str]:
        """The letters of both operands' axes and of the result's.

        Raises:
            UnsupportedOpError: an equation of another form.
        """
        operands, _, result = node["equation"].replace(" ", "").partition("->")
        first, _, second = operands.partition(",")
        plain = all(part.isalpha() and len(set(part)) == len(part) for part in (first, second, result))
        if not plain or len(node["tensors"]) != 2 or not set(result) <= set(first + second):
            raise UnsupportedOpError(
                f"einsum {node.name!r} computes {node['equation'][:60]!r}; allowed: two operands, each of "
                "different letters, such as 'bhqd,bhkd->bhqk'"
            )
        return (first, second), result

    def _sizes(self, call: Call) -> dict[str, int]:
        """Letter → how long its axes are."""
        sizes: dict[str, int] = {}
        for letters, arg in zip(self.letters(call.node)[0], call.node["tensors"], strict=True):
            shape = call.of(arg).shape
            named = dict(zip(letters, shape, strict=True))
            if any(sizes.get(letter, size) != size for letter, size in named.items()):
                raise BundleError(f"einsum {call.node.name!r} reads a value of shape {shape} as {letters!r}")
            sizes |= named
        return sizes

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        (first, second), kept = self.letters(call.node)
        sizes = self._sizes(call)

        def size(letters: set[str]) -> int:
            return math.prod(sizes[letter] for letter in letters)

        a, b, c = set(first), set(second), set(kept)
        count, rows, columns = size(a & b & c), size((a - b) & c), size((b - a) & c)
        return OpSpec(
            kind="matmul",
            in_channels=count,
            out_channels=count,
            in_size=(rows, size((a | b) - c)),
            out_size=(rows, columns),
        )


class Attention(Rule):
    """softmax(q k^T) v over (…, heads, tokens, width): a head is a unit, with all queries that it serves."""

    def trace(self, call: Call) -> Traced:
        query, key, value = (call.labels(name) for name in ("query", "key", "value"))
        if call.node["enable_gqa"] is True:
            key, value = (self._for_each_query(call, labels, query.shape[-3]) for labels in (key, value))
        scores = _contract(call, query, np.swapaxes(key, -1, -2))
        if isinstance(call.node["attn_mask"], Value | Tensor):
            reason = f"attention {call.node.place} masks them with a value that cannot shrink"
            scores = call.units.meet(scores, call.labels("attn_mask"), reason)
        return _contract(call, scores, value)

    @staticmethod
    def _for_each_query(call: Call, labels: LabelArray, heads: int) -> LabelArray:
        """Labels of keys or values as every head of the queries reads them.

        Where all of them read the same one, that one stays, and they may go one by one.
        """
        if labels.shape[-3] == 1 < heads:
            call.fix(labels, f"all heads of attention {call.node.place} share them")
            return blank(labels.shape)
        return repeat_interleave(labels, heads // labels.shape[-3], -3)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        query, key = call.labels("query").shape, call.labels("key").shape
        channels = math.prod(query[:-2]) * query[-1]
        return OpSpec(
            kind="attention",
            in_channels=channels,
            out_channels=channels,
            kernel=(query[-1],),
            in_size=(query[-2], key[-2]),
        )


def _contract(call: Call, a: LabelArray, b: LabelArray) -> LabelArray:
    """Labels of a batched a @ b: units along the contracted axis become one, units along batch axes meet.

    So the heads of an attention are its units: queries and keys of a head are contracted over its width.
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise BundleError(f"node {call.node.name!r} multiplies shapes {a.shape} and {b.shape}")
    rows, columns = call.units.tie(a, a.ndim - 1), call.units.tie(b, b.ndim - 2)
    rows = np.broadcast_to(rows, (*a.shape[:-1], 1))
    columns = np.broadcast_to(columns, (*b.shape[:-2], 1, b.shape[-1]))
    return call.units.meet(rows, columns, f"{call.node.name} multiplies them with values that cannot shrink")
