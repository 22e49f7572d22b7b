"""What a candidate costs, by arithmetic: MACs, parameters and operators, thousands of candidates a second.

All of them are polynomials in the kept counts, so a whole population is a few matrix products. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hwprofiles.ops import OpGraph
from trials.blocks import without_blocks
from trials.candidate import Candidate, Counts, as_counts
from trials.graph import Graph, Tensor
from trials.groups import Coupling
from trials.operators import Operator, in_order, of_nodes
from trials.polynomials import ZERO, Polynomials
from trials.units import BLOCK

VARIANTS = 256
"""Sets of dropped blocks whose operators are held at a time; those of a ResNet-56 take 5 ms to find."""


class Variant:
    """What is left of a model without some of its blocks. A population is `Counts`: (candidates, groups).

    All of its candidates drop the same blocks. `graph` and `op_graph` are those of the widest one;
    `operators` are its operators in the same order, with what prunes them, and `nodes` where they start.
    """

    def __init__(self, coupling: Coupling, graph: Graph, each: Mapping[str, Operator]) -> None:
        self.graph = graph
        found, self.op_graph = in_order(graph, each)
        self.nodes, self.operators = tuple(found), tuple(found.values())
        self.groups = len(coupling.groups)
        # Single precision is exact up to 2**24 channels.
        self._in = Polynomials([op.in_channels for op in self.operators], np.float32)
        self._out = Polynomials([op.out_channels for op in self.operators], np.float32)
        self._macs = Polynomials([sum((op.macs for op in self.operators), ZERO)])

    def channels(self, counts: Counts) -> tuple[Counts, Counts]:
        """(candidates, operators) channels in and out; those of one operator lie together in memory."""
        return self._in(counts).astype(np.int64), self._out(counts).astype(np.int64)

    def candidate_graph(self, candidate: Candidate) -> OpGraph:
        inward, outward = self.channels(as_counts([candidate]))
        return self.op_graph.with_channels(inward[0].tolist(), outward[0].tolist())

    def macs(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates,) see `Costs.macs`."""
        return self._macs(counts)[:, 0]

    def touched(self) -> NDArray[np.bool_]:
        """(groups, operators) True where an operator shrinks with a group."""
        touched = np.zeros((self.groups, len(self.operators)), dtype=np.bool_)
        for column, operator in enumerate(self.operators):
            touched[list((operator.in_channels + operator.out_channels).groups), column] = True
        return touched


class Costs:
    """Costs of candidates of one model. A population is `Counts`: (candidates, groups).

    `dense` is the model with all of its blocks; `op_graph` and `operators` are those of it.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self._each = of_nodes(coupling)
        self._columns = [index for index, group in enumerate(coupling.groups) if group.kind == BLOCK]
        self.without = lru_cache(maxsize=VARIANTS)(self._without)
        self.dense = self.without(())
        self.op_graph, self.operators = self.dense.op_graph, self.dense.operators
        trainable = [name for name, spec in coupling.graph.tensors.items() if spec.trainable]
        self._trainable = TensorSizes(coupling, trainable)

    def _without(self, dropped: tuple[int, ...]) -> Variant:
        """What is left without these of the coupling's blocks, by their positions."""
        blocks = [self.coupling.blocks[position] for position in dropped]
        return Variant(self.coupling, without_blocks(self.coupling.graph, blocks), self._each)

    def variants(self, counts: Counts) -> Iterator[tuple[NDArray[np.intp] | slice, Variant]]:
        """The rows of candidates that drop the same blocks, with what those leave."""
        if not self._columns:
            yield slice(None), self.dense
            return
        kept, which = np.unique(counts[:, self._columns], axis=0, return_inverse=True)
        for number, row in enumerate(kept):
            dropped = tuple(np.flatnonzero(row == 0).tolist())
            yield np.flatnonzero(which.ravel() == number), self.without(dropped)

    def variant(self, candidate: Candidate) -> Variant:
        [(_, variant)] = self.variants(as_counts([candidate]))
        return variant

    def candidate_graph(self, candidate: Candidate) -> OpGraph:
        return self.variant(candidate).candidate_graph(candidate)

    def macs(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates,) multiply-accumulates of one sample, in convolutions, linear layers and attention."""
        total = np.empty(len(counts))
        for rows, variant in self.variants(counts):
            total[rows] = variant.macs(counts[rows])
        return total

    def parameters(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates,) trainable numbers."""
        total: NDArray[np.float64] = self.stored(self._trainable, counts).sum(axis=1)
        return total

    def stored(self, sizes: TensorSizes, counts: Counts) -> NDArray[np.float64]:
        """(candidates, tensors) how many numbers of each tensor are left; 0 where its block is gone."""
        numbers = sizes.numbers(counts)
        for rows, variant in self.variants(counts):
            numbers[rows] *= [name in variant.graph.tensors for name in sizes.names]
        return numbers

    @property
    def touched(self) -> NDArray[np.bool_]:
        """(groups, operators) True where an operator of the dense model shrinks with a group, or goes."""
        touched = self.dense.touched()
        for position, column in enumerate(self._columns):
            left = set(self.without((position,)).nodes)
            touched[column] = [node not in left for node in self.dense.nodes]
        return touched

    def macs_shares(self) -> NDArray[np.float64]:
        """(groups,) the part of the dense model's MACs in operators that shrink with each group."""
        macs = np.array([op.spec.macs for op in self.operators], dtype=np.float64)
        shares: NDArray[np.float64] = self.touched @ macs / max(1.0, macs.sum())
        return shares


class TensorSizes:
    """How many numbers each of some tensors holds: the product of its axes, some of which units shrink."""

    def __init__(self, coupling: Coupling, names: Sequence[str]) -> None:
        self.names = names
        axes = [
            [(Tensor(name), axis) for axis in range(len(coupling.graph.tensors[name].shape))]
            for name in names
        ]
        self._sizes = Polynomials([coupling.product(each) for each in axes])

    def numbers(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates, tensors) whole numbers."""
        return self._sizes(counts)
