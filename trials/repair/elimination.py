"""Which units are missed least: second-order elimination, one by one, by all layers that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trials.repair.calibration import Calibration
from trials.repair.moments import Moments
from trials.units import Group

MAX_FEATURES = 2_304
"""Units of layers that read more numbers than this for an output are left to another criterion."""


@torch.no_grad()
def importance(calibration: Calibration) -> Mapping[str, NDArray[np.float64]]:
    """Group name → (size,) the order in which its units go, the least missed first.

    Groups are left out that a layer reads which no repair can refit.
    """
    found = {}
    for group in calibration.coupling.groups:
        readers = _readers(calibration, group)
        if readers:
            order = np.empty(group.size)
            order[eliminate(readers)] = np.arange(group.size)
            found[group.name] = order
    return found


def eliminate(readers: Sequence[tuple[Moments, torch.Tensor]]) -> list[int]:
    """All units in the order in which they go, each time the one that is needed least.

    Args:
        readers: for each layer its moments and (units, features per unit) what it reads of each unit.

    What a unit is worth is the rise of the least-squares error when it goes and the others make up for it:
    w' C^-1 w, with its blocks w of the weights, and C of the inverse.
    """
    states = [_State(moments, blocks) for moments, blocks in readers]
    alive = list(range(len(readers[0][1])))
    gone = []
    while len(alive) > 1:
        rises = torch.stack([state.rises(alive) for state in states]).sum(0)
        gone.append(alive.pop(int(rises.argmin())))
        for state in states:
            state.remove(gone[-1])
    return gone + alive


class _State:
    """One reader's weights and inverse while units go; errors are shares of what it computes in all."""

    def __init__(self, moments: Moments, blocks: torch.Tensor) -> None:
        self.blocks = blocks
        self.inverse = torch.linalg.inv(moments.ridged())
        self.weights = self.inverse @ moments.xy.double()
        self.whole = float((self.weights * moments.xy).sum()) or 1.0

    def rises(self, alive: Sequence[int]) -> torch.Tensor:
        rows = self.blocks[list(alive)]
        corners = self.inverse[rows[:, :, None], rows[:, None, :]]
        own = self.weights[rows]
        found: torch.Tensor = (own * torch.linalg.solve(corners, own)).sum((1, 2)) / self.whole
        return found

    def remove(self, unit: int) -> None:
        block = self.blocks[unit]
        beside = self.inverse[:, block]
        solved = torch.linalg.solve(
            self.inverse[block][:, block], torch.cat([self.weights[block], beside.T], 1)
        )
        outputs = self.weights.shape[1]
        self.weights -= beside @ solved[:, :outputs]
        self.inverse -= beside @ solved[:, outputs:]


def _readers(calibration: Calibration, group: Group) -> list[tuple[Moments, torch.Tensor]]:
    """What `eliminate` takes; nothing where what reads units of the group cannot be refitted."""
    coupling = calibration.coupling
    if not coupling.summed.intersection(group.units.tolist()) <= calibration.turned:
        return []
    by_weight = {layer.weight: layer for layer in calibration.layers if layer.features <= MAX_FEATURES}
    found = []
    for name, axis in sorted(coupling.contracted):
        classes = coupling.vectors[coupling.tensor_axes[name, axis]]
        if not np.isin(group.units, classes).any():
            continue
        if name not in by_weight:
            return []
        layer = by_weight[name]
        channels = np.stack([np.flatnonzero((classes == unit).any(0)) for unit in group.units])
        found.append((calibration.moments(layer), layer.read_by(channels).flatten(1)))
    return found
