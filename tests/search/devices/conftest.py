"""Bundles alone, a profile measured for one of them, and profiles with times made up."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwprofiles import (
    Device,
    MeasuredNetwork,
    OpGraph,
    OpSpec,
    Profile,
    lower,
    lowering_of,
)
from hwprofiles.runtimes import CALL
from latency_models import plan
from search import profiling
from search.growth import profile_device
from search.place import Place
from search.progress import Silent
from tests.bundles import export_images
from tests.latency_models.test_table import rounds_of
from trials.bundle import read_bundle
from trials.candidate import Candidate
from trials.costs import Costs
from trials.groups import analyse


def network(width: int, *, deep: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        *([nn.Conv2d(width, width, 3, padding=1), nn.ReLU()] if deep else []),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    ).eval()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles alone, without data: `small`, and `deep`, which runs all kernels of `small` and others."""
    folder = tmp_path_factory.mktemp("bundles")
    export_images(network(32), 3, 8, 8).write(folder / "small")
    export_images(network(32, deep=True), 3, 8, 8).write(folder / "deep")
    return folder


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in {
        "ROUNDS": 2,
        "CALIBRATION_NETWORKS": 3,
        "HELD_OUT_NETWORKS": 4,
        "MOVED": np.inf,
    }.items():
        monkeypatch.setattr(profiling, name, count)


@pytest.fixture(scope="session")
def measured_runs(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the profile of one device, `bench`, measured for the small bundle."""
    runs = tmp_path_factory.mktemp("devices") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        for constant, count in {"ROUNDS": 4, "CALIBRATION_NETWORKS": 3, "HELD_OUT_NETWORKS": 4}.items():
            patch.setattr(profiling, constant, count)
        profile_device(bundles / "small", "bench", Place(runs, "").devices, {}, 1, Silent())
    return runs


@pytest.fixture
def runs(measured_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured_runs, tmp_path / "runs"))


def made_up_ms(kernels: Iterable[OpSpec]) -> float:
    """A call, and for each channel of each kernel a microsecond."""
    return 0.01 + 1e-3 * sum(kernel.in_channels + kernel.out_channels for kernel in kernels if kernel != CALL)


def made_up_network(graph: OpGraph, device: Device, pace: float = 1.0) -> MeasuredNetwork:
    ms = pace * made_up_ms(kernel for kernels in lower(graph, lowering_of(device)) for kernel in kernels)
    return MeasuredNetwork(name=str(ms), graph=graph, rounds=rounds_of(ms))


def made_up(bundle: Path, device: Device) -> Profile:
    """A profile of a device that is not here: kernels and networks as they would run there, times made up."""
    costs = Costs(analyse(read_bundle(bundle).graph))
    rules = lowering_of(device)
    graphs = [costs.candidate_graph(Candidate((kept,))) for kept in (32, 3, 8, 13, 20, 24, 27)]

    kernels = [CALL, *plan(costs.op_graph, costs.candidate_graph(Candidate((1,))), rules)]
    return Profile(
        device=device,
        kernels={kernel: rounds_of(made_up_ms([kernel])) for kernel in kernels},
        networks=tuple(made_up_network(graph, device) for graph in graphs[:4]),
        held_out=tuple(made_up_network(graph, device) for graph in graphs[4:]),
        created=datetime.now(UTC),
    )
