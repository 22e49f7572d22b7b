"""Real trained networks: CIFAR-10 ResNets with padded and with projected shortcuts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cifar import CHECKPOINTS, load_checkpoint
from tests.bundles import export_images
from trials.bundle import Bundle
from trials.candidate import as_counts
from trials.costs import Costs
from trials.groups import Coupling, analyse
from trials.network import build
from trials.proof import prove
from trials.prune import mask, prune

pytestmark = pytest.mark.usefixtures("shared_data")
names = pytest.mark.parametrize("name", ["resnet20", "resnet20_projection", "resnet56"])


@cache
def exported(name: str) -> tuple[Bundle, Coupling]:
    bundle = export_images(load_checkpoint(name), 3, 32, 32)
    return bundle, prove(analyse(bundle.graph), bundle.tensors)


@names
def test_the_bundle_computes_what_the_checkpoint_does(shared_data: Path, name: str) -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = exported(name)[0].network().eval()(x), load_checkpoint(name)(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@names
def test_every_group_of_a_trained_network_is_proved(name: str) -> None:
    _, coupling = exported(name)
    assert [item.reason for item in coupling.frozen] == ["it is an output of the model"]


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9)])
def test_padded_shortcuts_make_three_streams_beside_the_inner_channels(name: str, blocks: int) -> None:
    """Of 32 channels the middle 16 come from the first stage; of 64, the middle 32 from the second."""
    sizes = {group.name: group.size for group in exported(name)[1].groups}
    streams = {"conv1": 16, "layer2.0.conv2": 16, "layer3.0.conv2": 32}
    inner = {f"layer{stage}.{k}.conv1": 8 * 2**stage for stage in (1, 2, 3) for k in range(blocks)}
    assert sizes == streams | inner


def test_projected_shortcuts_make_a_stream_for_each_stage() -> None:
    sizes = {group.name: group.size for group in exported("resnet20_projection")[1].groups}
    inner = {f"layer{stage}.{k}.conv1": 8 * 2**stage for stage in (1, 2, 3) for k in range(3)}
    assert sizes == {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64} | inner


@names
def test_the_trained_networks_cost_what_is_published_of_them(name: str) -> None:
    costs = Costs(exported(name)[1])
    dense = as_counts([exported(name)[1].space().dense])
    published = {
        "resnet20": (40_551_040, 269_722),
        "resnet56": (125_485_696, 853_018),
        "resnet20_projection": (40_813_184, 272_474),
    }
    assert (costs.macs(dense)[0], costs.parameters(dense)[0]) == published[name]


@names
def test_random_candidates_of_trained_networks_compute_what_masking_does(name: str) -> None:
    bundle, coupling = exported(name)
    rng = np.random.default_rng(0)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        kept = {
            group.name: np.sort(rng.permutation(group.size)[: rng.integers(1, group.size + 1)])
            for group in coupling.groups
        }
        with torch.no_grad():
            pruned = build(*prune(coupling, bundle.tensors, kept)).eval()(x)
            masked = build(*mask(coupling, bundle.tensors, kept)).eval()(x)
        torch.testing.assert_close(pruned, masked, rtol=1e-4, atol=1e-4)


def test_the_names_of_all_checkpoints_load(shared_data: Path) -> None:
    for name in CHECKPOINTS:
        assert not load_checkpoint(name).training
