"""Sequential repair: what each layer aims at, and that it makes up for the error of those before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.bundles import coupled, export_images, exported
from tests.models import example_input
from tests.trials.repair.conftest import (
    calibrated,
    halves,
    norm,
    normal,
    random_kept,
    run,
    run_pruned,
    seeded,
    stem,
)
from trials.groups import analyse
from trials.network import build
from trials.prune import prune
from trials.repair import Calibration, fast, layers, moments_of, sequential
from trials.repair.calibration import walk


def test_a_layer_in_front_of_a_residual_sum_aims_at_the_sum() -> None:
    aims = {layer.weight: layer for layer in layers(coupled("resnet_pad"))}
    graph = coupled("resnet_pad").graph
    nodes = {node.name: node for node in graph.nodes}
    inner, outer = aims["layer2.0.conv1.weight"], aims["layer2.0.conv2.weight"]
    assert (inner.target, inner.beside) == (inner.node.name, "")
    assert nodes[outer.target].op == "aten.add.Tensor"
    assert "pad" in nodes[outer.beside].op
    assert outer.norm is not None
    assert outer.norm["weight"].name == "layer2.0.bn2.weight"
    assert outer.changes == ["layer2.0.conv2.weight", "layer2.0.bn2.running_mean"]
    assert aims["linear.weight"].changes == ["linear.weight", "linear.bias"]


def test_of_two_layers_that_meet_in_a_sum_only_the_later_one_aims_at_it() -> None:
    aims = {layer.weight: layer for layer in layers(coupled("resnet_projection"))}
    # The model runs its shortcut's 1x1 convolution before the branch.
    shortcut, branch = aims["layer2.0.downsample.0.weight"], aims["layer2.0.conv2.weight"]
    assert shortcut.beside == ""
    assert shortcut.norm is not None
    assert branch.beside == shortcut.norm.name


def test_a_layer_whose_tensors_are_used_twice_is_left_as_it_is() -> None:
    class Twice(nn.Module):
        """One linear layer runs twice, and one norm follows two convolutions."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.again = (nn.Conv2d(4, 4, 1, bias=False) for _ in range(3))
            self.shared, self.own = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.shared(self.second(self.own(self.first(x)).relu())).relu()
            x = self.shared(self.again(x)).relu().mean((2, 3))
            result: torch.Tensor = self.head(self.linear(self.linear(x).relu()).relu())
            return result

    coupling = analyse(export_images(Twice().eval(), 4, 3, 3).graph)
    assert {("linear.weight", 1), ("second.weight", 1), ("again.weight", 1)} < coupling.contracted
    assert [layer.weight for layer in layers(coupling)] == ["head.weight"]


class TwoPaths(nn.Module):
    """The sum of a shortcut and a branch, each over a hidden layer that still knows all of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.lost, self.whole = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)
        self.shortcut, self.branch = nn.Conv2d(6, 5, 1, bias=False), nn.Conv2d(6, 5, 1, bias=False)
        self.norm1, self.norm2 = norm(5), norm(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.norm1(self.shortcut(self.lost(x)))
        result: torch.Tensor = self.norm2(self.branch(self.whole(x))) + shortcut
        return result


@pytest.mark.usefixtures("hardly_any_ridge")
def test_the_branch_makes_up_for_what_the_shortcut_lost_and_only_sequential_repair_lets_it() -> None:
    bundle = seeded(TwoPaths, 4, 5, 5)
    coupling, inputs = analyse(bundle.graph), normal(64, 4, 5, 5)
    kept = {"lost": np.array([1])}
    calibration = Calibration(coupling, bundle.tensors, [inputs])
    dense = run(coupling, bundle.tensors, inputs)
    apart, together = fast(calibration, kept), sequential(calibration, kept)
    assert (run_pruned(apart, inputs) - dense).abs().mean() > 0.1
    torch.testing.assert_close(run_pruned(together, inputs), dense, rtol=1e-3, atol=1e-3)


def test_what_queries_lose_is_made_up_for_behind_them() -> None:
    coupling, tensors = coupled("bert"), exported("bert").tensors
    kept = {f"layers.{number}.query.width": np.arange(1) for number in range(2)}
    x = example_input("bert", 16, seed=1)
    dense, cut = run(coupling, tensors, x), run(coupling, tensors, x, kept)
    repaired = run_pruned(sequential(calibrated("bert", 256), kept), x)
    assert (repaired - dense).square().mean() < 0.8 * (cut - dense).square().mean()


@pytest.mark.usefixtures("hardly_any_ridge")
@pytest.mark.parametrize("name", ["resnet_pad", "resnet_projection", "mobilenet_v2", "densenet"])
@torch.no_grad()
def test_nothing_a_layer_reads_explains_what_sequential_repair_leaves_of_its_error(name: str) -> None:
    """The normal equations of every layer, in the network that came out; of all that it makes, not of what
    passes an activation alone."""
    coupling, kept = coupled(name), halves(coupled(name))
    calibration = calibrated(name)
    graph, repaired = sequential(calibration, kept, reaimed=0)
    _, cut = prune(coupling, calibration.tensors, kept)
    by_target = {layer.target: layer for layer in calibration.layers}
    by_node = {layer.name: layer for layer in calibration.layers}
    read: dict[str, torch.Tensor] = {}
    checked = 0
    for node, values in walk(build(graph, repaired).eval(), calibration.chunks):
        if node.name in by_node:
            source = values[node["input"].name]
            read[node.name] = torch.cat(list(calibration.read(by_node[node.name], source)))
        if node.name not in by_target:
            continue
        layer = by_target[node.name]
        made = torch.from_numpy(layer.outputs(coupling, coupling.alive(kept)))
        wanted = torch.cat(list(calibration.targets(layer)))[:, made]
        left = wanted - torch.cat(calibration.made(layer, values[node.name]))
        if layer.norm is not None and layer.target == layer.name:
            # The mean that the norm takes off has moved in the layer's stead.
            left += repaired[layer.intercept] - cut[layer.intercept]
        x = read[layer.name]
        rest = moments_of(x, left, shift=bool(layer.intercept))
        weights, intercept = rest.solve(torch.zeros(left.shape[1], x.shape[1]))
        explained = x.double() @ weights.T + intercept
        assert explained.abs().mean() < 0.01 * wanted.std()
        checked += 1
    assert checked == len(calibration.layers)


@pytest.mark.parametrize("cut_off", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.1, 0.1)], ids=str)
@pytest.mark.parametrize("width", [None, 5], ids=["biased", "normalised"])
def test_in_front_of_an_activation_that_cuts_off_only_what_passes_is_made_up_for(
    cut_off: nn.Module, width: int | None
) -> None:
    def make() -> nn.Module:
        layer = nn.Sequential(nn.Conv2d(8, 5, 3, bias=False), norm(width)) if width else nn.Conv2d(8, 5, 3)
        return stem(nn.ReLU(), layer, cut_off)

    bundle, inputs = seeded(make, 3, 8, 8), normal(200, 3, 8, 8)
    coupling = analyse(bundle.graph)
    calibration = Calibration(coupling, bundle.tensors, [inputs], positions=100)
    dense = run(coupling, bundle.tensors, inputs)
    errors = []
    for times in (0, 2):
        repaired = sequential(calibration, halves(coupling), reaimed=times)
        errors.append((run_pruned(repaired, inputs) - dense).square().mean())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ["resnet_pad", "resnet_projection", "mobilenet_v2"])
def test_sequential_repair_leaves_less_error_than_fast_repair(name: str) -> None:
    coupling, x = coupled(name), example_input(name, 128)
    calibration = calibrated(name)
    dense = run(coupling, calibration.tensors, x)
    for seed in range(3):
        kept = random_kept(coupling, seed)
        apart, together = (
            (run_pruned(repair(calibration, kept), x) - dense).square().mean()
            for repair in (fast, sequential)
        )
        assert together < apart


class Chain(nn.Module):
    """Two blocks of one layer each in a row, and a layer that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        result: torch.Tensor = self.head(x + self.two(x))
        return result


@pytest.mark.usefixtures("hardly_any_ridge")
@pytest.mark.parametrize("dropped", [["one"], ["two"], ["one", "two"]])
def test_the_next_layer_makes_up_for_a_dropped_block_in_sequential_repair(dropped: list[str]) -> None:
    bundle, inputs = seeded(Chain, 4, 5, 5), normal(64, 4, 5, 5)
    coupling = analyse(bundle.graph, blocks=True)
    kept = dict.fromkeys(dropped, np.zeros(0, dtype=np.int64))
    calibration = Calibration(coupling, bundle.tensors, [inputs])
    dense = run(coupling, bundle.tensors, inputs)
    cut = run(coupling, bundle.tensors, inputs, kept)
    assert (cut - dense).abs().mean() > 0.1
    torch.testing.assert_close(run_pruned(fast(calibration, kept), inputs), cut)
    made_up = run_pruned(sequential(calibration, kept), inputs)
    torch.testing.assert_close(made_up, dense, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet_pad", "mobilenet_v2", "vit"])
def test_with_blocks_dropped_and_units_gone_sequential_repair_leaves_less_error_than_pruning(
    name: str,
) -> None:
    coupling, x = coupled(name, blocks=True), example_input(name, 128)
    calibration = Calibration(coupling, exported(name).tensors, [x])
    kept = random_kept(coupled(name), 0) | {coupling.blocks[0].name: np.zeros(0, dtype=np.int64)}
    dense = run(coupling, calibration.tensors, x)
    cut, repaired = run(coupling, calibration.tensors, x, kept), run_pruned(sequential(calibration, kept), x)
    assert (repaired - dense).square().mean() < (cut - dense).square().mean()
