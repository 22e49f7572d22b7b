"""Masks of single weights against torch's own, and against blocks looked at one by one."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.bundles import export_images
from trials.bundle import Bundle
from trials.network import Network
from trials.sparsity import Blocks, Magnitude, Scope, hide, read_sparsity
from trials.weights import layer_weights


class EveryLayer(nn.Module):
    """A layer of each kind that has weights, of 8 inputs each but the first, and a norm and biases beside."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.plain = nn.Conv2d(8, 8, 3, padding="same")
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.grouped(self.plain(self.norm(self.first(x)))))
        logits: Tensor = self.head(self.up(x).flatten(1))
        return logits


WEIGHTS = [f"{name}.weight" for name in ("first", "plain", "grouped", "depthwise", "up", "head")]


@cache
def bundle() -> Bundle:
    """With weights of one decimal, so that many are equal in size."""
    torch.manual_seed(0)
    model = EveryLayer()
    for parameter in model.parameters():
        parameter.data = (torch.randn(parameter.shape) * 4).round() / 10
    return export_images(model, 3, 6, 6)


def test_the_weights_of_all_kinds_of_layers_count_with_the_axis_of_their_inputs() -> None:
    assert layer_weights(bundle().graph) == dict.fromkeys(WEIGHTS, 1) | {"up.weight": 0}


def pruned_by_torch(zeros: float, scope: Scope) -> tuple[Network, dict[str, Tensor]]:
    """A network whose weights torch pruned for good, and its masks."""
    network = bundle().network()
    layers = [(network.get_submodule(name.removesuffix(".weight")), "weight") for name in WEIGHTS]
    if scope == "global":
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=zeros)
    else:
        for module, name in layers:
            prune.l1_unstructured(module, name, zeros)
    masks = {name: network.get_buffer(f"{name}_mask").bool() for name in WEIGHTS}
    for module, name in layers:
        prune.remove(module, name)
    return network, masks


def bits(network: Network) -> dict[str, Tensor]:
    return {
        name: tensor.detach().view(torch.int32)
        for name, tensor in network.state_dict().items()
        if tensor.dtype == torch.float32
    }


@pytest.mark.parametrize("scope", ["global", "layer"])
@settings(max_examples=10)
@given(zeros=st.floats(0.01, 0.99))
def test_a_share_of_zeros_is_what_torch_prunes(scope: Scope, zeros: float) -> None:
    ours, (theirs, expected) = bundle().network(), pruned_by_torch(zeros, scope)
    masks = Magnitude(zeros, scope).masks(ours)
    hide(ours, masks)
    assert masks.keys() == expected.keys()
    for name, mask in expected.items():
        assert torch.equal(masks[name], mask), name
        assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name)), name


@pytest.mark.parametrize(("stay", "size"), [(2, 4), (1, 2), (1, 4), (4, 8)])
def test_of_every_block_of_inputs_the_largest_weights_stay_bit_by_bit(stay: int, size: int) -> None:
    network, before = bundle().network(), bits(bundle().network())
    hide(network, Blocks(stay, size).masks(network))
    axes, blocks = layer_weights(network.graph), 0
    for name, after in bits(network).items():
        weight = bundle().tensors[name]
        if name not in axes or weight.shape[axes[name]] % size:
            assert torch.equal(after, before[name]), f"{name} stays whole"
            continue
        # One row for each output and place of the kernel: consecutive input channels.
        rows, old = (each.movedim(axes[name], -1).flatten(0, -2) for each in (after, before[name]))
        sizes = weight.abs().movedim(axes[name], -1).flatten(0, -2)
        for row in range(len(rows)):
            for start in range(0, rows.shape[1], size):
                block = slice(start, start + size)
                kept = rows[row, block] != 0
                blocks += 1
                assert int(kept.sum()) <= stay
                assert torch.equal(rows[row, block][kept], old[row, block][kept])
                best = max(sum(chosen) for chosen in combinations(sizes[row, block].tolist(), stay))
                assert float(sizes[row, block][kept].sum()) == pytest.approx(best)
    assert blocks > 100


def test_a_layer_whose_inputs_fill_no_whole_block_stays_whole() -> None:
    """Pixels have three channels, and depthwise layers read one."""
    masks = Blocks(2, 4).masks(bundle().network())
    assert set(masks) == {"plain.weight", "grouped.weight", "up.weight", "head.weight"}


def test_some_of_the_zeros_are_there_on_the_way() -> None:
    network = bundle().network()
    share = Magnitude(0.6).masks(network, progress=0.5)
    assert sum(int((~mask).sum()) for mask in share.values()) == round(
        0.3 * sum(bundle().tensors[name].numel() for name in WEIGHTS)
    )
    blocks = Blocks(2, 4).masks(network, progress=0.5)["plain.weight"]
    assert (blocks.unflatten(1, (-1, 4)).sum(2) == 3).all()


def test_what_was_hidden_is_hidden_first_when_more_is() -> None:
    network = bundle().network()
    hide(network, Magnitude(0.3).masks(network))
    gone = {name: network.get_parameter(name) == 0 for name in WEIGHTS}
    more = Magnitude(0.6).masks(network)
    assert not any((more[name] & gone[name]).any() for name in WEIGHTS)


def test_what_a_job_asks_for_is_a_share_or_a_pattern() -> None:
    assert read_sparsity(0.6, "layer") == Magnitude(0.6, "layer")
    assert read_sparsity("2:4") == Blocks(2, 4)
