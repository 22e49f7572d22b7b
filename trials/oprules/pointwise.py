"""Functions of the elements at one place, and reductions: units pass through, per-unit tensors ride along."""

from __future__ import annotations

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from hwprofiles.errors import BundleError
from hwprofiles.ops import OpSpec
from trials.graph import Tensor, Value
from trials.labels import LabelArray, blank, compact, lines, varying
from trials.oprules.images import pool
from trials.oprules.rule import Call, Rule, Traced, moving, plain


class Elementwise(Rule):
    """Any function of the elements at one place, with broadcasting; parameters among them ride along.

    A value of a single unit, such as a gate for all channels, stays, or all that it meets would go with it.
    """

    def trace(self, call: Call) -> Traced:
        values = [leaf for leaf in call.node.leaves() if isinstance(leaf, Value)]
        tensors = [name for name, arg in call.node.args.items() if isinstance(arg, Tensor)]
        if values:
            result = call.of(values[0])
        elif tensors:
            first, *tensors = tensors
            result = call.own(first, call.node[first])
        else:
            result = blank(())
        for value in values[1:]:
            result = self.met(call, result, call.of(value))
        for argument in tensors:
            result = self._ride(call, argument, result)
        return result

    @staticmethod
    def met(call: Call, a: LabelArray, b: LabelArray) -> LabelArray:
        """Labels of what two values make together."""
        sizes = compact(a).size, compact(b).size
        if 1 in sizes and max(sizes) > 1:
            one = a if sizes[0] == 1 else b
            call.fix(one, f"{call.node.name} combines it with many, which would all go with it")
            a, b = (blank(x.shape) if x is one else x for x in (a, b))
        return call.units.meet(a, b, f"{call.node.name} combines them with a value that cannot shrink")

    @staticmethod
    def _ride(call: Call, argument: str, labels: LabelArray) -> LabelArray:
        """Labels of the result, with a parameter bound to the units of the axis that it shares with them.

        Units along one axis alone can stay apart. If the parameter is long along all that they have, it is
        the one with most of them; else heads, which come before what is in them, or by width the last.
        """
        shape = call.spec(argument).shape
        full = np.broadcast_to(labels, np.broadcast_shapes(labels.shape, shape))
        full = call.units.joined(full) if len(varying(full)) > 1 else full
        axes, offset = varying(full), full.ndim - len(shape)
        shared = [axis for axis in axes if axis >= offset and shape[axis - offset] > 1]
        if not shared:
            return full
        kept = call.units.apart_along(axes)
        if shared == axes and not call.units.by_width:
            kept = max(axes, key=lambda axis: lines(full, axis))
        full = call.tied(full, [axis for axis in axes if axis != kept], "")
        if kept in shared:
            call.bind(argument, kept - offset, call.along(full, kept, "parameter of"), "along")
        return full

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "elementwise", call.node.op.split(".")[1])


class Free(Elementwise):
    """Units pass through, and a deployed model runs nothing."""

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return None


class Follow(Rule):
    """A value repeated until it has the shape of another, whose units it takes beside its own."""

    def trace(self, call: Call) -> Traced:
        return Elementwise.met(call, call.labels("self"), call.labels("other"))

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "copy", "expand")


class Filled(Rule):
    """A value of one number in the shape of another, which it follows: units pass through."""

    def trace(self, call: Call) -> Traced:
        return call.labels("self")


class Gated(Rule):
    """One half of an axis times the sigmoid of the other (GLU): the units of the halves go in pairs."""

    def trace(self, call: Call) -> Traced:
        x = call.labels("self")
        axis = normalize_axis_index(call.node["dim"], x.ndim)
        if x.shape[axis] % 2:
            raise BundleError(f"node {call.node.name!r} halves an axis of {x.shape[axis]} positions")
        one, other = np.split(x, 2, axis)
        return call.units.meet(one, other, f"{call.node.name} gates them with values that cannot shrink")

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "elementwise", "glu")


class PRelu(Rule):
    """A slope for all channels, or one for each, that rides along."""

    def trace(self, call: Call) -> Traced:
        x = call.labels("self")
        if call.spec("weight").shape != (1,):
            call.ride("weight", call.along(x, 1, "activation"))
        return x

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "elementwise", "prelu")


class Reduce(Rule):
    """Mean or sum over axes: units along them stay, or go together where another axis tells them apart."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def trace(self, call: Call) -> Traced:
        x, wanted = call.labels("self"), plain(call.node["dim"])
        dims = wanted if isinstance(wanted, tuple) and wanted else range(x.ndim)
        axes = {normalize_axis_index(axis, x.ndim) for axis in dims}
        x = call.tied(x, axes, f"{call.node.name} takes the {self.kind} over them")
        keep = call.node["keepdim"] is True
        index = tuple((slice(0, 1) if keep else 0) if axis in axes else slice(None) for axis in range(x.ndim))
        return np.asarray(x[index])

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        x = call.labels("self").shape
        if len(x) == 4 and isinstance(result, np.ndarray) and result.shape[:2] == x[:2]:
            return pool("mean2d", x, (1, 1), kernel=x[2:], stride=x[2:])
        return moving(call, result, "elementwise", self.kind)


class VectorNorm(Reduce):
    """Length of the vectors along axes: units along them stay, or go together as those of a sum do."""

    def operator(self, call: Call, result: Traced) -> OpSpec | None:
        return moving(call, result, "elementwise", self.kind)
