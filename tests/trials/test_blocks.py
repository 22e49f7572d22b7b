"""Residual blocks: which sums have one, and that a model without it computes what it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwprofiles.errors import RequestError
from tests.bundles import coupled, export_images, exported
from tests.models import MODELS, example_input
from tests.trials.test_onnx_file import assert_same_outputs
from trials.export import export_model
from trials.graph import Input
from trials.groups import Coupling, Kept, analyse
from trials.network import build
from trials.onnx_file import write_onnx
from trials.proof import prove
from trials.prune import mask, prune

BLOCKS = {
    "resnet_pad": ["layer1.0", "layer1.1", "layer2.1", "layer3.1"],
    "resnet_projection": ["layer1.0", "layer1.1", "layer2.1", "layer3.1"],
    "mobilenet_v2": ["features.3.conv", "features.5.conv", "features.7.conv"],
    "vit": ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"],
    "vit_mha": ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"],
    "bert": [f"layers.{layer}.{last}" for layer in (0, 1) for last in ("attention_output", "output")],
}
NOTHING = np.zeros(0, dtype=np.int64)
names = pytest.mark.parametrize("name", BLOCKS)


def run(name: str, kept: Kept, how: Callable[..., tuple[object, object]]) -> Tensor:
    with torch.no_grad():
        network = build(*how(coupled(name, blocks=True), exported(name).tensors, kept)).eval()
        result: Tensor = network(example_input(name))
    return result


def names_of(body: nn.Module, *shape: int) -> list[str]:
    return [block.name for block in analyse(export_images(body, *shape).graph, blocks=True).blocks]


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_the_sums_with_a_value_from_before_as_it_was(name: str) -> None:
    """Not those where the shortcut pads or projects, and none where nothing is added."""
    assert [block.name for block in coupled(name, blocks=True).blocks] == BLOCKS.get(name, [])


@names
def test_every_block_of_the_example_models_is_proved(name: str) -> None:
    coupling = coupled(name, blocks=True)
    proved = prove(coupling, exported(name).tensors)
    assert proved.blocks == coupling.blocks
    assert proved.frozen == coupling.frozen


@names
def test_a_model_without_a_block_is_the_model_with_its_branch_silent(name: str) -> None:
    dense = run(name, {}, prune)
    for block in BLOCKS[name]:
        pruned, masked = (run(name, {block: NOTHING}, how) for how in (prune, mask))
        torch.testing.assert_close(pruned, masked, rtol=1e-4, atol=1e-4)
        # The proof would pass on anything if masking changed nothing.
        assert (masked - dense).abs().max() > 100 * (masked - pruned).abs().max()


@st.composite
def some(draw: st.DrawFn, coupling: Coupling) -> Kept:
    """Some blocks dropped, and some groups with some of their units, of blocks that go as well."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = {
        group.name: np.sort(rng.permutation(group.size)[: rng.integers(1, group.size + 1)])
        for group in coupling.groups
    }
    return kept | {block.name: NOTHING for block in coupling.blocks if rng.random() < 0.5}


@names
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_candidate_without_some_blocks_is_the_model_masked(name: str, data: st.DataObject) -> None:
    kept = data.draw(some(coupled(name, blocks=True)))
    torch.testing.assert_close(run(name, kept, prune), run(name, kept, mask), rtol=1e-4, atol=1e-4)


@names
def test_nothing_of_a_dropped_block_is_left_in_the_model_or_its_onnx_file(name: str, tmp_path: Path) -> None:
    coupling, tensors = coupled(name, blocks=True), exported(name).tensors
    graph, pruned = prune(coupling, tensors, dict.fromkeys(BLOCKS[name], NOTHING))
    read = {tensor for node in graph.nodes for tensor in node.tensors}
    beside = {tensor for tensor in pruned if tensor.endswith("num_batches_tracked")}
    assert set(graph.tensors) == set(pruned) == read | beside
    assert all(tensor.replace("num_batches_tracked", "running_mean") in read for tensor in beside)
    write_onnx(graph, pruned, tmp_path / "short.onnx")
    assert_same_outputs(tmp_path / "short.onnx", graph, pruned, batch=3)


def test_an_activation_that_comes_twice_in_a_row_runs_once() -> None:
    coupling, tensors = coupled("resnet_pad", blocks=True), exported("resnet_pad").tensors
    relus = [
        sum(node.op == "aten.relu.default" for node in prune(coupling, tensors, kept)[0].nodes)
        for kept in ({}, {"layer1.0": NOTHING, "layer1.1": NOTHING})
    ]
    assert relus[0] - relus[1] == 4


def test_a_pruned_model_can_be_analysed_and_lose_its_other_blocks() -> None:
    coupling, tensors = coupled("vit", blocks=True), exported("vit").tensors
    graph, pruned = prune(coupling, tensors, {"blocks.0.mlp": NOTHING, "blocks.1.attn": NOTHING})
    again = analyse(graph, blocks=True)
    assert [block.name for block in again.blocks] == ["blocks.0", "blocks.1"]
    assert prove(again, pruned).blocks == again.blocks


class Around(nn.Module):
    """Two layers of 6 channels, and what a test does with a value before, between and behind them."""

    def __init__(self, mix: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(*sizes, 1) for sizes in ((3, 6), (6, 6), (6, 6)))
        self.head, self.mix = nn.Linear(6, 2), mix

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.mix(self, self.stem(x)).mean((2, 3)))
        return out


def read_twice(net: Around, x: Tensor) -> Tensor:
    inner = net.one(x)
    return x + inner + net.two(inner)


def wider_branch(net: Around, x: Tensor) -> Tensor:
    small = x.mean((2, 3), keepdim=True)
    return small + net.one(small.expand(-1, -1, 4, 4))


@pytest.mark.parametrize(
    ("mix", "found"),
    [
        (lambda net, x: x + net.two(net.one(x).relu()), ["two"]),
        (lambda net, x: net.two(net.one(x).relu()) + x, ["two"]),
        (read_twice, []),
        (lambda net, x: net.two(x + net.one(x)) + x, ["one", "two"]),
        (lambda net, x: x + 0.5 * net.one(x), ["one"]),
        (lambda net, x: torch.add(x, net.one(x), alpha=2), []),
        (lambda net, x: x - net.one(x), []),
        (lambda net, x: x + x.relu(), []),
        (lambda net, x: net.two(x) + net.one(x), []),
        (wider_branch, []),
    ],
    ids=[
        "behind", "before", "read_elsewhere", "within_another", "scaled", "weighed", "difference", "no_layer",
        "two_branches", "wider_branch",
    ],
)  # fmt: skip
def test_a_block_is_a_branch_of_its_own_beside_the_value_that_it_starts_from(
    mix: Callable[[Around, Tensor], Tensor], found: list[str]
) -> None:
    assert names_of(Around(mix), 3, 4, 4) == found


def test_without_an_outer_block_the_inner_one_is_gone_too() -> None:
    bundle = export_images(Around(lambda net, x: net.two(x + net.one(x)) + x), 3, 4, 4)
    coupling = analyse(bundle.graph, blocks=True)
    assert prove(coupling, bundle.tensors).blocks == coupling.blocks
    graph, _ = prune(coupling, bundle.tensors, {"two": NOTHING})
    assert {node.place for node in graph.nodes if node.tensors} == {"stem", "head"}
    both = coupling.space().parse({"one": 0, "two": 0})
    assert set(coupling.gone(coupling.space().parse({"two": 0})).items()) >= {("one", "two")}
    assert set(coupling.gone(both).values()) <= {"two"}


@names
def test_groups_whose_layers_went_with_a_block_are_named_with_it_and_no_others(name: str) -> None:
    coupling = coupled(name, blocks=True)
    space = coupling.space()
    assert coupling.gone(space.dense) == {}
    for block in BLOCKS[name]:
        found = coupling.gone(space.parse({block: 0}))
        left = prune(coupling, exported(name).tensors, {block: NOTHING})[1]
        lost = {tensor for tensor in exported(name).tensors if tensor not in left}
        inside = {
            group.name
            for group in coupling.groups
            if {member.rpartition(":")[0] for member in group.members} <= lost
        }
        assert found == dict.fromkeys(inside - {block}, block)
    assert coupling.gone(space.parse(dict.fromkeys(BLOCKS[name], 0)))


def test_a_branch_may_read_a_mask_beside_its_trunk_which_stays_an_input(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = self.stem(x)
            out: Tensor = self.head(x + self.mix(x) * mask)
            return out

    bundle = export_model(Masked(), [Input(name="x", shape=(4,)), Input(name="mask", shape=(6,))])
    coupling = analyse(bundle.graph, blocks=True)
    assert [block.name for block in prove(coupling, bundle.tensors).blocks] == ["mix"]
    graph, tensors = prune(coupling, bundle.tensors, {"mix": NOTHING})
    assert graph.inputs == bundle.graph.inputs
    write_onnx(graph, tensors, tmp_path / "short.onnx")
    assert_same_outputs(tmp_path / "short.onnx", graph, tensors, batch=3)


def test_a_block_that_is_not_what_it_is_taken_for_is_frozen_by_name() -> None:
    coupling = coupled("vit", blocks=True)
    one, *others = coupling.blocks
    wrong = replace(coupling, blocks=(*others[:-1], replace(others[-1], trunk=one.trunk)))
    proved = prove(wrong, exported("vit").tensors)
    refused = {item.name: item.reason for item in proved.frozen}
    assert "not the same as masking" in refused["blocks.1.mlp"]
    assert "blocks.1.mlp" not in {group.name for group in proved.groups}
    assert others[-1].name not in {block.name for block in proved.blocks}


def test_a_block_is_kept_or_not_and_a_group_keeps_one_unit_at_least() -> None:
    coupling = coupled("resnet_pad", blocks=True)
    space = coupling.space(step=4)
    axes = {axis.name: axis.allowed.tolist() for axis in space.axes}
    assert axes["layer2.1"] == [0, 1]
    assert space.round(np.full((1, len(space.axes)), 0.4))[0].tolist()[-4:] == [0, 0, 0, 0]
    assert space.named(space.parse({"layer2.1": 0}))["layer2.1"] == 0
    for widths, allowed in (({"layer2.1": 2}, "0 to 1"), ({"layer2.1.conv1": 0}, "1 to 16")):
        with pytest.raises(RequestError, match=f"allowed: {allowed}"):
            space.parse(widths)
    with pytest.raises(RequestError, match=r"layer2\.1\.conv1.*keeps units"):
        prune(coupling, exported("resnet_pad").tensors, {"layer2.1.conv1": NOTHING})
