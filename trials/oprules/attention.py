"""Products of two values: units along the axis that they are summed over become one, or meet.

By whole heads, everything that is summed over becomes one unit of each head, and heads meet. By the width of
heads, all heads become one, and what is summed over meets place by place: queries with keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwprofiles.errors import BundleError, UnsupportedOpError
from hwprofiles.ops import OpSpec
from trials.graph import Arg, Node, Tensor, Value
from trials.labels import LabelArray, Units, blank, compact, varying
from trials.oprules.moves import repeat_interleave
from trials.oprules.rule import Call, Length, Rule, Sizes, Traced, with_args

_BATCH = "ABCDEFGH"


class Product(Rule):
    """Of two values."""

    def terms(self, call: Call) -> _Terms:
        """What is multiplied.

        Raises:
            BundleError: the shapes do not fit.
            UnsupportedOpError: a form that has no rule.
        """
        raise NotImplementedError

    def trace(self, call: Call) -> Traced:
        terms = self.terms(call)
        return terms.trace(call, [call.of(arg) for arg in terms.operands])

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        terms = self.terms(call)
        channel, size, result_size = terms.layout(call)
        return OpSpec(
            kind="matmul",
            in_channels=terms.size(channel),
            out_channels=terms.size(terms.both),
            in_size=size,
            out_size=result_size,
        )

    def channels(self, call: Call) -> tuple[Sequence[Length], Sequence[Length]] | None:
        terms = self.terms(call)
        channel, *_ = terms.layout(call)
        return [terms.length(call, channel)], [terms.length(call, terms.both)]


class Matmul(Product):
    """Product of two values: units along the axes before the last two, such as heads, meet."""

    def __init__(self, first: str, second: str) -> None:
        """`first` and `second` are ATen's names for the values."""
        self.first, self.second = first, second

    def terms(self, call: Call) -> _Terms:
        arguments = call.node[self.first], call.node[self.second]
        return _Terms.matrices(call.node, arguments, [call.of(arg).shape for arg in arguments])


class Einsum(Product):
    """Product of two values whose axes have letters: units along a letter of both that stays meet."""

    def terms(self, call: Call) -> _Terms:
        operands, result = self.letters(call.node)
        shapes = [call.of(arg).shape for arg in call.node["tensors"]]
        sizes: dict[str, int] = {}
        for letters, shape in zip(operands, shapes, strict=True):
            named = dict(zip(letters, shape, strict=True))
            if any(sizes.get(letter, size) != size for letter, size in named.items()):
                raise BundleError(f"einsum {call.node.name!r} reads a value of shape {shape} as {letters!r}")
            sizes |= named
        return _Terms(call.node, call.node["tensors"], operands, result, sizes)

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


class Attention(Rule):
    """softmax(q k^T) v over (…, heads, tokens, width): units are heads, each with all queries that it serves,
    and places of the width, which queries and keys have in common; scores keep the scale of the dense width.
    """

    def trace(self, call: Call) -> Traced:
        query, key, value = (call.labels(name) for name in ("query", "key", "value"))
        if call.node["enable_gqa"] is True:
            key, value = (self._for_each_query(call, labels, query.shape[-3]) for labels in (key, value))
        scores = _matmul(call, query, np.swapaxes(key, -1, -2))
        if isinstance(call.node["attn_mask"], Value | Tensor):
            reason = f"attention {call.node.place} masks them with a value that cannot shrink"
            scores = call.units.meet(scores, call.labels("attn_mask"), reason)
        return _matmul(call, scores, value)

    @staticmethod
    def _for_each_query(call: Call, labels: LabelArray, heads: int) -> LabelArray:
        """Labels of keys or values as every head of the queries reads them.

        Where all of them read the same one, that one stays, and they may go one by one.
        """
        if labels.shape[-3] == 1 < heads and not call.units.by_width:
            call.fix(labels, f"all heads of attention {call.node.place} share them")
            return blank(labels.shape)
        return repeat_interleave(labels, heads // labels.shape[-3], -3)

    def resize(self, node: Node, sizes: Sizes) -> Node:
        width = sizes.mask(node["query"], sizes.rank(node["query"]) - 1)
        return node if width.all() or node["scale"] is not None else with_args(node, scale=len(width) ** -0.5)

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        query, key, value = (call.labels(name).shape for name in ("query", "key", "value"))
        return OpSpec(
            kind="attention",
            in_channels=query[-1] + value[-1],
            out_channels=math.prod(query[:-2]),
            in_size=(query[-2], key[-2]),
        )

    def channels(self, call: Call) -> tuple[Sequence[Length], Sequence[Length]] | None:
        query, value = call.node["query"], call.node["value"]
        heads = tuple((query, axis) for axis in range(call.of(query).ndim - 2))
        return [((query, call.of(query).ndim - 1),), ((value, call.of(value).ndim - 1),)], [heads]


def _matmul(call: Call, a: LabelArray, b: LabelArray) -> LabelArray:
    return _Terms.matrices(call.node, (None, None), (a.shape, b.shape)).trace(call, (a, b))


@dataclass(frozen=True, slots=True)
class _Terms:
    """A product of two operands whose axes have letters, as einsum has them; `sizes` of each letter."""

    node: Node
    operands: Sequence[Arg]
    letters: tuple[str, str]
    result: str
    sizes: dict[str, int]

    @classmethod
    def matrices(cls, node: Node, operands: Sequence[Arg], shapes: Sequence[tuple[int, ...]]) -> _Terms:
        """(…, rows r, summed over s) @ (…, s, columns c)."""
        a, b = shapes
        if min(len(a), len(b)) < 2 or a[-1] != b[-2] or max(len(a), len(b)) > len(_BATCH) + 2:
            raise BundleError(f"node {node.name!r} multiplies shapes {a} and {b}")
        batch = _BATCH[: max(len(a), len(b)) - 2]
        letters = batch[len(batch) - len(a) + 2 :] + "rs", batch[len(batch) - len(b) + 2 :] + "sc"
        sizes = dict.fromkeys(batch + "rsc", 1)
        for named, shape in zip(letters, shapes, strict=True):
            sizes |= {letter: max(sizes[letter], size) for letter, size in zip(named, shape, strict=True)}
        return cls(node, operands, letters, batch + "rc", sizes)

    @property
    def both(self) -> str:
        """Letters of both operands and of the result, such as those of heads."""
        return "".join(x for x in self.result if x in self.letters[0] and x in self.letters[1])

    @property
    def summed(self) -> str:
        """Letters of either operand that the result has not."""
        return "".join(dict.fromkeys(x for x in "".join(self.letters) if x not in self.result))

    def own(self, operand: int) -> str:
        """Letters of the result that one operand alone has: its rows, or columns."""
        return "".join(x for x in self.result if x not in self.letters[1 - operand])

    def size(self, letters: str) -> int:
        return math.prod(self.sizes[letter] for letter in letters)

    def layout(self, call: Call) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """The letters of `in_channels`, `in_size` and `out_size` of the operator, as `OpSpec` has them.

        Columns count as channels if they have units, and so do rows, of the product turned round; else what
        is summed over.
        """
        inner, rows, columns = self.summed, self.own(0), self.own(1)
        for channel, others in ((columns, rows), (rows, columns)):
            if any(self._has_units(call, letter) for letter in channel):
                return channel, (self.size(others), self.size(inner)), (self.size(others),)
        return inner, (self.size(rows),), (self.size(rows), self.size(columns))

    def length(self, call: Call, letters: str) -> Length:
        return tuple(self._place(call, letter) for letter in letters)

    def _place(self, call: Call, letter: str) -> tuple[Value | Tensor, int]:
        """A value or tensor, and its axis of a letter."""
        result = Value(self.node.name)
        for arg, letters in zip((result, *self.operands), (self.result, *self.letters), strict=True):
            if isinstance(arg, Value | Tensor) and letter in letters:
                axis = letters.index(letter)
                if call.of(arg).shape[axis] == self.sizes[letter]:
                    return arg, axis
        raise BundleError(f"node {self.node.name!r} multiplies nothing of axis {letter!r}")

    def _has_units(self, call: Call, letter: str) -> bool:
        arg, axis = self._place(call, letter)
        return isinstance(arg, Value) and axis in call.unit_axes.get(arg.name, ())

    def trace(self, call: Call, labels: Sequence[LabelArray]) -> LabelArray:
        """Labels of the result; units along what is summed over become one, or by width meet."""
        units, reason = call.units, f"{call.node.name} multiplies them with values that cannot shrink"
        rest: list[LabelArray] = []
        summed: list[LabelArray] = []
        for each, letters in zip(labels, self.letters, strict=True):
            small = compact(each)
            inner = blank((1,) * small.ndim)
            if units.by_width:
                units.multiplied.update(np.unique(small).tolist())
                small = self._tied(units, small, letters, self.both)
                if any(letters[axis] in self.summed for axis in varying(small)):
                    units.summed.update(np.unique(small).tolist())
                    small, inner = inner, self._tied(units, small, letters, self.result)
            small = self._tied(units, small, letters, self.summed)
            rest.append(self._arranged(small, letters, self.result, each.shape))
            summed.append(self._arranged(inner, letters, self.summed, each.shape))
        units.meet(summed[0], summed[1], reason)
        return units.meet(rest[0], rest[1], reason)

    @staticmethod
    def _tied(units: Units, labels: LabelArray, letters: str, along: str) -> LabelArray:
        for axis, letter in enumerate(letters):
            labels = units.tie(labels, axis) if letter in along else labels
        return labels

    @staticmethod
    def _arranged(labels: LabelArray, letters: str, wanted: str, shape: tuple[int, ...]) -> LabelArray:
        """The axes of the wanted letters in their order, as long as in `shape`; others have one place."""
        order = sorted(range(len(letters)), key=lambda axis: wanted.find(letters[axis]))
        labels = labels.transpose(order)[(0,) * len(set(letters) - set(wanted))]
        labels = labels[tuple(slice(None) if letter in letters else None for letter in wanted)]
        sizes = dict(zip(letters, shape, strict=True))
        return np.broadcast_to(labels, tuple(sizes.get(letter, 1) for letter in wanted))
