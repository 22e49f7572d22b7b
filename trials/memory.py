"""What a candidate takes in memory, by arithmetic: activations at their peak, and weights. No torch.

Operators run one after the other, and each result is kept until its last reader has run. What is alive at a
step does not depend on how many units are kept; only sizes do, and they are affine in the kept counts. So the
peak is the largest of one affine function for each step, and a whole population is one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hwprofiles.ops import OpSpec
from trials.candidate import Counts
from trials.costs import Affine, Costs
from trials.graph import Graph, Node, Tensor
from trials.groups import Coupling

_BYTES = {
    "float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1,
    "uint8": 1, "bool": 1,
}  # fmt: skip
_BATCH_NORM = "aten.batch_norm.default"


class Memory:
    """Memory of candidates of one model as it was exported, in bytes. A population is `Counts`.

    This is what the model itself asks for, with every result in memory of its own. A runtime may need less
    (it writes a sum over one of its operands) or more (blocks of channels, copies between layouts, scratch
    of its kernels, buffers that it keeps); none of that is guessed here.
    """

    def __init__(self, costs: Costs) -> None:
        self._alive = _alive(costs)
        self._stored = list(_stored(costs.coupling))
        self._input_bytes = sum(
            math.prod(item.shape) * _BYTES[item.dtype] for item in costs.coupling.graph.inputs
        )

    def peak_bytes(self, counts: Counts, *, batch: int = 1) -> NDArray[np.int64]:
        """(candidates,) bytes of activations at the step that needs most, in fp32.

        Inputs count all the time, because they are the caller's, and outputs from their step to the end.
        """
        constants, rates = self._alive
        numbers = (constants + counts @ rates).max(axis=1, initial=0)
        peak_bytes: NDArray[np.int64] = (
            np.rint(numbers).astype(np.int64) * _BYTES["float32"] + self._input_bytes
        )
        return peak_bytes * batch

    def weight_bytes(self, counts: Counts) -> NDArray[np.int64]:
        """(candidates,) bytes of the tensors in an export, where convolutions hold the norms behind them."""
        total = np.zeros(len(counts))
        for fixed_bytes, axes in self._stored:
            size = np.full(len(counts), float(fixed_bytes))
            for constant, rates in axes:
                size = size * (constant + counts @ rates)
            total += size
        return np.rint(total).astype(np.int64)


def _alive(costs: Costs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of one sample that are alive while each operator runs: (steps,), and for each unit that is kept
    (groups, steps) more.
    """
    sources, steps = costs.op_graph.sources, len(costs.operators)
    until = {source: step for step, read in enumerate(sources) for source in read}
    until |= dict.fromkeys(costs.op_graph.outputs, steps - 1)
    constants, rates = np.zeros(steps), np.zeros((len(costs.coupling.groups), steps))
    for step, operator in enumerate(costs.operators):
        span, size = slice(step, until.get(step, step) + 1), _numbers_per_channel(operator.spec)
        constants[span] += operator.out_constant * size
        rates[:, span] += operator.out_coefficients[:, None] * size
        if operator.spec.kind == "attention":  # its scores, which no other operator sees
            scores = math.prod(operator.spec.in_size) / operator.spec.kernel[0]
            constants[step] += operator.out_constant * scores
            rates[:, step] += operator.out_coefficients * scores
    return constants, rates


def _numbers_per_channel(spec: OpSpec) -> int:
    """Numbers in one channel of an operator's result."""
    return spec.in_size[0] if spec.kind == "attention" else math.prod(spec.result_size)


def _stored(coupling: Coupling) -> Iterator[tuple[int, list[Affine]]]:
    """Of each tensor in an export: the bytes along its fixed axes, and its other axes by kept counts."""
    graph = coupling.graph
    absorbed = {name for norm, convolution in _folded(graph) for name in _absorbed(norm, convolution)}
    read = dict.fromkeys(name for node in graph.nodes for name in node.tensors)
    for name in read:
        if name in absorbed:
            continue
        spec = graph.tensors[name]
        moving = [axis for axis in range(len(spec.shape)) if (name, axis) in coupling.tensor_axes]
        fixed = math.prod(size for axis, size in enumerate(spec.shape) if axis not in moving)
        axes = [coupling.coefficients(coupling.tensor_axes[name, axis]) for axis in moving]
        yield fixed * _BYTES[spec.dtype], axes


def _folded(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Batch norms that an export folds away, each with the convolution whose only reader it is."""
    nodes = {node.name: node for node in graph.nodes if node.op.startswith("aten.conv2d.")}
    outputs = {value.name for value in graph.outputs}
    for name, readers in graph.consumers().items():
        if name in nodes and name not in outputs and [item.op for item in readers] == [_BATCH_NORM]:
            yield readers[0], nodes[name]


def _absorbed(norm: Node, convolution: Node) -> set[str]:
    """The tensors of a folded norm that go; its bias stands for the one that a convolution without gets."""
    bias = norm["bias"]
    replaced = {bias.name} if convolution["bias"] is None and isinstance(bias, Tensor) else set()
    return set(norm.tensors) - replaced
