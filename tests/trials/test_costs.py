"""Costs by arithmetic equal those of the really pruned model, and those that one works out by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwprofiles import INPUT
from tests.bundles import coupled, export_images, exported
from tests.models import MODELS, build
from trials.candidate import Candidate, Space, as_counts
from trials.costs import Costs
from trials.groups import analyse, even_kept
from trials.network import build as network
from trials.prune import prune

names = pytest.mark.parametrize("name", MODELS)


@cache
def costs_of(name: str, *, blocks: bool = False) -> Costs:
    return Costs(coupled(name, blocks=blocks))


class Small(nn.Module):
    """3 → 8 (3x3, 6x6 pixels) → depthwise → 4 (1x1, 3x3 pixels) → linear over 4·9 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8, bias=False)
        self.point = nn.Conv2d(8, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv(x))
        out = F.relu(self.norm(self.point(self.depthwise(out))))
        logits: Tensor = self.linear(out.flatten(1))
        return logits


def by_hand(conv: int, point: int) -> tuple[int, int]:
    """(MACs, parameters) of `Small` with so many channels."""
    macs = 36 * 9 * 3 * conv + 9 * 9 * conv + 9 * conv * point + 9 * point * 5
    parameters = (27 * conv + conv) + 9 * conv + conv * point + 2 * point + (9 * point * 5 + 5)
    return macs, parameters


@pytest.mark.parametrize("kept", [(8, 4), (3, 4), (8, 1), (5, 2)])
def test_costs_are_those_worked_out_by_hand(kept: tuple[int, int]) -> None:
    costs = Costs(analyse(export_images(Small(), 3, 6, 6).graph))
    assert [group.name for group in costs.coupling.groups] == ["conv", "point"]
    counts = as_counts([Candidate(kept)])
    assert (costs.macs(counts)[0], costs.parameters(counts)[0]) == by_hand(*kept)


def test_operators_are_what_the_hardware_runs_under_the_users_names() -> None:
    costs = Costs(analyse(export_images(Small(), 3, 6, 6).graph))
    found = [(op.name, op.spec.kind, op.spec.fused) for op in costs.operators]
    assert found == [
        ("conv", "conv2d", ("relu",)),
        ("depthwise", "depthwise_conv2d", ()),
        ("point", "conv2d", ("batch_norm", "relu")),
        ("linear", "linear", ()),
    ]


def test_a_residual_sum_belongs_to_the_later_of_its_operands() -> None:
    fused = {op.name: op.spec.fused for op in costs_of("resnet_projection").operators}
    assert fused["layer2.0.conv1"] == ("batch_norm", "relu")
    assert fused["layer2.0.conv2"] == ("batch_norm", "add", "relu")
    assert fused["layer2.0.downsample.0"] == ("batch_norm",)


def test_an_operator_knows_whose_results_it_reads() -> None:
    costs = Costs(analyse(export_images(Small(), 3, 6, 6).graph))
    assert costs.op_graph.sources == ((INPUT,), (0,), (1,), (2,))
    assert costs.op_graph.outputs == (3,)


def test_a_sum_is_read_beside_the_layer_that_it_belongs_to() -> None:
    costs = costs_of("resnet_projection")
    position = {op.name: index for index, op in enumerate(costs.operators)}
    graph, second = costs.op_graph, position["layer2.0.conv2"]
    assert graph.own(second) == (position["layer2.0.conv1"],)
    assert graph.joined(second) == (position["layer2.0.downsample.0"],)


@names
def test_the_dense_model_has_the_parameters_that_pytorch_counts(name: str) -> None:
    dense = as_counts([coupled(name).space().dense])
    assert costs_of(name).parameters(dense)[0] == sum(p.numel() for p in build(name).parameters())


@st.composite
def candidates(draw: st.DrawFn, space: Space, lowest: int = 1) -> Candidate:
    return Candidate(tuple(draw(st.integers(lowest if axis.lowest else 0, axis.size)) for axis in space.axes))


@names
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_candidate_costs_what_the_pruned_model_costs(name: str, data: st.DataObject) -> None:
    coupling, costs = coupled(name, blocks=True), costs_of(name, blocks=True)
    candidate = data.draw(candidates(coupling.space()))
    graph, tensors = prune(coupling, exported(name).tensors, even_kept(coupling, candidate))
    counts = as_counts([candidate])
    assert costs.macs(counts)[0] == sum(spec.macs for spec in Costs(analyse(graph)).op_graph.operators)
    trainable = [key for key, spec in graph.tensors.items() if spec.trainable]
    assert costs.parameters(counts)[0] == sum(tensors[key].numel() for key in trainable)


@names
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_candidate_runs_the_operators_of_the_pruned_model(name: str, data: st.DataObject) -> None:
    coupling = coupled(name, blocks=True)
    # One channel left of a depthwise convolution makes it a plain one, so two is the least to compare.
    candidate = data.draw(candidates(coupling.space(), lowest=2))
    graph, _ = prune(coupling, exported(name).tensors, even_kept(coupling, candidate))
    assert costs_of(name, blocks=True).candidate_graph(candidate) == Costs(analyse(graph)).op_graph


@names
def test_a_population_costs_what_its_candidates_cost_one_by_one(name: str) -> None:
    space, costs = coupled(name, blocks=True).space(), costs_of(name, blocks=True)
    rng = np.random.default_rng(0)
    least = [min(1, axis.lowest) for axis in space.axes]
    counts = rng.integers(least, space.sizes + 1, size=(20, len(space.axes)))
    for row, macs, parameters in zip(counts, costs.macs(counts), costs.parameters(counts), strict=True):
        one = as_counts([Candidate(tuple(row.tolist()))])
        assert (costs.macs(one)[0], costs.parameters(one)[0]) == (macs, parameters)


@names
def test_removing_units_never_costs_more(name: str) -> None:
    space, costs = coupled(name).space(), costs_of(name)
    for column in range(len(space.axes)):
        counts = np.tile(space.sizes, (2, 1))
        counts[1, column] -= 1
        macs, parameters = costs.macs(counts), costs.parameters(counts)
        assert macs[1] < macs[0]
        assert parameters[1] < parameters[0]


def test_the_share_of_a_group_is_that_of_the_operators_it_shrinks() -> None:
    costs = Costs(analyse(export_images(Small(), 3, 6, 6).graph))
    conv, depthwise, point, linear, (total, _) = 36 * 9 * 3 * 8, 81 * 8, 9 * 8 * 4, 9 * 4 * 5, by_hand(8, 4)
    assert costs.macs_shares() * total == pytest.approx([conv + depthwise + point, point + linear])


def test_the_share_of_a_block_is_that_of_all_that_goes_with_it() -> None:
    costs = costs_of("resnet_pad", blocks=True)
    shares = dict(zip([g.name for g in costs.coupling.groups], costs.macs_shares(), strict=True))
    macs = {op.name: op.spec.macs for op in costs.operators}
    own = macs["layer2.1.conv1"] + macs["layer2.1.conv2"]
    assert shares["layer2.1"] == pytest.approx(own / sum(macs.values()))


def test_macs_agree_with_pytorchs_own_counter() -> None:
    for name in ("resnet_projection", "mobilenet_v2", "densenet", "vgg_flatten"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            build(name)(torch.zeros(1, *MODELS[name].shape))
        dense = as_counts([coupled(name).space().dense])
        assert counter.get_total_flops() == 2 * costs_of(name).macs(dense)[0]


def over_sequences() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 3, 2, groups=8), nn.ConvTranspose1d(8, 5, 3, 2))


def enlarged_by_depth() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8), nn.Conv2d(8, 2, 1))


@pytest.mark.parametrize(
    ("make", "shape", "kinds"),
    [
        (over_sequences, (3, 20), ["conv1d", "depthwise_conv1d", "conv_transpose1d"]),
        (enlarged_by_depth, (3, 8, 8), ["conv2d", "depthwise_conv_transpose2d", "conv2d"]),
    ],
)
def test_macs_over_sequences_and_of_transposed_convolutions_by_depth_agree_too(
    make: Callable[[], nn.Module], shape: tuple[int, ...], kinds: list[str]
) -> None:
    model = make().eval()
    bundle = export_images(model, *shape)
    coupling = analyse(bundle.graph)
    costs = Costs(coupling)
    assert [operator.kind for operator in costs.op_graph.operators] == kinds
    for operator in costs.op_graph.operators:
        operator.check()
    for kept in (8, 3):
        candidate = Candidate((kept,))
        pruned = network(*prune(coupling, bundle.tensors, even_kept(coupling, candidate))).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            pruned(torch.zeros(1, *shape))
        assert counter.get_total_flops() == 2 * costs.macs(as_counts([candidate]))[0]
        assert costs.candidate_graph(candidate) == Costs(analyse(pruned.graph)).op_graph


def test_a_frozen_group_is_part_of_the_constant() -> None:
    coupling = coupled("vgg_flatten").without({"features.3": "for this test"})
    some, all_groups = Costs(coupling), costs_of("vgg_flatten")
    counts = np.array([[5, 7], [12, 48]])
    with_it = np.array([[5, 24, 7], [12, 24, 48]])
    assert some.macs(counts).tolist() == all_groups.macs(with_it).tolist()
    assert some.parameters(counts).tolist() == all_groups.parameters(with_it).tolist()


def test_a_model_without_groups_still_has_costs() -> None:
    costs = Costs(analyse(export_images(nn.Linear(4, 3), 4).graph))
    nothing = np.zeros((2, 0), dtype=np.int64)
    assert costs.macs(nothing).tolist() == [12, 12]
    assert costs.parameters(nothing).tolist() == [15, 15]
