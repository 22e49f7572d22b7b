"""Torch-Pruning's dependency graph as an oracle: the same units go together, position by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from tests.bundles import coupled, export_images
from tests.models import build, example_input
from trials.groups import Coupling, analyse
from trials.units import WIDTH, Group

Positions = dict[tuple[str, int], set[int]]
"""(weight, axis) → the positions that go."""


def theirs(graph: tp.DependencyGraph, model: nn.Module, layer: str, positions: list[int]) -> Positions:
    """What Torch-Pruning removes from weights together with these output channels of a layer."""
    names = {module: name for name, module in model.named_modules()}
    module = model.get_submodule(layer)
    prune = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
    found: Positions = defaultdict(set)
    for dependency, gone in graph.get_pruning_group(module, prune, idxs=positions):
        target = dependency.target.module
        if target in names:
            reads = dependency.handler.__name__ == "prune_in_channels" and target.weight.ndim > 1
            depthwise = isinstance(target, nn.Conv2d) and target.groups > 1
            transposed = isinstance(target, nn.ConvTranspose2d)
            found[f"{names[target]}.weight", int((reads and not depthwise) != transposed)].update(gone)
    return dict(found)


def ours(coupling: Coupling, group: Group, unit: int) -> Positions:
    """What we remove from weights together with one unit of a group."""
    found = {}
    for member in group.members:
        tensor, _, axis = member.rpartition(":")
        if tensor.endswith(".weight"):
            classes = coupling.vectors[coupling.tensor_axes[tensor, int(axis)]]
            found[tensor, int(axis)] = set(np.flatnonzero((classes == group.units[unit]).any(0)).tolist())
    return found


# Torch-Pruning 1.6.1 does not see the zeros that a padded shortcut puts before the channels (resnet_pad), and
# has no module to start from where nn.MultiheadAttention holds its projection as a bare parameter.
@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize(
    "name", ["resnet_projection", "mobilenet_v2", "densenet", "vgg_flatten", "unet", "vit", "vit_mha", "bert"]
)
def test_the_oracle_removes_the_same_positions(name: str) -> None:
    assert agreed(build(name), coupled(name), example_input(name)) >= 6


class Excited(nn.Module):
    """Squeeze-excitation as in MobileNetV3, between dilated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=2, dilation=2)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.b = nn.Conv2d(8, 6, 3, dilation=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.a(x))
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        out: Tensor = self.head(self.b(x).mean((2, 3)))
        return out


class Gated(nn.Module):
    """A gated MLP with a projection for each half, beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        self.gate, self.up, self.down = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(x + self.down(F.silu(self.gate(x)) * self.up(x)))
        return out


@pytest.mark.parametrize(("factory", "shape"), [(Excited, (3, 8, 8)), (Gated, (5,))])
def test_the_oracle_removes_the_same_positions_of_gates(
    factory: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = factory().eval()
    assert agreed(model, analyse(export_images(model, *shape).graph), torch.rand(2, *shape)) >= 6


def agreed(model: nn.Module, coupling: Coupling, example: Tensor) -> int:
    """How many units were compared; all of them lose the same positions.

    The oracle gives queries and values one width wherever they meet, so places of a width are left out.
    """
    graph = tp.DependencyGraph().build_dependency(model, example)
    compared = 0
    for group in (group for group in coupling.groups if group.kind != WIDTH):
        for unit in {0, group.size // 2, group.size - 1}:
            removed = ours(coupling, group, unit)
            tensor, _, axis = group.members[0].rpartition(":")
            if (tensor, int(axis)) in removed:
                start = sorted(removed[tensor, int(axis)])
                assert theirs(graph, model, tensor.removesuffix(".weight"), start) == removed
                compared += 1
    return compared
