"""Every layer on its own, from moments of the dense model."""

from __future__ import annotations

import numpy as np
import torch

from trials.graph import Graph
from trials.groups import Kept
from trials.prune import prune
from trials.repair.calibration import Calibration
from trials.repair.scores import turned


@torch.no_grad()
def fast(calibration: Calibration, kept: Kept) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Prune, and refit each layer that reads removed units to what it made in the dense model."""
    coupling = calibration.coupling
    graph, tensors = prune(coupling, turned(coupling, calibration.tensors, kept, calibration.turns), kept)
    alive = coupling.alive(kept)
    for layer in calibration.layers:
        inputs = layer.inputs(coupling, alive)
        if inputs.all() or layer.weight not in tensors:  # whole, or gone with its block
            continue
        for name in layer.changes:
            tensors[name] = tensors[name].clone()
        # Features run over taps, and over channels within a tap.
        features = layer.read_by(np.flatnonzero(inputs)).T.flatten()
        outputs = torch.from_numpy(np.flatnonzero(layer.outputs(coupling, alive)))
        moments = calibration.moments(layer, features, outputs)
        layer.write(tensors, *moments.solve(layer.matrix(tensors[layer.weight])))
    return graph, tensors
