"""Repair against numpy, brute force and closed forms: what can be made up for is, and nothing else moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from tests.bundles import coupled, export_images, exported
from tests.models import MODELS, example_input
from trials.bundle import Bundle
from trials.graph import Graph
from trials.groups import Coupling, Kept, analyse
from trials.network import build
from trials.prune import prune
from trials.repair import Calibration, Moments, fast, importance, layers, moments, moments_of, sequential
from trials.repair.calibration import walk
from trials.repair.elimination import eliminate
from trials.units import HEADS, WIDTH

names = pytest.mark.parametrize("name", MODELS)
Tensors = Mapping[str, torch.Tensor]
Repair = Callable[[Calibration, Kept], tuple[Graph, Tensors]]


@pytest.fixture
def hardly_any_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """For closed forms: the ridge that noise calls for keeps a repair a little away from an exact answer."""
    monkeypatch.setattr(moments, "RIDGE", 1e-5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calibrated(name: str, images: int = 128) -> Calibration:
    return Calibration(coupled(name), exported(name).tensors, [example_input(name, images)])


def halves(coupling: Coupling) -> Kept:
    return {group.name: np.arange(group.size)[: group.size // 2] for group in coupling.groups}


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


# Least squares and elimination, against numpy and brute force.


@st.composite
def regressions(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (60, 6) that depend on one another and do not have mean 0, and outputs (60, 3)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((60, 6)) @ rng.standard_normal((6, 6)) + rng.standard_normal(6)
    y = x @ rng.standard_normal((6, 3)) + rng.standard_normal((60, 3)) + 5
    return torch.from_numpy(x), torch.from_numpy(y)


some_features = st.sets(st.integers(0, 5), min_size=1).map(sorted)


@given(regressions(), some_features)
def test_solved_weights_are_those_of_ridge_regression_towards_the_old_ones(
    data: tuple[torch.Tensor, torch.Tensor], features: list[int]
) -> None:
    x, y = data
    old = normal(3, 6)
    found = moments_of(x, y).at(torch.tensor(features), torch.arange(3))
    weights, intercept = found.solve(old[:, features])

    # Ridge regression is least squares with rows added that ask for the old weights and have no intercept.
    kept = x[:, features].numpy()
    pull = np.sqrt(len(x) * (moments.RIDGE * kept.var(axis=0).mean() + 1e-12)) * np.eye(len(features))
    rows = np.block([[kept, np.ones((len(x), 1))], [pull, np.zeros((len(features), 1))]])
    wanted = np.concatenate([y.numpy(), pull @ old[:, features].double().numpy().T])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(weights.numpy(), solution[:-1].T, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(intercept.numpy(), solution[-1], rtol=1e-6, atol=1e-6)


def eliminated_by_brute_force(found: Moments, blocks: NDArray[np.int64]) -> list[int]:
    """Solve anew for every block that might go next."""
    xx, xy = found.xx.numpy(), found.xy.numpy()
    xx = xx + (moments.RIDGE * np.diag(xx).mean() + 1e-12) * np.eye(len(xx))

    def explained(alive: list[int]) -> float:
        kept = blocks[alive].flatten()
        return float((xy[kept] * np.linalg.solve(xx[np.ix_(kept, kept)], xy[kept])).sum())

    alive, gone = list(range(len(blocks))), []
    while len(alive) > 1:
        gone.append(max(alive, key=lambda one: explained([unit for unit in alive if unit != one])))
        alive.remove(gone[-1])
    return gone + alive


@pytest.mark.parametrize("blocks", [[[0], [1], [2], [3], [4], [5]], [[0, 3], [1, 4], [2, 5]]])
@given(data=regressions())
def test_elimination_takes_the_block_that_brute_force_would(
    blocks: list[list[int]], data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    found = moments_of(*data)
    gone = eliminate([(found, torch.tensor(blocks))])
    assert gone == eliminated_by_brute_force(found, np.array(blocks))


def test_elimination_keeps_one_of_each_pair_of_equal_features() -> None:
    x = normal(200, 3)[:, [0, 1, 2, 2, 1, 0]]
    *_, first, second, third = eliminate(
        [(moments_of(x, x @ normal(6, 4, seed=1)), torch.arange(6)[:, None])]
    )
    assert {unit if unit < 3 else 5 - unit for unit in (first, second, third)} == {0, 1, 2}


def test_what_all_readers_miss_least_together_goes_first() -> None:
    x, own = normal(400, 3), torch.eye(3)
    parts = [
        (moments_of(x, x @ (own * torch.tensor(weights))), torch.arange(3)[:, None])
        for weights in ([3.0, 1.0, 2.0], [2.0, 1.0, 30.0])
    ]
    # Alone the first reader misses unit 0 most and the second unit 2; each is weighed by what it computes.
    assert [eliminate(parts[:1])[-1], eliminate(parts[1:])[-1]] == [0, 2]
    assert eliminate(parts) == [1, 0, 2]


# Units that others can stand for.


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


@names
@pytest.mark.usefixtures("hardly_any_ridge")
def test_twins_of_units_that_stay_are_not_missed_in_any_architecture(name: str) -> None:
    coupling = coupled(name)
    by_products = [g.name for g in coupling.groups if not coupling.summed.isdisjoint(g.units.tolist())]
    coupling = coupling.without(dict.fromkeys(by_products, "no layer reads them that could make up for them"))
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


def test_what_queries_lose_is_made_up_for_behind_them() -> None:
    coupling, tensors = coupled("bert"), exported("bert").tensors
    kept = {f"layers.{number}.query.width": np.arange(1) for number in range(2)}
    x = example_input("bert", 16, seed=1)
    dense, cut = run(coupling, tensors, x), run(coupling, tensors, x, kept)
    repaired = run_pruned(sequential(calibrated("bert", 256), kept), x)
    assert (repaired - dense).square().mean() < 0.8 * (cut - dense).square().mean()


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


PAIRS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Sequential]]] = {
    "linear": ((6,), lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))),
    "linear without a bias": ((6,), lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5, bias=False))),
    "linear over tokens": ((7, 6), lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))),
    "linear behind a flatten": ((3, 8, 8), lambda: stem(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))),
    "strided": ((3, 9, 7), lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, 3, stride=2, padding=(2, 1)))),
    "dilated": ((3, 9, 9), lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, 3, dilation=2, padding=2))),
    "padded to the same size": ((3, 8, 8), lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, (4, 3), padding="same"))),
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


def seeded(make: Callable[[], nn.Module], *shape: int) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return export_images(make().eval(), *shape)


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


def random_kept(coupling: Coupling, seed: int) -> Kept:
    rng = np.random.default_rng(seed)
    return {
        group.name: np.sort(rng.permutation(group.size)[: rng.integers(1, group.size)])
        for group in coupling.groups
        if rng.random() < 0.7
    }


@names
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


# What sequential repair aims at.


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
        wanted = torch.cat(list(calibration.targets[layer.name]))[:, made]
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


# Units chosen by the error that they cause.


@pytest.mark.usefixtures("hardly_any_ridge")
def test_by_error_one_of_each_pair_of_twins_is_worth_more_than_any_second() -> None:
    bundle = seeded(PAIRS["dilated"][1], 3, 9, 9)
    coupling, inputs = analyse(bundle.graph), normal(200, 3, 9, 9)
    tensors = with_twins(coupling, bundle.tensors)
    (group,) = coupling.groups
    calibration = Calibration(coupling, tensors, [inputs])
    dense = run(coupling, tensors, inputs)
    stay = np.sort(np.argsort(importance(calibration)[group.name])[4:])
    assert sorted(stay % 4) == [0, 1, 2, 3]
    torch.testing.assert_close(
        run_pruned(sequential(calibration, {group.name: stay}), inputs), dense, rtol=1e-3, atol=1e-3
    )
    twins = sequential(calibration, {group.name: np.array([0, 1, 4, 5])})
    assert not torch.allclose(run_pruned(twins, inputs), dense, atol=0.1)


@names
def test_by_error_every_unit_has_a_place_in_the_order_of_its_group(name: str) -> None:
    found = importance(calibrated(name, 64))
    assert found
    for group in coupled(name).groups:
        if group.name in found:
            assert sorted(found[group.name]) == list(range(group.size))


def test_units_that_a_layer_reads_which_cannot_be_refitted_have_no_order() -> None:
    class Shared(nn.Module):
        """The second of two hidden layers runs twice."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.second(self.second(self.first(x).relu()).relu()).relu())
            return result

    bundle = seeded(Shared, 6)
    coupling = analyse(bundle.graph)
    assert coupling.groups
    assert not importance(Calibration(coupling, bundle.tensors, [normal(50, 6)]))
