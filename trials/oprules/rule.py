"""What a rule is, and what it is given: one call of an op whose inputs carry labels."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import NDArray

from hwprofiles.errors import BundleError, UnsupportedOpError
from hwprofiles.ops import OpSpec
from trials.graph import Arg, Batch, Node, Tensor, TensorSpec, Value
from trials.labels import LabelArray, Units, blank, compact, varying

Traced = LabelArray | tuple[LabelArray, ...]
Mask = NDArray[np.bool_]
Length = tuple[tuple[Value | Tensor, int], ...]
"""A count as the product of axes."""


@dataclass(frozen=True, slots=True)
class TensorAxis:
    """One axis of a tensor and the unit of each of its positions, in one `use`: a node and its argument.

    `role`: "out" makes the units, "in" contracts over them (zeroing it masks them), "along" rides with them.
    """

    tensor: str
    axis: int
    labels: LabelArray
    role: str
    use: tuple[str, str]


@dataclass(slots=True)
class Call:
    """One node while the graph is traced: its arguments' labels, and where its findings go."""

    node: Node
    units: Units
    values: Mapping[str, Traced]
    specs: Mapping[str, TensorSpec]
    axes: list[TensorAxis] = field(default_factory=list)
    unit_axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Value → the axes that its units lie along, once the groups are known; for `Rule.operator`."""

    def labels(self, argument: str) -> LabelArray:
        """Labels of a value argument; a tensor used as a value belongs to no unit."""
        return self.of(self.node[argument])

    def of(self, arg: Arg) -> LabelArray:
        if isinstance(arg, Tensor):
            return blank(self.specs[arg.name].shape)
        if isinstance(arg, Value):
            found = self.values[arg.name]
            if isinstance(found, tuple):
                raise BundleError(f"node {self.node.name!r} reads the list {arg.name!r} as one value")
            return found
        raise BundleError(f"node {self.node.name!r} ({self.node.op}) got {arg!r} where a value belongs")

    def own(self, argument: str, arg: Arg, whole: Collection[int] = ()) -> LabelArray:
        """Labels as `of` gives them, but a tensor that is long along one axis has units of its own there.

        So a gain that a model views as (1, channels, 1, 1) before it multiplies by it goes with the channels.
        By width the last of several does, such as that of rotary positions (tokens, width). Axes in `whole`
        have none.
        """
        if not isinstance(arg, Tensor):
            return self.of(arg)
        shape = self.specs[arg.name].shape
        long = [axis for axis, size in enumerate(shape) if size > 1 and axis not in whole]
        if not long or (len(long) > 1 and not self.units.by_width):
            return blank(shape)
        line = self.units.new(shape[long[-1]])
        self.axes.append(TensorAxis(arg.name, long[-1], line, "along", (self.node.name, argument)))
        line = line.reshape([-1 if axis == long[-1] else 1 for axis in range(len(shape))])
        return np.broadcast_to(line, shape)

    def spec(self, argument: str) -> TensorSpec:
        return self.specs[self._stored(argument).name]

    def _stored(self, argument: str) -> Tensor:
        arg = self.node[argument]
        if not isinstance(arg, Tensor):
            raise UnsupportedOpError(
                f"{self.node.op} at {self.node.name!r} computes its {argument!r} from values, where only a "
                "stored parameter is supported; give the layer a parameter of its own"
            )
        return arg

    def along(self, labels: LabelArray, axis: int, what: str) -> LabelArray:
        """(size,) the unit at each position of an axis; those along the others go together."""
        axis = normalize_axis_index(axis, labels.ndim)
        others = tuple(other for other in range(labels.ndim) if other != axis)
        labels = self.tied(labels, others, f"{what} {self.node.place} needs whole slices of them")
        if set(varying(labels)) - {axis}:
            return np.zeros(labels.shape[axis], dtype=np.int64)
        return np.broadcast_to(compact(labels).squeeze(others), (labels.shape[axis],))

    def tied(self, labels: LabelArray, axes: Iterable[int], reason: str) -> LabelArray:
        """Labels whose units along these axes go together; they stay if no other axis tells them apart.

        By width they stay if they lie along one of these axes, whatever heads they belong to.
        """
        moved = varying(labels)
        along = set(moved) & {normalize_axis_index(axis, labels.ndim) for axis in axes}
        if along and (along == set(moved) or (self.units.by_width and moved[-1] in along)):
            self.units.fix(labels, reason)
            return labels
        tied = labels
        for axis in along:
            tied = self.units.tie(tied, axis)
        return np.broadcast_to(tied, labels.shape)

    def bind(self, argument: str, axis: int, labels: LabelArray, role: str) -> None:
        """Record that a tensor's axis belongs to these units; an absent (None) tensor is fine."""
        if self.node[argument] is None:
            return
        tensor, size = self._stored(argument).name, self.spec(argument).shape[axis]
        if size != len(labels):
            raise BundleError(
                f"tensor {tensor!r} has {size} positions on axis {axis} where node {self.node.name!r} has "
                f"{len(labels)}; export the model again"
            )
        self.axes.append(TensorAxis(tensor, axis, labels, role, (self.node.name, argument)))

    def ride(self, argument: str, labels: LabelArray) -> None:
        """Record that a tensor, which may be absent (None), holds one number for each of these units."""
        if self.node[argument] is None:
            return
        shape = self.spec(argument).shape
        if len(shape) != 1:
            raise BundleError(
                f"node {self.node.name!r} has a {argument!r} of shape {list(shape)}; allowed: one number for "
                "each channel or feature"
            )
        self.bind(argument, 0, labels, "along")

    def fix(self, labels: LabelArray, reason: str) -> None:
        self.units.fix(labels, reason)


class Sizes(Protocol):
    """Sizes of values and tensors after pruning, for `Rule.resize`."""

    def size(self, of: Value | Tensor, axis: int) -> int:
        """Kept positions of an axis."""
        ...

    def mask(self, of: Value | Tensor, axis: int) -> Mask:
        """(dense size,) True where a position is kept."""
        ...

    def rank(self, of: Value | Tensor) -> int: ...


class Rule:
    """The default rule: nothing to resize, nothing that costs time."""

    def trace(self, call: Call) -> Traced:
        """Labels, and with them the shape, of the result.

        Raises:
            BundleError: shapes that do not fit together, or a literal that is not allowed.
            UnsupportedOpError: a use of the op that has no rule.
        """
        raise NotImplementedError

    def rigid(self, node: Node, rank: int) -> list[int]:
        """Axes of the argument `self` that must keep their size, because a literal counts along them."""
        return []

    def resize(self, node: Node, sizes: Sizes) -> Node:
        """The node after units are gone."""
        return node

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        """What the hardware runs; None where it runs nothing."""
        return None

    def channels(self, call: Call) -> tuple[Sequence[Length], Sequence[Length]] | None:
        """What the channels in and out of `operator` are sums of; None where their axes go by its kind."""
        return None


def with_args(node: Node, **args: Arg) -> Node:
    return replace(node, args={**node.args, **args})


def plain(arg: Arg) -> Any:
    """A literal at batch 1."""
    if isinstance(arg, tuple):
        return tuple(plain(item) for item in arg)
    return arg.times if isinstance(arg, Batch) else arg


def numbers(arg: Arg, axes: int, lowest: int = 1) -> tuple[int, ...]:
    """A literal for each of some axes, from `lowest` to a million; ValueError if it is something else."""
    values = arg if isinstance(arg, tuple) else (arg,)
    values = values * axes if len(values) == 1 else values
    if len(values) != axes or not all(type(value) is int and lowest <= value < 2**20 for value in values):
        raise ValueError(f"{str(arg)[:60]} is not one or {axes} integers from {lowest} to {2**20 - 1}")
    return values  # type: ignore[return-value]


def pair(arg: Arg, lowest: int = 1) -> tuple[int, int]:
    """The same for height and width."""
    height, width = numbers(arg, 2, lowest)
    return height, width


def moving(call: Call, result: Traced, kind: str, what: str = "", usual: int | None = None) -> OpSpec:
    """An op whose time is that of reading and writing its result; `usual` as in `moving_axes`."""
    parts = result if isinstance(result, tuple) else (result,)
    shape = parts[0].shape
    axes = moving_axes(call, len(shape), usual)
    channels = sum(math.prod(part.shape[axis] for axis in axes) for part in parts)
    size = tuple(size for position, size in enumerate(shape) if position not in (0, *axes))
    return OpSpec(
        kind=kind,
        in_channels=channels,
        out_channels=channels,
        in_size=size,
        out_size=size,
        fused=(what,) if what else (),
    )


def moving_axes(call: Call, rank: int, usual: int | None = None) -> tuple[int, ...]:
    """The axes of a node's result that count as channels: those of its units, else where others have them.

    Args:
        usual: where an op has channels that are no units; by default the second axis of maps, else the last.
    """
    if usual is None:
        usual = 1 if rank == 4 else -1
    return call.unit_axes.get(call.node.name, (usual % rank,) if rank else ())
