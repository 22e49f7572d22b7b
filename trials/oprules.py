"""One rule per allowed op: how units travel through it, how its literals change, which operator it is.

An op that is not in `RULES` is refused at export and again when a bundle is opened. A rule answers:

- `trace`: the labels (and with them the shape) of the result; which tensor axes belong to which units.
- `resize`: the same node after units are gone: literals such as view sizes, pads and slice bounds.
- `operator`: what the hardware runs, as an `OpSpec`; None where it runs nothing (a view).

To add an op: write its rule, register it in `RULES`, add a line to the table in tests/trials/test_oprules.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import BundleError, UnsupportedOpError, nearest
from hwprofiles.ops import OpSpec
from trials.graph import INT_END, MAX_ELEMENTS, Arg, Batch, Node, Tensor, TensorSpec, Value
from trials.labels import LabelArray, Units, blank, compact, spread, varying

Traced = LabelArray | tuple[LabelArray, ...]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TensorAxis:
    """One axis of a tensor and the unit of each of its positions.

    `role`: "out" makes the units, "in" contracts over them (zeroing it masks them), "along" rides with them.
    """

    tensor: str
    axis: int
    labels: LabelArray
    role: str
    node: str


@dataclass(slots=True)
class Call:
    """One node while the graph is traced: its arguments' labels, and where its findings go."""

    node: Node
    units: Units
    values: Mapping[str, Traced]
    specs: Mapping[str, TensorSpec]
    axes: list[TensorAxis] = field(default_factory=list)
    raw: set[str] = field(default_factory=set)
    """Tensors used as values of their own."""
    channel_axes: Mapping[str, int] = field(default_factory=dict)
    """Value → the axis that its units lie along, once the groups are known; for `Rule.operator`."""

    def labels(self, argument: str) -> LabelArray:
        """Labels of a value argument; a tensor used as a value belongs to no unit."""
        return self.of(self.node[argument])

    def of(self, arg: Arg) -> LabelArray:
        if isinstance(arg, Tensor):
            self.raw.add(arg.name)
            return blank(self.specs[arg.name].shape)
        if isinstance(arg, Value):
            found = self.values[arg.name]
            if isinstance(found, tuple):
                raise BundleError(f"node {self.node.name!r} reads the list {arg.name!r} as one value")
            return found
        raise BundleError(f"node {self.node.name!r} ({self.node.op}) got {arg!r} where a value belongs")

    def spec(self, argument: str) -> TensorSpec:
        arg = self.node[argument]
        if not isinstance(arg, Tensor):
            raise UnsupportedOpError(
                f"{self.node.op} at {self.node.name!r} computes its {argument!r} from values, where only a "
                "stored parameter is supported; give the layer a parameter of its own"
            )
        spec: TensorSpec = self.specs[arg.name]
        return spec

    def along(self, labels: LabelArray, axis: int, what: str) -> LabelArray:
        """(size,) the unit at each position of an axis; units that change along any other axis are fixed."""
        axis %= labels.ndim
        if set(varying(labels)) - {axis}:
            self.units.fix(labels, f"{what} {self.node.name} needs whole slices of them")
            return np.zeros(labels.shape[axis], dtype=np.int64)
        small = compact(labels)
        others = tuple(other for other in range(labels.ndim) if other != axis)
        return np.broadcast_to(small.squeeze(others), (labels.shape[axis],))

    def bind(self, argument: str, axis: int, labels: LabelArray, role: str) -> None:
        """Record that a tensor's axis belongs to these units; an absent (None) tensor is fine."""
        arg = self.node[argument]
        if isinstance(arg, Tensor):
            if self.specs[arg.name].shape[axis] != len(labels):
                size = self.specs[arg.name].shape[axis]
                raise BundleError(
                    f"tensor {arg.name!r} has {size} positions on axis {axis} where node {self.node.name!r} has "
                    f"{len(labels)}; export the model again"
                )
            self.axes.append(TensorAxis(arg.name, axis, labels, role, self.node.name))

    def fix(self, labels: LabelArray, reason: str) -> None:
        self.units.fix(labels, reason)


class Sizes(Protocol):
    """Sizes of values after pruning, for `Rule.resize`."""

    def size(self, value: str, axis: int, item: int = 0) -> int:
        """Kept positions of an axis; `item` picks from a value that is a list."""
        ...

    def mask(self, value: str, axis: int, item: int = 0) -> Mask:
        """(dense size,) True where a position is kept."""
        ...

    def rank(self, value: str) -> int: ...


class Rule:
    """The default rule: nothing to resize, nothing that costs time."""

    def trace(self, call: Call) -> Traced:
        raise NotImplementedError

    def resize(self, node: Node, sizes: Sizes) -> Node:
        return node

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return None


def _with(node: Node, **args: Arg) -> Node:
    return replace(node, args={**node.args, **args})


def _plain(arg: Arg) -> Any:
    """A literal at batch 1."""
    if isinstance(arg, tuple):
        return tuple(_plain(item) for item in arg)
    return arg.times if isinstance(arg, Batch) else arg


def _pair(arg: Arg) -> tuple[int, int]:
    values = arg if isinstance(arg, tuple) else (arg,)
    values = values * 2 if len(values) == 1 else values
    if len(values) != 2 or not all(type(value) is int and abs(value) < 2**20 for value in values):
        raise BundleError(f"{arg!r} is not one or two small integers")
    return values  # type: ignore[return-value]


# Contractions: they consume the units of their input and make new ones.


class Conv2d(Rule):
    """Convolution over (batch, channels, height, width)."""

    def trace(self, call: Call) -> Traced:
        x, weight, groups = call.labels("input"), call.spec("weight").shape, call.node["groups"]
        if x.ndim != 4 or len(weight) != 4 or type(groups) is not int or not 0 < groups <= weight[0]:
            raise BundleError(f"convolution {call.node.name!r} is not two-dimensional and batched")
        if weight[1] * groups != x.shape[1]:
            raise BundleError(
                f"convolution {call.node.name!r} reads {x.shape[1]} channels, not {weight[1] * groups}"
            )
        channels = call.along(x, 1, "convolution")
        if groups == 1:
            made = call.units.new(weight[0])
            call.bind("weight", 0, made, "out")
            call.bind("weight", 1, channels, "in")
            call.bind("bias", 0, made, "along")
        elif self.depthwise(weight, groups, x.shape[1]):
            made = np.repeat(channels, weight[0] // groups)
            call.bind("weight", 0, made, "along")
            call.bind("bias", 0, made, "along")
        else:
            call.fix(x, f"grouped convolution {call.node.name} ({groups} groups) has no coupling rule yet")
            made = np.zeros(weight[0], dtype=np.int64)
        return np.broadcast_to(made[None, :, None, None], (x.shape[0], len(made), *self.out_size(call)))

    @staticmethod
    def depthwise(weight: tuple[int, ...], groups: int, channels: int) -> bool:
        return groups == channels and weight[1] == 1

    def padding(self, call: Call) -> tuple[int, int, int, int]:
        """(top, left, bottom, right)."""
        padding, kernel = call.node["padding"], call.spec("weight").shape[2:]
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding == "same":
            dilation = _pair(call.node["dilation"])
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            return (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
        top, left = _pair(padding)
        return (top, left, top, left)

    def out_size(self, call: Call) -> tuple[int, int]:
        x, kernel = call.labels("input").shape, call.spec("weight").shape[2:]
        stride, dilation, pad = _pair(call.node["stride"]), _pair(call.node["dilation"]), self.padding(call)
        height, width = (
            (x[2 + d] + pad[d] + pad[d + 2] - dilation[d] * (kernel[d] - 1) - 1) // max(1, stride[d]) + 1
            for d in (0, 1)
        )
        return height, width

    def resize(self, node: Node, sizes: Sizes) -> Node:
        if node["groups"] == 1 or not isinstance(node["input"], Value):
            return node
        kept = sizes.size(node["input"].name, 1)
        return _with(node, groups=kept) if node["groups"] == len(sizes.mask(node["input"].name, 1)) else node

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x, weight, groups = call.labels("input").shape, call.spec("weight").shape, call.node["groups"]
        depthwise = groups > 1 and self.depthwise(weight, groups, x[1])
        return OpSpec(
            kind="depthwise_conv2d" if depthwise else "conv2d",
            in_channels=x[1],
            out_channels=weight[0],
            in_size=x[2:],
            out_size=self.out_size(call),
            kernel=weight[2:],
            stride=_pair(call.node["stride"]),
            padding=self.padding(call),
            dilation=_pair(call.node["dilation"]),
            groups=0 if depthwise else groups,
        )


class Linear(Rule):
    """Matrix product over the last axis."""

    def trace(self, call: Call) -> Traced:
        x, weight = call.labels("input"), call.spec("weight").shape
        if len(weight) != 2 or x.shape[-1] != weight[1]:
            raise BundleError(f"linear {call.node.name!r} reads {x.shape[-1:]} features, not {weight[1:]}")
        made = call.units.new(weight[0])
        call.bind("weight", 0, made, "out")
        call.bind("weight", 1, call.along(x, -1, "linear"), "in")
        call.bind("bias", 0, made, "along")
        return np.broadcast_to(made, (*x.shape[:-1], weight[0]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        shape, weight = call.labels("input").shape, call.spec("weight").shape
        return OpSpec(
            kind="linear", in_channels=weight[1], out_channels=weight[0], in_size=(math.prod(shape[:-1]),)
        )


class Embedding(Rule):
    def trace(self, call: Call) -> Traced:
        index, weight = call.labels("indices"), call.spec("weight").shape
        made = call.units.new(weight[1])
        call.bind("weight", 1, made, "out")
        return np.broadcast_to(made, (*index.shape, weight[1]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return _moving(call, result, "copy", "gather")


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


class Matmul(Rule):
    """Product of two values; `first` and `second` are ATen's names for them."""

    def __init__(self, first: str, second: str) -> None:
        self.first, self.second = first, second

    def trace(self, call: Call) -> Traced:
        return _contract(call, call.labels(self.first), call.labels(self.second))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        a, b = call.labels(self.first).shape, call.labels(self.second).shape
        count = math.prod(a[:-2])
        return OpSpec(
            kind="matmul", in_channels=count, out_channels=count, in_size=a[-2:], out_size=(a[-2], b[-1])
        )


class Attention(Rule):
    """softmax(q k^T) v over (…, heads, tokens, width)."""

    def trace(self, call: Call) -> Traced:
        query, key, value = (call.labels(name) for name in ("query", "key", "value"))
        if call.node["enable_gqa"] is True:
            for labels in (query, key, value):
                call.fix(labels, f"grouped-query attention {call.node.name} has no coupling rule yet")
            return blank((*query.shape[:-1], value.shape[-1]))
        scores = _contract(call, query, np.swapaxes(key, -1, -2))
        if isinstance(call.node["attn_mask"], Value | Tensor):
            reason = f"attention {call.node.name} masks them with a value that cannot shrink"
            scores = call.units.meet(scores, call.labels("attn_mask"), reason)
        return _contract(call, scores, value)

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


# Normalisations and functions of one element: units pass, per-unit tensors ride along.


class BatchNorm(Rule):
    def trace(self, call: Call) -> Traced:
        x = call.labels("input")
        channels = call.along(x, 1, "batch norm")
        for argument in ("weight", "bias", "running_mean", "running_var"):
            call.bind(argument, 0, channels, "along")
        return x

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return _moving(call, result, "batch_norm")


class Statistics(Rule):
    """Layer norm, group norm, softmax: units along the axes that it reduces over cannot go."""

    def __init__(self, kind: str, argument: str, axes: Callable[[Node, int], Iterable[int]]) -> None:
        self.kind, self.argument, self.axes = kind, argument, axes

    def trace(self, call: Call) -> Traced:
        x = call.labels(self.argument)
        if set(varying(x)) & {axis % x.ndim for axis in self.axes(call.node, x.ndim)}:
            call.fix(x, f"{self.kind} {call.node.name} takes its statistics over them")
        return x

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return _moving(call, result, self.kind)


class Elementwise(Rule):
    """Any function of the elements at one place, with broadcasting; parameters among them ride along."""

    def trace(self, call: Call) -> Traced:
        values = [leaf for leaf in call.node.leaves() if isinstance(leaf, Value)]
        tensors = [name for name, arg in call.node.args.items() if isinstance(arg, Tensor)]
        reason = f"{call.node.name} combines them with a value that cannot shrink"
        result = call.of(values[0]) if values else blank(())
        for value in values[1:]:
            result = call.units.meet(result, call.of(value), reason)
        for name in tensors:
            result = self._ride(call, name, result)
        return result

    def _ride(self, call: Call, argument: str, labels: LabelArray) -> LabelArray:
        shape = call.spec(argument).shape
        full = np.broadcast_to(labels, np.broadcast_shapes(labels.shape, shape))
        offset = full.ndim - len(shape)
        shared = [axis for axis in varying(full) if axis >= offset and shape[axis - offset] > 1]
        if len(shared) > 1:
            call.fix(
                full, f"parameter {call.node[argument].name} of {call.node.name} spans several of their axes"
            )
        elif shared:
            call.bind(argument, shared[0] - offset, call.along(full, shared[0], "parameter of"), "along")
        return full

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return _moving(call, result, "elementwise", call.node.op.split(".")[1])


class Free(Elementwise):
    """Elementwise, and nothing that a deployed model runs (dropout, clone, contiguous)."""

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return None


class Reduce(Rule):
    """Mean or sum over axes; units along them cannot go."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def trace(self, call: Call) -> Traced:
        x = call.labels("self")
        wanted = _plain(call.node.args.get("dim"))
        dims = (
            range(x.ndim)
            if wanted is None or wanted == ()
            else (wanted if isinstance(wanted, tuple) else (wanted,))
        )
        axes = {axis % x.ndim for axis in dims}
        if set(varying(x)) & axes:
            call.fix(x, f"{call.node.name} takes the {self.kind} over them")
        keep = call.node.args.get("keepdim") is True
        index = tuple((slice(0, 1) if keep else 0) if axis in axes else slice(None) for axis in range(x.ndim))
        return np.asarray(x[index])

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x = call.labels("self").shape
        if len(x) == 4 and isinstance(result, np.ndarray) and result.shape[:2] == x[:2]:
            return OpSpec(
                kind="avg_pool2d",
                in_channels=x[1],
                out_channels=x[1],
                in_size=x[2:],
                out_size=(1, 1),
                kernel=x[2:],
                stride=x[2:],
                padding=(0, 0, 0, 0),
            )
        return _moving(call, result, "elementwise", self.kind)


class Pool2d(Rule):
    """Max and average pooling, plain and adaptive."""

    def __init__(self, kind: str, adaptive: bool = False) -> None:
        self.kind, self.adaptive = kind, adaptive

    def trace(self, call: Call) -> Traced:
        x = call.labels("self")
        if x.ndim != 4:
            raise BundleError(f"pool {call.node.name!r} reads a value of {x.ndim} axes, not 4")
        call.along(x, 1, "pool")
        return np.broadcast_to(x[:, :, :1, :1], (*x.shape[:2], *self._window(call)[3]))

    def _window(
        self, call: Call
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(kernel, stride, padding, out size)."""
        size = call.labels("self").shape[2:]
        if self.adaptive:
            wanted = call.node["output_size"]
            out = tuple(s if w is None else w for s, w in zip(size, wanted, strict=True))
            kernel = tuple(-(-s // o) for s, o in zip(size, out, strict=True))
            return kernel, tuple(s // o for s, o in zip(size, out, strict=True)), (0, 0), out
        kernel, padding = _pair(call.node["kernel_size"]), _pair(call.node["padding"])
        stride = _pair(call.node["stride"]) if call.node["stride"] else kernel
        dilation = _pair(call.node.args.get("dilation", 1))
        span = [size[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1 for d in (0, 1)]
        if call.node["ceil_mode"] is True:
            ends = [-(-s // st) + 1 for s, st in zip(span, stride, strict=True)]
            # The last window must start inside the input or its left padding, as in PyTorch.
            out = tuple(
                e - 1 if (e - 1) * st >= s + p else e
                for e, st, s, p in zip(ends, stride, size, padding, strict=True)
            )
        else:
            out = tuple(s // st + 1 for s, st in zip(span, stride, strict=True))
        return kernel, stride, padding, out

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x = call.labels("self").shape
        kernel, stride, padding, out = self._window(call)
        return OpSpec(
            kind=self.kind,
            in_channels=x[1],
            out_channels=x[1],
            in_size=x[2:],
            out_size=out,
            kernel=kernel,
            stride=stride,
            padding=(*padding, *padding),
        )


# Data movement: executed on the label arrays themselves.


class Move(Rule):
    """Runs `move` on the labels; `sized` names the literal that holds sizes of the result, if one does."""

    def __init__(self, move: Callable[..., Any], *, sized: str = "", costs: str = "") -> None:
        self.move, self.sized, self.costs = move, sized, costs

    def trace(self, call: Call) -> Traced:
        args = [
            call.of(arg)
            if isinstance(arg, Value | Tensor)
            else [call.of(item) for item in arg]
            if isinstance(arg, tuple) and arg and isinstance(arg[0], Value | Tensor)
            else _plain(arg)
            for arg in call.node.args.values()
        ]
        try:
            moved = self.move(*args)
        except (ValueError, IndexError, TypeError) as error:
            raise BundleError(f"node {call.node.name!r} ({call.node.op}) cannot run: {error}") from None
        return tuple(spread(item) for item in moved) if isinstance(moved, list | tuple) else spread(moved)

    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not self.sized:
            return node
        start = node["dim"] % sizes.rank(node["self"].name) if self.sized == "sizes" else 0
        offset = sizes.rank(node.name) - len(node[self.sized]) if node.op == "aten.expand.default" else start
        literals = tuple(
            literal
            if literal == -1
            else Batch(sizes.size(node.name, offset + axis))
            if isinstance(literal, Batch)
            else sizes.size(node.name, offset + axis)
            for axis, literal in enumerate(node[self.sized])
        )
        return _with(node, **{self.sized: literals})

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return _moving(call, result, "copy", self.costs) if self.costs else None


class Slice(Move):
    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not isinstance(node["self"], Value):
            return node
        mask = sizes.mask(node["self"].name, node["dim"] % sizes.rank(node["self"].name))
        if mask.all() or node["step"] != 1:
            return node
        start, end, _ = slice(node["start"], node["end"]).indices(len(mask))
        kept = int(mask[:start].sum())
        return _with(node, start=kept, end=kept + int(mask[start:end].sum()))


class Select(Move):
    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not isinstance(node["self"], Value):
            return node
        mask = sizes.mask(node["self"].name, node["dim"] % sizes.rank(node["self"].name))
        return _with(node, index=int(mask[: node["index"] % len(mask)].sum()))


class Split(Move):
    """chunk and split; after pruning the parts may differ, so both become split_with_sizes."""

    def resize(self, node: Node, sizes: Sizes) -> Node:
        if not isinstance(node["self"], Value):
            return node
        dim = node["dim"] % sizes.rank(node["self"].name)
        if sizes.mask(node["self"].name, dim).all():
            return node
        parts = len(self.parts(node, sizes, dim))
        kept = tuple(sizes.size(node.name, dim, item) for item in range(parts))
        args: dict[str, Arg] = {"self": node["self"], "split_sizes": kept, "dim": dim}
        return replace(node, op="aten.split_with_sizes.default", args=args)

    def parts(self, node: Node, sizes: Sizes, dim: int) -> list[Any]:
        dense = np.zeros(len(sizes.mask(node["self"].name, dim)))
        literal = next(arg for name, arg in node.args.items() if name not in ("self", "dim"))
        moved: list[Any] = list(self.move(dense, literal, 0))
        return moved


class Pad(Rule):
    """Constant padding. New channels are units of their own: a sum may join them with a convolution's."""

    def trace(self, call: Call) -> Traced:
        x, pads = call.labels("self"), self.pads(call.node, call.labels("self").ndim)
        if call.node["mode"] != "constant":
            call.fix(x, f"{call.node.name} pads by {call.node['mode']!r}, which has no coupling rule yet")
        if (
            min(min(pair) for pair in pads) < 0
            or math.prod(s + sum(p) for s, p in zip(x.shape, pads, strict=True)) > MAX_ELEMENTS
        ):
            raise BundleError(f"node {call.node.name!r} pads by {pads}, outside of what is allowed")
        grown = compact(x)
        for axis in varying(x):
            if sum(pads[axis]):
                before, after = (call.units.new(count) for count in pads[axis])
                shape = [1] * x.ndim
                sides = [
                    np.broadcast_to(
                        s.reshape([*shape[:axis], -1, *shape[axis + 1 :]]),
                        (*grown.shape[:axis], len(s), *grown.shape[axis + 1 :]),
                    )
                    for s in (before, after)
                ]
                grown = np.concatenate([sides[0], grown, sides[1]], axis=axis)
        return np.broadcast_to(grown, tuple(s + sum(p) for s, p in zip(x.shape, pads, strict=True)))

    @staticmethod
    def pads(node: Node, rank: int) -> list[tuple[int, int]]:
        """(before, after) of each axis; ATen lists the last axis first."""
        flat = node["pad"]
        if len(flat) % 2 or len(flat) > 2 * rank or not all(type(p) is int and abs(p) < 2**20 for p in flat):
            raise BundleError(f"node {node.name!r} pads by {flat!r}, which is not pairs of small integers")
        pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
        return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]

    def resize(self, node: Node, sizes: Sizes) -> Node:
        rank = sizes.rank(node.name)
        flat: list[int] = []
        for axis, (before, after) in enumerate(self.pads(node, rank)):
            mask = sizes.mask(node.name, axis)
            end = len(mask) - after
            flat = [int(mask[:before].sum()), int(mask[end:].sum()), *flat]
        return _with(node, pad=tuple(flat[: len(node["pad"])]))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return _moving(call, result, "copy", "pad")


class Constant(Rule):
    """A range of integers, made from literals alone."""

    def trace(self, call: Call) -> Traced:
        literals = {name: _plain(arg) for name, arg in call.node.args.items() if type(_plain(arg)) is int}
        count = len(range(literals.get("start", 0), literals["end"], literals.get("step", 1)))
        return blank((count,))


def _moving(call: Call, result: Traced, kind: str, what: str = "") -> OpSpec:
    """The OpSpec of an op whose time is that of reading and writing its result."""
    parts = result if isinstance(result, tuple) else (result,)
    shape = parts[0].shape
    axis = call.channel_axes.get(call.node.name, 1 if len(shape) == 4 else max(0, len(shape) - 1))
    channels = sum(part.shape[axis] for part in parts) if shape else 1
    size = tuple(size for position, size in enumerate(shape) if position not in (0, axis))
    return OpSpec(
        kind=kind,
        in_channels=channels,
        out_channels=channels,
        in_size=size,
        out_size=size,
        fused=(what,) if what else (),
    )


def _reshape(x: LabelArray, size: tuple[int, ...]) -> LabelArray:
    return x.reshape(size)


def _flatten(x: LabelArray, start: int, end: int) -> LabelArray:
    start, end = start % max(1, x.ndim), end % max(1, x.ndim)
    return x.reshape((*x.shape[:start], -1, *x.shape[end + 1 :]))


def _unflatten(x: LabelArray, dim: int, sizes: tuple[int, ...]) -> LabelArray:
    dim %= x.ndim
    return x.reshape((*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


def _squeeze(x: LabelArray, dim: int | tuple[int, ...]) -> LabelArray:
    dims = {d % x.ndim for d in (dim if isinstance(dim, tuple) else (dim,))}
    return x.squeeze(tuple(d for d in dims if x.shape[d] == 1))


def _expand(x: LabelArray, size: tuple[int, ...], implicit: bool = False) -> LabelArray:
    lead = len(size) - x.ndim
    if math.prod(max(1, s) for s in size) > MAX_ELEMENTS:
        raise ValueError(f"expands to {size}, which is too large")
    return np.broadcast_to(x, tuple(x.shape[i - lead] if s == -1 else s for i, s in enumerate(size)))


def _repeat(x: LabelArray, repeats: tuple[int, ...]) -> LabelArray:
    if math.prod(repeats) * x.size > MAX_ELEMENTS:
        raise ValueError(f"repeats {repeats}, which is too large")
    return np.tile(x, repeats)


def _slice(x: LabelArray, dim: int, start: int | None, end: int | None, step: int) -> LabelArray:
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, None if end == INT_END else end, step)
    return x[tuple(index)]


def _chunk(x: LabelArray, chunks: int, dim: int) -> list[LabelArray]:
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _split(x: LabelArray, size: int | tuple[int, ...], dim: int) -> list[LabelArray]:
    total = x.shape[dim]
    if isinstance(size, int) and (size < 1 or total // size > 4096):
        raise ValueError(f"splits {total} into parts of {size}")
    ends = np.cumsum(size) if isinstance(size, tuple) else np.arange(size, total + size, size)
    return np.split(x, ends[:-1], axis=dim)


def _unbind(x: LabelArray, dim: int) -> list[LabelArray]:
    return [np.asarray(x.take(index, axis=dim)) for index in range(x.shape[dim])]


class Filled(Rule):
    """A value of one number in the shape of another."""

    def trace(self, call: Call) -> Traced:
        return blank(call.labels("self").shape)


class Item(Rule):
    """One part of a value that is a list."""

    def trace(self, call: Call) -> Traced:
        items = call.values[call.node["self"].name]
        if not isinstance(items, tuple) or not -len(items) <= call.node["index"] < len(items):
            raise BundleError(f"node {call.node.name!r} takes item {call.node['index']} of something else")
        found: LabelArray = items[call.node["index"]]
        return found


_elementwise, _free = Elementwise(), Free()
_POINTWISE = (
    "relu.default relu6.default hardtanh.default hardswish.default hardsigmoid.default silu.default "
    "gelu.default sigmoid.default tanh.default leaky_relu.default elu.default softplus.default mish.default "
    "clamp.default exp.default log.default sqrt.default rsqrt.default neg.default abs.default "
    "pow.Tensor_Scalar add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar mul.Tensor mul.Scalar "
    "div.Tensor div.Scalar maximum.default minimum.default eq.Scalar ne.Scalar gt.Scalar lt.Scalar "
    "masked_fill.Scalar where.self where.ScalarOther bitwise_not.default logical_not.default"
)

RULES: dict[str, Rule] = {
    **{f"aten.{name}": _elementwise for name in _POINTWISE.split()},
    "aten.dropout.default": _free,
    "aten.feature_dropout.default": _free,
    "aten.clone.default": _free,
    "aten.contiguous.default": _free,
    "aten.to.dtype": _free,
    "aten.alias.default": _free,
    "aten.conv2d.default": Conv2d(),
    "aten.conv2d.padding": Conv2d(),
    "aten.linear.default": Linear(),
    "aten.embedding.default": Embedding(),
    "aten.matmul.default": Matmul("self", "other"),
    "aten.bmm.default": Matmul("self", "mat2"),
    "aten.scaled_dot_product_attention.default": Attention(),
    "aten.batch_norm.default": BatchNorm(),
    "aten.layer_norm.default": Statistics(
        "layer_norm", "input", lambda node, rank: range(rank - len(node["normalized_shape"]), rank)
    ),
    "aten.group_norm.default": Statistics("group_norm", "input", lambda node, rank: range(1, rank)),
    "aten.softmax.int": Statistics("softmax", "self", lambda node, rank: [node["dim"]]),
    "aten.mean.dim": Reduce("mean"),
    "aten.sum.dim_IntList": Reduce("sum"),
    "aten.max_pool2d.default": Pool2d("max_pool2d"),
    "aten.avg_pool2d.default": Pool2d("avg_pool2d"),
    "aten.adaptive_avg_pool2d.default": Pool2d("avg_pool2d", adaptive=True),
    "aten.adaptive_max_pool2d.default": Pool2d("max_pool2d", adaptive=True),
    "aten.view.default": Move(_reshape, sized="size"),
    "aten.reshape.default": Move(_reshape, sized="shape"),
    "aten.flatten.using_ints": Move(_flatten),
    "aten.unflatten.int": Move(_unflatten, sized="sizes"),
    "aten.permute.default": Move(np.transpose, costs="transpose"),
    "aten.transpose.int": Move(np.swapaxes, costs="transpose"),
    "aten.squeeze.dim": Move(_squeeze),
    "aten.squeeze.dims": Move(_squeeze),
    "aten.unsqueeze.default": Move(np.expand_dims),
    "aten.expand.default": Move(_expand, sized="size", costs="expand"),
    "aten.repeat.default": Move(_repeat, costs="repeat"),
    "aten.cat.default": Move(np.concatenate, costs="cat"),
    "aten.stack.default": Move(np.stack, costs="cat"),
    "aten.slice.Tensor": Slice(_slice, costs="slice"),
    "aten.select.int": Select(lambda x, dim, index: x.take(index, axis=dim), costs="slice"),
    "aten.chunk.default": Split(_chunk, costs="slice"),
    "aten.split.Tensor": Split(_split, costs="slice"),
    "aten.split_with_sizes.default": Split(_split, costs="slice"),
    "aten.unbind.int": Move(_unbind, costs="slice"),
    "aten.pad.default": Pad(),
    "aten.zeros_like.default": Filled(),
    "aten.ones_like.default": Filled(),
    "aten.full_like.default": Filled(),
    "aten.arange.default": Constant(),
    "aten.arange.start": Constant(),
    "getitem": Item(),
}


def rule_of(op: str) -> Rule:
    """The rule of an op.

    Raises:
        UnsupportedOpError: the op is off the list.
    """
    try:
        return RULES[op]
    except KeyError:
        raise UnsupportedOpError(
            f"the model uses the op {op!r}, which prunefront has no rule for; {nearest(op, RULES)[:200]} "
            "Replace it in the model, or add a rule in trials/oprules.py"
        ) from None
