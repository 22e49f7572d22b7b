"""What a candidate takes in memory, by arithmetic: activations at their peak, and weights. No torch.

Operators run one after the other, and each result is kept until its last reader has run. What is alive at a
step does not depend on how many units are kept; only sizes do. So the peak is the largest of one polynomial
in the kept counts for each step, and a whole population is one matrix product.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trials.candidate import Counts
from trials.costs import VARIANTS, Costs, TensorSizes, Variant
from trials.folding import foldable
from trials.graph import Graph
from trials.polynomials import ZERO, Polynomial, Polynomials, constant

_BYTES = {
    "float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1,
    "uint8": 1, "bool": 1,
}  # fmt: skip


class Memory:
    """Memory of candidates of one model as it was exported, in bytes. A population is `Counts`.

    This is what the model itself asks for, with every result in memory of its own. At 224 pixels ONNX Runtime
    asks its arena for just that in networks of convolutions, and for 0.9 of it in a DeiT-Ti, or twice where
    it keeps buffers for tensors to come, as it does by default. What the arena holds of the system is 1.8 to
    4 times as much, because it doubles; and channels are padded to blocks, and weights packed anew. None of
    that is guessed here; docs/memory.md has the figures.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        stored = _stored(costs.coupling.graph)
        self._stored = TensorSizes(costs.coupling, stored)
        self._bytes = [_BYTES[costs.coupling.graph.tensors[name].dtype] for name in stored]
        self._input_bytes = sum(
            math.prod(item.shape) * _BYTES[item.dtype] for item in costs.coupling.graph.inputs
        )
        self._alive = lru_cache(maxsize=VARIANTS)(_alive)

    def peak_bytes(self, counts: Counts, *, batch: int = 1) -> NDArray[np.int64]:
        """(candidates,) bytes of activations at the step that needs most, in fp32.

        Inputs count all the time, because they are the caller's, and outputs from their step to the end.
        """
        numbers = np.empty(len(counts), dtype=np.int64)
        for rows, variant in self._costs.variants(counts):
            numbers[rows] = self._alive(variant)(counts[rows]).max(axis=1, initial=0)
        return (numbers * _BYTES["float32"] + self._input_bytes) * batch

    def result_bytes(self, counts: Counts) -> NDArray[np.int64]:
        """(candidates,) bytes of all results of one sample, in fp32: what training keeps for its way back."""
        numbers = np.empty(len(counts), dtype=np.int64)
        for rows, variant in self._costs.variants(counts):
            results = Polynomials([sum((operator.result for operator in variant.operators), ZERO)])
            numbers[rows] = results(counts[rows])[:, 0]
        return numbers * _BYTES["float32"]

    def weight_bytes(self, counts: Counts) -> NDArray[np.int64]:
        """(candidates,) bytes of the tensors in an export, where convolutions hold the norms behind them."""
        numbers = self._costs.stored(self._stored, counts)
        weight_bytes: NDArray[np.int64] = (numbers @ self._bytes).astype(np.int64)
        return weight_bytes


def _alive(variant: Variant) -> Polynomials:
    """Numbers of one sample that are alive while each operator runs, and beside the scores of attention."""
    sources, steps = variant.op_graph.sources, len(variant.operators)
    # A softmax writes over what it reads, where nothing reads that after it.
    until = {
        source: step - (variant.operators[step].spec.kind == "softmax")
        for step, read in enumerate(sources)
        for source in read
    }
    until |= dict.fromkeys(variant.op_graph.outputs, steps - 1)
    alive, beside_scores = [ZERO] * steps, list[Polynomial]()
    for step, operator in enumerate(variant.operators):
        if operator.spec.kind == "attention":  # they are there before its result, and no other sees them
            scores = operator.out_channels * constant(math.prod(operator.spec.in_size))
            beside_scores.append(alive[step] + scores)
        for during in range(step, until.get(step, step) + 1):
            alive[during] += operator.result
    return Polynomials(alive + beside_scores)


def _stored(graph: Graph) -> list[str]:
    """The tensors in an export. Of a norm that is folded away only the bias stays, as that of a convolution
    which had none.
    """
    gone = {
        name
        for norm, convolution in foldable(graph)
        for name in norm.tensors
        if convolution["bias"] is not None or name != norm["bias"].name
    }
    read = dict.fromkeys(name for node in graph.nodes for name in node.tensors)
    return [name for name in read if name not in gone]
