"""Pruned is the same as masked, and the proof finds out when it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hwprofiles.errors import RequestError
from tests import models
from tests.bundles import coupled, export_images, exported
from tests.models import MODELS, example_input
from trials.groups import Coupling, Kept, analyse
from trials.network import build
from trials.proof import TOLERANCE, largest_difference, outputs, prove
from trials.prune import mask, prune

names = pytest.mark.parametrize("name", MODELS)


def run(name: str, kept: Kept, how: str) -> torch.Tensor:
    """The output of an example model, "masked" or "pruned"."""
    coupling, tensors = coupled(name), exported(name).tensors
    graph, changed = (prune if how == "pruned" else mask)(coupling, tensors, kept)
    with torch.no_grad():
        result: torch.Tensor = build(graph, changed).eval()(example_input(name))
    return result


@names
def test_each_group_pruned_is_the_model_masked_and_not_the_model_itself(name: str) -> None:
    dense = run(name, {}, "masked")
    for group in coupled(name).groups:
        kept = {group.name: np.arange(group.size)[1::2]}
        masked, pruned = run(name, kept, "masked"), run(name, kept, "pruned")
        torch.testing.assert_close(pruned, masked, rtol=1e-4, atol=1e-4)
        # The proof would pass on anything if masking changed nothing.
        assert (masked - dense).abs().max() > 100 * (masked - pruned).abs().max()


@st.composite
def some_units(draw: st.DrawFn, coupling: Coupling) -> Kept:
    """A random non-empty choice of units for some of the groups."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = {}
    for group in coupling.groups:
        count = draw(st.integers(1, group.size))
        if draw(st.booleans()):
            kept[group.name] = np.sort(rng.permutation(group.size)[:count])
    return kept


@names
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_candidate_pruned_is_the_model_masked(name: str, data: st.DataObject) -> None:
    kept = data.draw(some_units(coupled(name)))
    torch.testing.assert_close(run(name, kept, "pruned"), run(name, kept, "masked"), rtol=1e-4, atol=1e-4)


@names
def test_every_group_of_the_example_models_is_proved(name: str) -> None:
    coupling = coupled(name)
    assert coupling.groups
    assert prove(coupling, exported(name).tensors).frozen == coupling.frozen


@names
def test_pruned_parameters_are_the_kept_slices_of_the_dense_ones(name: str) -> None:
    coupling, tensors = coupled(name), exported(name).tensors
    group = coupling.groups[0]
    graph, pruned = prune(coupling, tensors, {group.name: np.array([1])})
    shrunk = {member.rpartition(":")[0] for member in group.members}
    for key, tensor in tensors.items():
        assert graph.tensors[key].shape == tuple(pruned[key].shape)
        assert (pruned[key].shape != tensor.shape) == (key in shrunk)
        if key not in shrunk:
            assert pruned[key] is tensor
    first, _, axis = group.members[0].rpartition(":")
    classes = coupling.vectors[coupling.tensor_axes[first, int(axis)]]
    positions = np.flatnonzero((classes == group.units[1]).any(axis=0))
    torch.testing.assert_close(
        pruned[first], tensors[first].index_select(int(axis), torch.from_numpy(positions))
    )


def test_a_pruned_network_trains_like_any_other() -> None:
    coupling, tensors = coupled("resnet_projection"), exported("resnet_projection").tensors
    kept = {group.name: np.arange(group.size // 2) for group in coupling.groups}
    graph, pruned = prune(coupling, {key: tensor.clone() for key, tensor in tensors.items()}, kept)
    network = build(graph, pruned).train()
    conv = network.get_submodule("layer1.0.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, tuple(conv.weight.shape)) == (4, 4, (4, 4, 3, 3))
    network(example_input("resnet_projection")).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in network.parameters())


def test_a_pruned_model_can_be_analysed_and_pruned_again() -> None:
    coupling, tensors = coupled("mobilenet_v2"), exported("mobilenet_v2").tensors
    kept = {group.name: np.arange(group.size // 2) for group in coupling.groups}
    graph, pruned = prune(coupling, tensors, kept)
    again = analyse(graph)
    assert [(group.name, group.size) for group in again.groups] == [
        (group.name, group.size // 2) for group in coupling.groups
    ]
    assert largest_difference(again, pruned, {"features.0": np.array([0, 3])}, seed=0) < TOLERANCE


def test_pruning_nothing_changes_nothing() -> None:
    coupling, tensors = coupled("vit"), exported("vit").tensors
    graph, pruned = prune(coupling, tensors, {})
    assert graph == coupling.graph
    assert all(pruned[key] is tensors[key] for key in tensors)


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(RequestError, match="no prunable group"):
        prune(coupled("vit"), exported("vit").tensors, {"nowhere": np.array([0])})


# A proof that could not fail would prove nothing: spoil the coupling and see that it is caught.


def shifted(coupling: Coupling, tensor: str, axis: int, group: str) -> Coupling:
    """The same coupling, wrong at one axis of a tensor: each unit of the group in the place of the next."""
    units = coupling.group(group).units
    order = np.arange(coupling.classes + 1)
    order[units] = np.roll(units, 1)
    wrong = order[coupling.vectors[coupling.tensor_axes[tensor, axis]]]
    return replace(
        coupling,
        vectors=(*coupling.vectors, wrong),
        tensor_axes={**coupling.tensor_axes, (tensor, axis): len(coupling.vectors)},
    )


@pytest.mark.parametrize(
    ("name", "tensor", "axis", "group"),
    [
        ("resnet_pad", "layer1.0.bn1.weight", 0, "layer1.0.conv1"),
        ("resnet_pad", "layer2.1.conv2.weight", 0, "layer2.0.conv2"),
        ("mobilenet_v2", "features.5.conv.3.weight", 0, "features.5.conv.0"),
        ("densenet", "block1.1.norm1.running_mean", 0, "conv0"),
        ("vgg_flatten", "features.3.bias", 0, "features.3"),
        ("vit", "blocks.0.mlp.0.bias", 0, "blocks.0.mlp.0"),
        ("bert", "layers.0.key.weight", 0, "layers.0.query"),
    ],
)
def test_a_wrong_coupling_is_caught_and_its_group_frozen(
    name: str, tensor: str, axis: int, group: str
) -> None:
    wrong = shifted(coupled(name), tensor, axis, group)
    refused = {item.name: item.reason for item in prove(wrong, exported(name).tensors).frozen}
    assert "not the same as masking" in refused[group]
    others = {item.name for item in coupled(name).groups} - {group}
    assert not others & set(refused)


def test_a_norm_that_starts_at_zero_hides_no_wrong_coupling() -> None:
    model = models.build("resnet_pad")
    torch.nn.init.zeros_(model.get_parameter("layer1.0.bn2.weight"))
    tensors = export_images(model, 3, 16, 16).tensors
    wrong = shifted(coupled("resnet_pad"), "layer1.0.bn1.weight", 0, "layer1.0.conv1")
    assert "layer1.0.conv1" not in {group.name for group in prove(wrong, tensors).groups}


def test_a_pruned_model_that_does_not_run_is_a_failed_proof() -> None:
    coupling = coupled("vgg_flatten")
    axes = {key: vector for key, vector in coupling.tensor_axes.items() if key != ("features.3.weight", 1)}
    proved = prove(
        replace(coupling, tensor_axes=axes, contracted=frozenset()), exported("vgg_flatten").tensors
    )
    assert "features.0" not in {group.name for group in proved.groups}
    assert "does not run" in {item.name: item.reason for item in proved.frozen}["features.0"]


def test_several_outputs_are_compared_one_by_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.body(x).relu()
            return self.a(hidden), self.b(hidden)

    bundle = export_images(Two(), 4)
    coupling = analyse(bundle.graph)
    assert len(outputs(bundle.network()(torch.zeros(1, 4)))) == 2
    assert [group.name for group in prove(coupling, bundle.tensors).groups] == ["body"]
    spoiled = replace(coupling, contracted=coupling.contracted - {("b.weight", 1)})
    assert not prove(spoiled, bundle.tensors).groups
