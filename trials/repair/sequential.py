"""Layer after layer, each making up for the error of those before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from trials.graph import Graph, Node
from trials.groups import Kept
from trials.network import Network, build
from trials.prune import prune
from trials.repair.calibration import Calibration, Values, run_chunks, walk
from trials.repair.layers import EVERYWHERE, Layer
from trials.repair.moments import Regression, Samples, Solution
from trials.repair.scores import turned

REAIMED = 2
"""Times that a layer in front of an activation which cuts off is solved again, for what passes it."""


@torch.no_grad()
def sequential(
    calibration: Calibration, kept: Kept, *, reaimed: int = REAIMED
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Prune, and refit layer by layer in running order.

    From the first layer that loses inputs, makes less for a product of two values or reads behind a dropped
    block on, every layer is refitted, also one that keeps all of its own: it reads what the layers
    before it made a little different. In front of a rectifier only what passes counts: where the dense model
    passes nothing, a layer need not make the same, as long as nothing passes either: it is solved again
    `reaimed` times for that.

    Source of the latter: Zhang et al., Efficient and Accurate Approximations of Nonlinear Convolutional
    Networks, arXiv 1411.4229, section 2.2.
    """
    coupling = calibration.coupling
    graph, pruned = prune(coupling, turned(coupling, calibration.tensors, kept, calibration.turns), kept)
    tensors = {name: tensor.clone() for name, tensor in pruned.items()}
    network = build(graph, tensors).eval()
    alive = coupling.alive(kept)
    by_node = {layer.name: layer for layer in calibration.layers}
    dense = {node.name: node.values for node in coupling.graph.nodes}
    stands_for = {
        own: name for node in graph.nodes for own, name in zip(dense[node.name], node.values, strict=True)
    }
    less = {
        name
        for name, axis in coupling.silenced - coupling.contracted
        if not coupling.stays(coupling.tensor_axes[name, axis], alive).all()
    }
    changed = False

    def repair(node: Node, values: Values) -> None:
        nonlocal changed
        layer = by_node.get(node.name)
        changed = changed or node.values != dense[node.name]
        changed = changed or not less.isdisjoint(node.tensors)
        changed = changed or (layer is not None and not layer.inputs(coupling, alive).all())
        if layer is None or not changed:
            return
        outputs = torch.from_numpy(np.flatnonzero(layer.outputs(coupling, alive)))
        beside = stands_for.get(layer.beside, "")
        wanted = list(_wanted(calibration, layer, beside, outputs, network, values, tensors))
        old = layer.matrix(tensors[layer.weight])

        def samples() -> Samples:
            return zip(calibration.read(layer, values[node["input"].name]), wanted, strict=True)

        regression = Regression(shift=bool(layer.intercept))
        solution = regression.solve(samples(), old)
        for _ in range(reaimed if layer.passes != EVERYWHERE else 0):
            solution = regression.solve(_reaimed(layer, samples(), solution, tensors), old)
        layer.write(tensors, *solution)

    for _ in walk(network, calibration.chunks, repair):
        pass
    return graph, tensors


def _reaimed(
    layer: Layer,
    samples: Samples,
    solution: Solution,
    tensors: Mapping[str, torch.Tensor],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What a solution makes takes the place of what is wanted wherever the activation makes the same of both,
    and else the end of what passes."""
    norm, (low, high) = _Norm.of(layer, tensors), layer.passes
    for x, y in samples:
        weights, intercept = (part.to(x.dtype) for part in solution)
        wanted, made = norm(y), norm(x @ weights.T + intercept)
        wanted = torch.where(wanted < low, made.clamp(max=low), wanted)
        wanted = torch.where(wanted > high, made.clamp(min=high), wanted)
        yield x, norm.undone(wanted)


def _wanted(
    calibration: Calibration,
    layer: Layer,
    beside: str,
    outputs: torch.Tensor,
    network: Network,
    values: Values,
    tensors: Mapping[str, torch.Tensor],
) -> Iterator[torch.Tensor]:
    """(samples, outputs) of each chunk that the layer should make for its target to be the dense one's.

    Args:
        beside: what adds to its output now, "" if nothing does.
    """
    targets = [target[:, outputs] for target in calibration.targets(layer)]
    if layer.target == layer.name:
        yield from targets
        return
    if beside:
        added = values.get(beside) or run_chunks(network, beside, values, calibration.chunks)
        pairs = zip(targets, calibration.made(layer, added), strict=True)
        targets = [target - other for target, other in pairs]
    yield from map(_Norm.of(layer, tensors).undone, targets)


@dataclass(frozen=True, slots=True)
class _Norm:
    """What the batch norm behind a layer makes of its outputs, if there is one: a gain and an offset each."""

    gain: torch.Tensor
    offset: torch.Tensor

    @classmethod
    def of(cls, layer: Layer, tensors: Mapping[str, torch.Tensor]) -> Self:
        if layer.norm is None:
            return cls(torch.ones(1), torch.zeros(1))
        shift, scale, mean, variance = (
            tensors[layer.norm[name].name] for name in ("bias", "weight", "running_mean", "running_var")
        )
        gain = scale / torch.sqrt(variance + layer.norm["eps"])
        # An output that its norm all but silences cannot be inverted; a floor keeps it finite and harmless.
        gain = torch.where(gain.abs() < 1e-4, torch.full_like(gain, 1e-4), gain)
        return cls(gain, shift - gain * mean)

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs * self.gain + self.offset

    def undone(self, made: torch.Tensor) -> torch.Tensor:
        return (made - self.offset) / self.gain
