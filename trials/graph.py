"""The graph as data: nodes, tensors and literals of one exported model. No torch, no code.

A graph is purely functional (every in-place op has been rewritten), and every op, argument name and literal
in it comes from `oprules.RULES`. The batch is symbolic: axis 0 of every input, and `Batch(times)` wherever
a literal depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hwprofiles.errors import BundleError

MAX_NODES = 50_000
MAX_TENSORS = 50_000
MAX_RANK = 8
MAX_ELEMENTS = 2**31
"""Of one value at batch 1, or of one tensor."""
MAX_INPUT_ELEMENTS = 2**28
"""Of one input at batch 1: 1 GiB of float32."""
MAX_LITERAL = 2**40
MAX_TEXT = 256
INT_END = 2**63 - 1
"""How ATen writes "to the end" in a slice; the only literal allowed above MAX_LITERAL."""

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """The output of a node, or an input."""

    name: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter or buffer, under the user's own name."""

    name: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A literal that is `times` the batch size."""

    times: int = 1


@dataclass(frozen=True, slots=True)
class Dtype:
    name: str


Arg = Value | Tensor | Batch | Dtype | None | bool | int | float | str | tuple["Arg", ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One call of an op; `args` are all of its arguments by ATen's own names, in ATen's order."""

    name: str
    op: str
    args: Mapping[str, Arg]

    def __getitem__(self, argument: str) -> Any:
        return self.args[argument]

    def leaves(self) -> Iterator[Arg]:
        """Every argument, lists flattened."""
        stack = list(reversed(list(self.args.values())))
        while stack:
            leaf = stack.pop()
            if isinstance(leaf, tuple):
                stack.extend(reversed(leaf))
            else:
                yield leaf

    @property
    def values(self) -> list[str]:
        return [leaf.name for leaf in self.leaves() if isinstance(leaf, Value)]

    @property
    def tensors(self) -> list[str]:
        return [leaf.name for leaf in self.leaves() if isinstance(leaf, Tensor)]

    @property
    def place(self) -> str:
        """Where the user finds it: the module whose weight it uses, else the node's own name."""
        weight = self.args.get("weight")
        return module_of(weight.name) if isinstance(weight, Tensor) else self.name


def module_of(tensor: str) -> str:
    """The module that a weight belongs to: "layer1.conv" of "layer1.conv.weight"."""
    return tensor.removesuffix(".weight") or tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    shape: Shape
    dtype: str
    trainable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of the model; `shape` is without the batch axis. Integers are drawn from 0 to `high` - 1.

    Raises:
        BundleError: it has more than `MAX_INPUT_ELEMENTS`.
    """

    name: str
    shape: Shape
    dtype: str = "float32"
    high: int = 2

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if size > MAX_INPUT_ELEMENTS:
            raise BundleError(
                f"input {self.name!r} of shape {list(self.shape)} has {size} elements; at most "
                f"{MAX_INPUT_ELEMENTS} are allowed, so give the shape of one example"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Inputs, nodes in running order, outputs, and the tensors they use."""

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)

    def consumers(self) -> dict[str, list[Node]]:
        """Value name → the nodes that read it, in running order, each once."""
        found: dict[str, list[Node]] = {name: [] for name in (*(i.name for i in self.inputs),)}
        for node in self.nodes:
            found[node.name] = []
            for name in dict.fromkeys(node.values):
                found[name].append(node)
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [
                {"name": i.name, "shape": list(i.shape), "dtype": i.dtype, "high": i.high}
                for i in self.inputs
            ],
            "nodes": [
                {"name": n.name, "op": n.op, "args": {key: _encode(arg) for key, arg in n.args.items()}}
                for n in self.nodes
            ],
            "outputs": [value.name for value in self.outputs],
            "tensors": {
                name: {"shape": list(t.shape), "dtype": t.dtype, "trainable": t.trainable}
                for name, t in self.tensors.items()
            },
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote, trusting nothing.

        Raises:
            BundleError: a part is missing, of the wrong type, over its cap, or refers to something unknown.
        """
        try:
            return cls(
                inputs=tuple(_input(item) for item in _capped(data["inputs"], 64, "inputs")),
                nodes=tuple(_node(item) for item in _capped(data["nodes"], MAX_NODES, "nodes")),
                outputs=tuple(Value(_text(name)) for name in _capped(data["outputs"], 64, "outputs")),
                tensors={
                    _text(name): _tensor(item)
                    for name, item in _capped(data["tensors"], MAX_TENSORS, "tensors", dict).items()
                },
            )._checked()
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                f"the graph is not one of ours: {type(error).__name__} {error}; export it again"
            ) from None

    def _checked(self) -> Self:
        known = {item.name for item in self.inputs}
        if not self.outputs or not known or len(known) < len(self.inputs):
            raise BundleError(
                "the graph needs inputs and outputs, each input of its own name; export it again"
            )
        for node in self.nodes:
            if node.name in known:
                raise BundleError(f"the graph defines {node.name!r} twice; export it again")
            for leaf in node.leaves():
                if isinstance(leaf, Value) and leaf.name not in known:
                    raise BundleError(
                        f"node {node.name!r} reads {leaf.name!r} before it exists; export it again"
                    )
                if isinstance(leaf, Tensor) and leaf.name not in self.tensors:
                    raise BundleError(
                        f"node {node.name!r} reads the unknown tensor {leaf.name!r}; export it again"
                    )
            known.add(node.name)
        for value in self.outputs:
            if value.name not in known:
                raise BundleError(f"the graph returns {value.name!r}, which no node makes; export it again")
        return self


def _encode(arg: Arg) -> Any:
    match arg:
        case Value(name):
            return {"value": name}
        case Tensor(name):
            return {"tensor": name}
        case Batch(times):
            return {"batch": times}
        case Dtype(name):
            return {"dtype": name}
        case float() if not math.isfinite(arg):
            return {"float": repr(arg)}
        case tuple():
            return [_encode(item) for item in arg]
        case _:
            return arg


def _decode(data: Any, depth: int = 0) -> Arg:
    if depth > 4:
        raise BundleError("an argument nests lists more than 4 deep; export the model again")
    match data:
        case None | bool():
            return data
        case int() if abs(data) <= MAX_LITERAL or data == INT_END:
            return data
        case float() if math.isfinite(data):
            return data
        case str():
            return _text(data)
        case list():
            return tuple(_decode(item, depth + 1) for item in _capped(data, MAX_NODES, "list items"))
        case {"value": name}:
            return Value(_text(name))
        case {"tensor": name}:
            return Tensor(_text(name))
        case {"batch": int(times)} if 0 < times <= MAX_LITERAL:
            return Batch(times)
        case {"dtype": name} if name in DTYPES:
            return Dtype(name)
        case {"float": "inf" | "-inf"}:
            return float(data["float"])
    raise BundleError(
        f"the graph holds the literal {str(data)[:60]!r}, which is not allowed; export it again"
    )


def _capped(items: Any, cap: int, what: str, kind: type[list[Any]] | type[dict[str, Any]] = list) -> Any:
    if not isinstance(items, kind):
        raise BundleError(
            f"the graph's {what} are {type(items).__name__}, not a {kind.__name__}; export it again"
        )
    if len(items) > cap:
        raise BundleError(f"the graph has {len(items)} {what}; at most {cap} are allowed")
    return items


def _text(data: Any) -> str:
    if not isinstance(data, str) or not 0 < len(data) <= MAX_TEXT or not data.isprintable():
        raise BundleError(
            f"the graph holds the name {str(data)[:60]!r}; allowed: 1 to {MAX_TEXT} printable characters"
        )
    return data


def _shape(data: Any) -> Shape:
    shape = tuple(_capped(data, MAX_RANK, "axes of one tensor"))
    if not all(type(size) is int and 0 < size <= MAX_ELEMENTS for size in shape):
        raise BundleError(f"the shape {list(shape)} is not made of sizes from 1 to {MAX_ELEMENTS}")
    if math.prod(shape) > MAX_ELEMENTS:
        raise BundleError(f"the shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return shape


def _dtype(data: Any) -> str:
    if data not in DTYPES:
        raise BundleError(f"the dtype {str(data)[:60]!r} is not allowed; allowed: {', '.join(DTYPES)}")
    return str(data)


def _input(data: Any) -> Input:
    high = data["high"]
    if type(high) is not int or not 0 < high <= MAX_LITERAL:
        raise BundleError(
            f"input {str(data['name'])[:60]!r} has high={high!r}; it must be a positive integer"
        )
    return Input(
        name=_text(data["name"]), shape=_shape(data["shape"]), dtype=_dtype(data["dtype"]), high=high
    )


def _tensor(data: Any) -> TensorSpec:
    trainable = data["trainable"]
    if not isinstance(trainable, bool):
        raise BundleError(f"a tensor is trainable={str(trainable)[:60]!r}; allowed: true, false")
    return TensorSpec(shape=_shape(data["shape"]), dtype=_dtype(data["dtype"]), trainable=trainable)


def _node(data: Any) -> Node:
    args = {
        _text(key): _decode(arg)
        for key, arg in _capped(data["args"], 32, "arguments of one node", dict).items()
    }
    return Node(_text(data["name"]), _text(data["op"]), args)
