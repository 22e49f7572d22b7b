"""Networks with units that others can stand for, and what is left of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import nn

from tests.bundles import coupled, export_images, exported
from tests.models import example_input
from trials.bundle import Bundle
from trials.graph import Graph
from trials.groups import Coupling, Kept
from trials.network import build
from trials.prune import prune
from trials.repair import Calibration, moments

Tensors = Mapping[str, torch.Tensor]
Repair = Callable[[Calibration, Kept], tuple[Graph, Tensors]]


@pytest.fixture
def hardly_any_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """For closed forms: the ridge that noise calls for keeps a repair a little away from an exact answer."""
    monkeypatch.setattr(moments, "RIDGE", 1e-5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Callable[[], nn.Module], *shape: int) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return export_images(make().eval(), *shape)


def norm(width: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(width)
    made.load_state_dict(
        {
            "weight": normal(width) + 2,
            "bias": normal(width, seed=1),
            "running_mean": normal(width, seed=2),
            "running_var": normal(width, seed=3).exp(),
            "num_batches_tracked": torch.tensor(1),
        }
    )
    return made


def stem(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *after)


def calibrated(name: str, images: int = 128) -> Calibration:
    return Calibration(coupled(name), exported(name).tensors, [example_input(name, images)])


def halves(coupling: Coupling) -> Kept:
    return {group.name: np.arange(group.size)[: group.size // 2] for group in coupling.groups}


def random_kept(coupling: Coupling, seed: int) -> Kept:
    rng = np.random.default_rng(seed)
    return {
        group.name: np.sort(rng.permutation(group.size)[: rng.integers(1, group.size)])
        for group in coupling.groups
        if rng.random() < 0.7
    }


def with_twins(coupling: Coupling, tensors: Tensors) -> dict[str, torch.Tensor]:
    """The same model, each unit of the second half of every group made as one of the first half is."""
    changed = dict(tensors)
    for (name, axis), vector in coupling.tensor_axes.items():
        if (name, axis) in coupling.contracted:
            continue
        classes = coupling.vectors[vector]
        for group in coupling.groups:
            index = np.arange(classes.shape[1])
            places = [np.flatnonzero((classes == unit).any(0)) for unit in group.units]
            for unit in range(group.size // 2, group.size):
                index[places[unit]] = places[unit - group.size // 2]
            changed[name] = changed[name].index_select(axis, torch.from_numpy(index))
    return changed


@torch.no_grad()
def run(coupling: Coupling, tensors: Tensors, x: torch.Tensor, kept: Kept | None = None) -> torch.Tensor:
    """The output of the dense-sized model, or of the pruned one."""
    graph, used = (coupling.graph, tensors) if kept is None else prune(coupling, tensors, kept)
    result: torch.Tensor = build(graph, used).eval()(x)
    return result


@torch.no_grad()
def run_pruned(repaired: tuple[Graph, Tensors], x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = build(*repaired).eval()(x)
    return result
