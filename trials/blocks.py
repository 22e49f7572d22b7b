"""Whole residual blocks: sums of a value and of a branch that starts from it, and the graph without some."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from trials.graph import Arg, Graph, Node, TensorSpec, Value
from trials.oprules.rule import Traced, with_args

_IDEMPOTENT = ("aten.relu.default", "aten.relu6.default", "aten.hardtanh.default")
"""Activations that change nothing where they come twice in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A `sum` of two values: a `trunk`, and a `branch` that is made of it and that nothing else reads.

    Dropped, its sum is its trunk. The name is that of the user's module, those three are names of values.
    `tensors` are those that the branch reads, in running order.
    """

    name: str
    sum: str
    trunk: str
    branch: str
    tensors: tuple[str, ...]


def find_blocks(graph: Graph, traced: Mapping[str, Traced], taken: Collection[str]) -> tuple[Block, ...]:
    """The residual blocks of a graph by the running order of their sums.

    A branch has layers of its own, may hold blocks itself, and may read more than its trunk, such as a mask.
    The trunk is added as it is: one that a shortcut pads or projects has no value of the sum's shape to be.

    Args:
        traced: of every value, for its shape; see `tracing.trace`.
        taken: names that no block may have.
    """
    walk = _Walk(graph)
    found = []
    for node in graph.nodes:
        for trunk, branch in _operands(node):
            if np.shape(traced[trunk]) == np.shape(traced[node.name]):
                tensors = walk.tensors_between(trunk, branch, node.name)
                found.append(Block(name="", sum=node.name, trunk=trunk, branch=branch, tensors=tensors))
    found = [block for block in found if block.tensors]
    names = _names([block.tensors for block in found], taken)
    return tuple(replace(block, name=name) for block, name in zip(found, names, strict=True))


def _operands(node: Node) -> Iterator[tuple[str, str]]:
    """Both ways to see a plain sum of two values as trunk and branch."""
    if node.op == "aten.add.Tensor" and len(set(node.values)) == 2 and node["alpha"] == 1:
        one, other = node.values
        yield one, other
        yield other, one


class _Walk:
    """Walks up a graph from what is read to what reads it not at all."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = {node.name: node for node in graph.nodes}
        self.names = [*(item.name for item in graph.inputs), *self.nodes]
        self.order = {name: position for position, name in enumerate(self.names)}
        self.readers = {name: {node.name for node in readers} for name, readers in graph.consumers().items()}
        self.outputs = {value.name for value in graph.outputs}

    def tensors_between(self, trunk: str, branch: str, behind: str) -> tuple[str, ...]:
        """The tensors, in running order, of all nodes that only `branch` needs; none if it needs no `trunk`.

        Args:
            behind: the one that reads both.
        """
        inside, read, waiting = {behind}, set[str](), [-self.order[branch]]
        while waiting:  # from the last to the first, so that all who read a value are known before it
            name = self.names[-heapq.heappop(waiting)]
            whole = name in self.nodes and name not in self.outputs and self.readers[name] <= inside
            if name == trunk or not whole:
                read.add(name)
            elif name not in inside:
                inside.add(name)
                for source in self.nodes[name].values:
                    heapq.heappush(waiting, -self.order[source])
        if trunk not in read:
            return ()
        own = sorted(inside - {behind}, key=self.order.__getitem__)
        return tuple(tensor for name in own for tensor in self.nodes[name].tensors)


def _names(tensors: Sequence[Sequence[str]], taken: Collection[str]) -> list[str]:
    """A name for each branch: the module of all its tensors, or where others have that one, too, the module
    right below it of its last layer."""
    modules = [[tensor.split(".")[:-1] for tensor in each] for each in tensors]
    shared = [
        [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*each, strict=False))]
        for each in modules
    ]
    often = Counter(map(tuple, shared))
    seen = Counter(taken)
    names = []
    for each, common in zip(modules, shared, strict=True):
        alone = common and often[tuple(common)] == 1
        name = ".".join(common if alone else each[-1][: len(common) + 1]) or "block"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def without_blocks(graph: Graph, blocks: Collection[Block]) -> Graph:
    """The graph with these blocks dropped, of which nothing remains that no output needs."""
    if not blocks:
        return graph
    trunks = {block.sum: block.trunk for block in blocks}
    instead: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        renamed = _reading(node, instead)
        source = nodes.get(next(iter(renamed.values), ""))
        if node.name in trunks:
            instead[node.name] = instead.get(trunks[node.name], trunks[node.name])
        elif renamed is not node and source and _same_again(renamed, source):
            instead[node.name] = source.name
        else:
            nodes[node.name] = renamed
    outputs = tuple(Value(instead.get(value.name, value.name)) for value in graph.outputs)
    needed = {value.name for value in outputs}
    for node in reversed(nodes.values()):
        if node.name in needed:
            needed.update(node.values)
    kept = tuple(node for node in nodes.values() if node.name in needed)
    return replace(graph, nodes=kept, outputs=outputs, tensors=_tensors(graph, kept))


def _reading(node: Node, instead: Mapping[str, str]) -> Node:
    """The node with other values in place of some that it reads; itself where it reads none of them."""

    def renamed(arg: Arg) -> Arg:
        if isinstance(arg, tuple):
            return tuple(map(renamed, arg))
        return Value(instead[arg.name]) if isinstance(arg, Value) and arg.name in instead else arg

    if instead.keys().isdisjoint(node.values):
        return node
    return with_args(node, **{name: renamed(arg) for name, arg in node.args.items()})


def _same_again(node: Node, source: Node) -> bool:
    """Whether a node does to what `source` makes what that has done to it already."""
    settings = [[arg for arg in each.args.values() if not isinstance(arg, Value)] for each in (node, source)]
    return node.op == source.op and node.op in _IDEMPOTENT and settings[0] == settings[1]


def _tensors(graph: Graph, nodes: Sequence[Node]) -> dict[str, TensorSpec]:
    """Of a graph's tensors those that nodes read, and those that none ever read but that lie beside them."""
    before, after = ({name for node in each for name in node.tensors} for each in (graph.nodes, nodes))
    empty = {_module(name) for name in before - after} - {_module(name) for name in after}
    return {
        name: spec
        for name, spec in graph.tensors.items()
        if name in after or (name not in before and _module(name) not in empty)
    }


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def with_silent_branches(graph: Graph, blocks: Collection[Block]) -> Graph:
    """The graph with the branches of these blocks times zero: what `without_blocks` must compute."""
    branches = {block.sum: Value(block.branch) for block in blocks}

    def silent(node: Node) -> Node:
        branch = branches.get(node.name)
        if branch is None:
            return node
        trunk = next(Value(name) for name in node.values if name != branch.name)
        return with_args(node, self=trunk, other=branch, alpha=0)

    return replace(graph, nodes=tuple(map(silent, graph.nodes)))
