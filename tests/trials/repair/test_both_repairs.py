"""What either repair can make up for it does, in every kind of layer, and nothing else moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.bundles import coupled, exported
from tests.models import MODELS, example_input
from tests.trials.repair.conftest import (
    Repair,
    Tensors,
    calibrated,
    halves,
    norm,
    normal,
    random_kept,
    run,
    run_pruned,
    seeded,
    stem,
    with_twins,
)
from trials.bundle import Bundle
from trials.groups import analyse
from trials.network import build
from trials.prune import prune
from trials.repair import Calibration, fast, sequential
from trials.units import HEADS, WIDTH


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("hardly_any_ridge")
def test_twins_of_units_that_stay_are_not_missed_in_any_architecture(name: str) -> None:
    coupling = coupled(name)
    tensors, kept = with_twins(coupling, exported(name).tensors), halves(coupling)
    calibration = Calibration(coupling, tensors, [example_input(name, 256)])
    x = example_input(name, 16, seed=1)
    dense, cut = run(coupling, tensors, x), run(coupling, tensors, x, kept)
    for repaired in (fast(calibration, kept), sequential(calibration, kept)):
        error = (run_pruned(repaired, x) - dense).square().mean()
        assert error < 1e-3 * (cut - dense).square().mean()


@pytest.mark.parametrize("repair", [fast, sequential])
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_half_the_heads_and_half_their_width_are_partly_made_up_for(name: str, repair: Repair) -> None:
    """Also what a query loses: the layers behind it are refitted where repair walks through the network."""
    coupling, tensors = coupled(name), exported(name).tensors
    attention = {g.name for g in coupling.groups if g.kind in (HEADS, WIDTH)}
    kept = {name: units for name, units in halves(coupling).items() if name in attention}
    x = example_input(name, 16, seed=1)
    dense, cut = run(coupling, tensors, x), run(coupling, tensors, x, kept)
    repaired = run_pruned(repair(calibrated(name, 256), kept), x)
    assert (repaired - dense).square().mean() < 0.5 * (cut - dense).square().mean()


PAIRS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Sequential]]] = {
    "linear": ((6,), lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))),
    "linear without a bias": ((6,), lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5, bias=False))),
    "linear over tokens": ((7, 6), lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))),
    "linear behind a flatten": ((3, 8, 8), lambda: stem(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))),
    "strided": ((3, 9, 7), lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, 3, stride=2, padding=(2, 1)))),
    "dilated": ((3, 9, 9), lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, 3, dilation=2, padding=2))),
    "padded to the same size": ((3, 8, 8), lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, (4, 3), padding="same"))),
    "over a sequence": (
        (3, 20),
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 5, 3, 2, padding=2, dilation=2)),
    ),
    "transposed over a sequence": (
        (3, 9),
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 5, 3, 2, 1, 1)),
    ),
    "without a bias": ((3, 8, 8), lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, 3, bias=False))),
    "normalised": ((3, 8, 8), lambda: stem(norm(8), nn.ReLU(), nn.Conv2d(8, 5, 3, bias=False), norm(5))),
    "transposed": ((3, 6, 5), lambda: stem(nn.ReLU(), nn.ConvTranspose2d(8, 5, 3, 2, 1, 1, dilation=2))),
    "transposed and normalised": (
        (3, 6, 5),
        lambda: stem(nn.ReLU(), nn.ConvTranspose2d(8, 5, (2, 3), (2, 1), bias=False), norm(5)),
    ),
    "biased and normalised": ((3, 8, 8), lambda: stem(norm(8), nn.ReLU(), nn.Conv2d(8, 5, 3), norm(5))),
}
"""Two layers, of which the second loses half of its inputs: the shape they take, and what makes them."""


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Bundle, torch.Tensor]:
    """A bundle of two layers, and 200 inputs."""
    shape, make = PAIRS[request.param]
    return seeded(make, *shape), normal(200, *shape)


@pytest.mark.usefixtures("hardly_any_ridge")
def test_twins_are_not_missed_by_any_kind_of_layer(pair: tuple[Bundle, torch.Tensor]) -> None:
    bundle, inputs = pair
    coupling = analyse(bundle.graph)
    tensors, kept = with_twins(coupling, bundle.tensors), halves(coupling)
    calibration = Calibration(coupling, tensors, [inputs])
    dense = run(coupling, tensors, inputs)
    assert not torch.allclose(run(coupling, tensors, inputs, kept), dense, atol=0.05)
    for repaired in (fast(calibration, kept), sequential(calibration, kept)):
        torch.testing.assert_close(run_pruned(repaired, inputs), dense, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("hardly_any_ridge")
def test_what_cannot_be_made_up_for_costs_as_little_as_least_squares_can(
    pair: tuple[Bundle, torch.Tensor],
) -> None:
    """No small change of the repaired layer, weights or shift, brings it nearer to the dense one."""
    bundle, inputs = pair
    coupling = analyse(bundle.graph)
    kept = halves(coupling)
    calibration = Calibration(coupling, bundle.tensors, [inputs], positions=100)
    graph, repaired = fast(calibration, kept)
    dense = run(coupling, bundle.tensors, inputs)

    @torch.no_grad()
    def error(tensors: Tensors) -> float:
        return (build(graph, tensors).eval()(inputs) - dense).square().mean().item()

    least = error(repaired)
    (layer,) = calibration.layers
    for name in layer.changes:
        for seed in range(10):
            change = 0.1 * repaired[name].std() * normal(*repaired[name].shape, seed=seed)
            assert error(repaired | {name: repaired[name] + change}) > least


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_repaired_network_has_the_shapes_of_a_pruned_one(name: str, seed: int) -> None:
    calibration, kept = calibrated(name, images=64), random_kept(coupled(name), seed)
    graph, tensors = prune(coupled(name), calibration.tensors, kept)
    for repaired in (fast(calibration, kept), sequential(calibration, kept)):
        assert repaired[0] == graph
        assert {n: t.shape for n, t in repaired[1].items()} == {n: t.shape for n, t in tensors.items()}
        assert run_pruned(repaired, example_input(name)).isfinite().all()


def test_a_repair_changes_no_tensor_given_and_comes_out_the_same_again() -> None:
    coupling, tensors = coupled("resnet_pad"), exported("resnet_pad").tensors
    before, kept = {name: tensor.clone() for name, tensor in tensors.items()}, halves(coupling)
    given = {name: units.copy() for name, units in kept.items()}
    first, second = calibrated("resnet_pad", 64), calibrated("resnet_pad", 64)
    # The first calibration is used before: what one candidate leaves behind must not reach the next.
    fast(first, {"layer1.0.conv1": np.array([0])})
    sequential(first, {"layer1.0.conv1": np.array([0])})
    for one, other in zip(
        (fast(first, kept)[1], sequential(first, kept)[1]),
        (fast(second, kept)[1], sequential(second, kept)[1]),
        strict=True,
    ):
        assert all(torch.equal(one[name], other[name]) for name in tensors)
        assert any(not torch.equal(one[name], tensors[name]) for name in tensors)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)
    assert all(np.array_equal(kept[name], given[name]) for name in kept)


def test_nothing_is_repaired_where_nothing_goes() -> None:
    calibration, tensors = calibrated("resnet_pad", 16), exported("resnet_pad").tensors
    for _, repaired in (fast(calibration, {}), sequential(calibration, {})):
        assert all(torch.equal(repaired[name], tensors[name]) for name in tensors)


def test_layers_before_the_first_loss_stay_as_they_are() -> None:
    calibration = calibrated("resnet_pad", 64)
    kept = {"layer2.1.conv1": np.arange(8)}
    _, cut = prune(coupled("resnet_pad"), calibration.tensors, kept)

    def changed(repaired: Tensors) -> set[str]:
        return {name for name, tensor in repaired.items() if not torch.equal(tensor, cut[name])}

    found = changed(sequential(calibration, kept)[1])
    assert "layer2.1.conv2.weight" in found
    assert {"layer3.0.conv1.weight", "layer3.1.conv2.weight", "linear.weight"} < found
    assert not any(name.startswith(("conv1", "layer1", "layer2.0", "layer2.1.conv1")) for name in found)
    assert changed(fast(calibration, kept)[1]) == {"layer2.1.conv2.weight", "layer2.1.bn2.running_mean"}
