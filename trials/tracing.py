"""A graph's labels: every op's rule run on them, and units joined until each can go and leave no hole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwprofiles.errors import BundleError
from trials.graph import MAX_ELEMENTS, Graph, Tensor, Value
from trials.labels import LabelArray, Units, blank, compact, lines, varying, written
from trials.oprules import Call, TensorAxis, Traced, rule_of

MAX_VALUE_RANK = 10


@dataclass(frozen=True, slots=True)
class Labelled:
    """A graph's values and tensor axes with their labels; `classes` (labels,) are those of `units`."""

    units: Units
    values: Mapping[str, Traced]
    axes: list[TensorAxis]
    classes: LabelArray


def labelled(graph: Graph, *, by_width: bool = False) -> Labelled:
    """Label a graph by whole heads, or by their width: then only what products read has classes.

    Raises:
        UnsupportedOpError: an op without a rule.
        BundleError: shapes that do not fit together, or larger than allowed.
    """
    units, values, axes = trace(graph, by_width=by_width)
    _join_shared_tensors(graph, units, axes)
    classes = _make_rectangular(units, values, _rigid(graph, values))
    if by_width:
        classes = np.where(units.beside(units.multiplied), classes, 0)
    return Labelled(units, values, axes, classes)


def trace(graph: Graph, *, by_width: bool = False) -> tuple[Units, dict[str, Traced], list[TensorAxis]]:
    """Run every op's rule on label arrays at batch 1; `by_width` as `Units` has it.

    Raises:
        UnsupportedOpError: an op without a rule.
        BundleError: shapes that do not fit together, or larger than allowed.
    """
    units, axes = Units(by_width=by_width), list[TensorAxis]()
    values: dict[str, Traced] = {item.name: blank((1, *item.shape)) for item in graph.inputs}
    for node in graph.nodes:
        try:
            result = rule_of(node.op).trace(Call(node, units, values, graph.tensors, axes))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
            raise BundleError(
                f"node {node.name!r} ({node.op}) is not a valid call: {type(error).__name__} {error}; "
                "export the model again"
            ) from None
        for part in parts_of(result):
            units.charge(written(part))
            if part.ndim > MAX_VALUE_RANK or not 0 < part.size <= MAX_ELEMENTS:
                raise BundleError(
                    f"node {node.name!r} ({node.op}) makes a value of shape {part.shape}; "
                    f"allowed: at most {MAX_VALUE_RANK} axes and 1 to {MAX_ELEMENTS} elements"
                )
        values[node.name] = result
    for output in graph.outputs:
        labels = values[output.name]
        if isinstance(labels, tuple):
            raise BundleError(f"the graph returns the list {output.name!r}; allowed: single values")
        units.fix(labels, "it is an output of the model")
    return units, values, axes


def parts_of(traced: Traced) -> tuple[LabelArray, ...]:
    """A value as a list of its parts."""
    return traced if isinstance(traced, tuple) else (traced,)


def _join_shared_tensors(graph: Graph, units: Units, axes: list[TensorAxis]) -> None:
    """A tensor that is used twice loses the same positions for both uses, or none if a use needs it whole."""
    uses: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for node in graph.nodes:
        for argument, arg in node.args.items():
            for item in arg if isinstance(arg, tuple) else (arg,):
                if isinstance(item, Tensor):
                    uses[item.name].add((node.name, argument))
    shared: dict[tuple[str, int], list[TensorAxis]] = defaultdict(list)
    for axis in axes:
        shared[axis.tensor, axis.axis].append(axis)
    for (tensor, _), bound in shared.items():
        for axis in bound[1:]:
            units.join(bound[0].labels, axis.labels)
        whole = np.any([axis.labels == 0 for axis in bound], axis=0) | (
            uses[tensor] > {axis.use for axis in bound}
        )
        for axis in bound:
            units.fix(axis.labels[whole], f"{tensor} is also used where units cannot go")


@dataclass(frozen=True, slots=True)
class _Rigid:
    """An axis that must keep its size because a literal of `node` counts along it."""

    node: str
    labels: LabelArray
    axis: int


def _rigid(graph: Graph, values: Mapping[str, Traced]) -> list[_Rigid]:
    found = []
    for node in graph.nodes:
        read = node.args.get("self")
        labels = values[read.name] if isinstance(read, Value) else None
        if isinstance(labels, np.ndarray):
            found += [
                _Rigid(node.name, compact(labels), axis) for axis in rule_of(node.op).rigid(node, labels.ndim)
            ]
    return found


def _make_rectangular(units: Units, values: Mapping[str, Traced], rigid: list[_Rigid]) -> LabelArray:
    """Join units until removing any class leaves every value a full array; returns `Units.classes`.

    Where a value's classes change along several axes, the one with most units keeps them and the others are
    tied: a channel shuffle then loses the same channels from each of its parts. What still changes along a
    rigid axis after that is fixed.
    """
    small = {id(part): compact(part) for traced in values.values() for part in parts_of(traced)}
    pending = [part for part in small.values() if part.any()]
    while True:
        classes = units.classes()
        pending = [part for part in pending if classes[part].any()]
        uneven = [part for part in pending if len(varying(classes[part])) > 1]
        for part in uneven:
            changing = varying(classes[part])
            # Of as many, heads come before what is in them.
            order = changing[::-1] if units.by_width else changing
            changing.remove(max(order, key=lambda axis: lines(classes[part], axis)))
            for axis in changing:
                part = units.tie(part, axis)
        stuck = [one for one in rigid if one.axis in varying(classes[one.labels])]
        if not uneven and not stuck:
            return classes
        if not uneven:
            for one in stuck:
                units.fix(one.labels, f"{one.node} counts along them")
