"""Torch-Pruning's dependency graph as an oracle: the same units go together, position by position."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch_pruning as tp
from torch import nn

from tests.bundles import coupled
from tests.models import build, example_input
from trials.groups import Coupling, Group

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
            found[f"{names[target]}.weight", int(reads and not depthwise)].update(gone)
    return dict(found)


def ours(coupling: Coupling, group: Group, unit: int) -> Positions:
    """What we remove from weights together with one unit of a group."""
    found = {}
    for member in group.members:
        tensor, _, axis = member.rpartition(":")
        if tensor.endswith(".weight"):
            vector = coupling.vectors[coupling.tensor_axes[tensor, int(axis)]]
            found[tensor, int(axis)] = set(np.flatnonzero(vector == group.units[unit]).tolist())
    return found


# Torch-Pruning 1.6.1 does not see the zeros that a padded shortcut puts before the channels (resnet_pad), and
# has no module to start from where nn.MultiheadAttention holds its projection as a bare parameter.
@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize(
    "name", ["resnet_projection", "mobilenet_v2", "densenet", "vgg_flatten", "vit", "vit_mha", "bert"]
)
def test_the_oracle_removes_the_same_positions(name: str) -> None:
    model, coupling = build(name), coupled(name)
    graph = tp.DependencyGraph().build_dependency(model, example_input(name))
    compared = 0
    for group in coupling.groups:
        for unit in {0, group.size // 2, group.size - 1}:
            removed = ours(coupling, group, unit)
            tensor, _, axis = group.members[0].rpartition(":")
            if (tensor, int(axis)) in removed:
                start = sorted(removed[tensor, int(axis)])
                assert theirs(graph, model, tensor.removesuffix(".weight"), start) == removed
                compared += 1
    assert compared >= 6
