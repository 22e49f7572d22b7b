"""Layer after layer, each making up for the error of those before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from trials.graph import Graph, Node
from trials.groups import Kept
from trials.network import Network, build
from trials.prune import prune
from trials.repair.calibration import Calibration, Values, run_chunks, walk
from trials.repair.layers import Layer
from trials.repair.moments import Sums


@torch.no_grad()
def sequential(calibration: Calibration, kept: Kept) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Prune, and refit layer by layer in running order.

    From the first layer that loses inputs, or that reads behind a dropped block, on, every layer is refitted,
    also one that keeps all of its own: it reads what the layers before it made a little different.
    """
    coupling = calibration.coupling
    graph, pruned = prune(coupling, calibration.tensors, kept)
    tensors = {name: tensor.clone() for name, tensor in pruned.items()}
    network = build(graph, tensors).eval()
    alive = coupling.alive(kept)
    by_node = {layer.name: layer for layer in calibration.layers}
    dense = {node.name: node.values for node in coupling.graph.nodes}
    stands_for = {
        own: name for node in graph.nodes for own, name in zip(dense[node.name], node.values, strict=True)
    }
    changed = False

    def repair(node: Node, values: Values) -> None:
        nonlocal changed
        layer = by_node.get(node.name)
        changed = changed or node.values != dense[node.name]
        changed = changed or (layer is not None and not layer.inputs(coupling, alive).all())
        if layer is None or not changed:
            return
        outputs = torch.from_numpy(np.flatnonzero(layer.outputs(coupling, alive)))
        sums = Sums(shift=bool(layer.intercept))
        beside = stands_for.get(layer.beside, "")
        for x, y in zip(
            calibration.read(layer, values[node["input"].name]),
            _wanted(calibration, layer, beside, outputs, network, values, tensors),
            strict=True,
        ):
            sums.add(x, y)
        layer.write(tensors, *sums.moments().solve(layer.matrix(tensors[layer.weight])))

    for _ in walk(network, calibration.chunks, repair):
        pass
    return graph, tensors


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
    targets = [target[:, outputs] for target in calibration.targets[layer.name]]
    if not beside:
        yield from targets
        return
    added = values.get(beside) or run_chunks(network, beside, values, calibration.chunks)
    for target, other in zip(targets, calibration.made(layer, added), strict=True):
        yield _before_norm(layer, target - other, tensors)


def _before_norm(layer: Layer, wanted: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What a layer must make for its norm to make what is wanted."""
    if layer.norm is None:
        return wanted
    shift, scale, mean, variance = (
        tensors[layer.norm[name].name] for name in ("bias", "weight", "running_mean", "running_var")
    )
    gain = scale / torch.sqrt(variance + layer.norm["eps"])
    # An output that its norm all but silences cannot be inverted; a floor keeps it finite and harmless.
    gain = torch.where(gain.abs() < 1e-4, torch.full_like(gain, 1e-4), gain)
    return (wanted - shift) / gain + mean
