"""What a candidate costs, by arithmetic: MACs, parameters and operators, thousands of candidates a second.

Every axis that can shrink is an affine function of the kept counts, so a whole population is a few matrix
products. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hwprofiles.ops import OpGraph
from trials.blocks import without_blocks
from trials.candidate import Candidate, Counts, as_counts
from trials.graph import Graph
from trials.groups import BLOCK, Coupling
from trials.operators import Affine, Operator, in_order, of_nodes

_BILINEAR = {"conv2d", "conv_transpose2d", "linear"}
_VARIANTS = 256
"""Sets of dropped blocks whose operators are held at a time; those of a ResNet-56 take 3 ms to find."""


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
        # Sparse: most operators follow one group, and a dense product waits for cores that workers keep busy.
        shape = len(self.operators), self.groups
        self._in, self._out = (
            csr_array(np.array(rows, dtype=np.float32).reshape(shape))  # exact up to 2**24 channels
            for rows in (
                [op.in_coefficients for op in self.operators],
                [op.out_coefficients for op in self.operators],
            )
        )
        self._in_constant = np.array([op.in_constant for op in self.operators], dtype=np.float32)
        self._out_constant = np.array([op.out_constant for op in self.operators], dtype=np.float32)
        groups = [max(1, op.spec.groups) for op in self.operators]
        self._macs = np.array(
            [op.spec.with_channels(g, g).macs / g**2 for op, g in zip(self.operators, groups, strict=True)]
        )
        self._bilinear = np.array([op.spec.kind in _BILINEAR for op in self.operators])

    def channels(self, counts: Counts) -> tuple[Counts, Counts]:
        """(candidates, operators) channels in and out; those of one operator lie together in memory."""
        kept = np.ascontiguousarray(counts.T, dtype=np.float32)
        inward = np.rint(self._in_constant[:, None] + self._in @ kept).astype(np.int64)
        outward = np.rint(self._out_constant[:, None] + self._out @ kept).astype(np.int64)
        return inward.T, outward.T

    def candidate_graph(self, candidate: Candidate) -> OpGraph:
        inward, outward = self.channels(as_counts([candidate]))
        return self.op_graph.with_channels(inward[0].tolist(), outward[0].tolist())

    def macs(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates,) see `Costs.macs`."""
        inward, outward = self.channels(counts)
        work = self._macs * outward * np.where(self._bilinear, inward, 1)
        total: NDArray[np.float64] = np.rint(work.sum(axis=1))
        return total

    def touched(self) -> NDArray[np.bool_]:
        """(groups, operators) True where an operator shrinks with a group."""
        touched: NDArray[np.bool_] = (self._in.toarray() > 0) | (self._out.toarray() > 0)
        return touched.T


class Costs:
    """Costs of candidates of one model. A population is `Counts`: (candidates, groups).

    `dense` is the model with all of its blocks; `op_graph` and `operators` are those of it.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self._each = of_nodes(coupling)
        self._columns = [index for index, group in enumerate(coupling.groups) if group.kind == BLOCK]
        self.without = lru_cache(maxsize=_VARIANTS)(self._without)
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
        self._tensors: list[tuple[int, list[Affine]]] = []
        for name in names:
            shape = coupling.graph.tensors[name].shape
            vectors = [coupling.tensor_axes.get((name, axis)) for axis in range(len(shape))]
            fixed = math.prod(size for size, vector in zip(shape, vectors, strict=True) if vector is None)
            moving = [coupling.coefficients(vector) for vector in vectors if vector is not None]
            self._tensors.append((fixed, moving))

    def numbers(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates, tensors) whole numbers."""
        found = np.empty((len(counts), len(self._tensors)))
        for column, (fixed, moving) in enumerate(self._tensors):
            found[:, column] = fixed
            for constant, coefficients in moving:
                found[:, column] *= constant + counts @ coefficients
        return np.rint(found)
