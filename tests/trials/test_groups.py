"""Which units go together, which stay and why: known answers for known couplings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import RequestError, UnsupportedOpError
from tests.bundles import coupled, export_images, frozen, sizes
from trials.candidate import Candidate
from trials.groups import Coupling, analyse, even_kept
from trials.units import Frozen


def test_padded_shortcuts_couple_the_stages_they_span() -> None:
    """The 16 channels of the second stage are 4 zeros, the 8 of the first, 4 zeros: so two groups of 8."""
    coupling = coupled("resnet_pad")
    assert sizes(coupling) == {
        "conv1": 8,
        "layer1.0.conv1": 8,
        "layer1.1.conv1": 8,
        "layer2.0.conv1": 16,
        "layer2.0.conv2": 8,
        "layer2.1.conv1": 16,
        "layer3.0.conv1": 32,
        "layer3.0.conv2": 16,
        "layer3.1.conv1": 32,
    }
    assert {"layer2.0.conv2.weight:0", "layer3.1.conv2.weight:0", "linear.weight:1"} <= set(
        coupling.group("conv1").members
    )


def test_projected_shortcuts_are_coupled_to_the_sum_they_feed() -> None:
    coupling = coupled("resnet_projection")
    group = coupling.group("layer2.0.downsample.0")
    assert group.size == 16
    assert {member for member in group.members if "conv" in member or "downsample.0" in member} == {
        "layer2.0.downsample.0.weight:0",
        "layer2.0.conv2.weight:0",
        "layer2.1.conv1.weight:1",
        "layer2.1.conv2.weight:0",
        "layer3.0.conv1.weight:1",
        "layer3.0.downsample.0.weight:1",
    }


def test_an_inner_channel_takes_its_norm_and_its_reader_along() -> None:
    assert coupled("resnet_pad").group("layer1.0.conv1").members == (
        "layer1.0.conv1.weight:0",
        "layer1.0.bn1.weight:0",
        "layer1.0.bn1.bias:0",
        "layer1.0.bn1.running_mean:0",
        "layer1.0.bn1.running_var:0",
        "layer1.0.conv2.weight:1",
    )


def test_a_depthwise_convolution_belongs_to_the_channels_it_filters() -> None:
    members = coupled("mobilenet_v2").group("features.5.conv.0").members
    assert {member for member in members if member.endswith("weight:0") or member.endswith(":1")} == {
        "features.5.conv.0.weight:0",
        "features.5.conv.1.weight:0",
        "features.5.conv.3.weight:0",
        "features.5.conv.4.weight:0",
        "features.5.conv.6.weight:1",
    }


def test_concatenated_layers_stay_groups_of_their_own() -> None:
    found = sizes(coupled("densenet"))
    assert [found[f"block1.{k}.conv2"] for k in range(3)] == [8, 8, 8]
    readers = coupled("densenet").group("block1.0.conv2").members
    assert {"block1.1.conv1.weight:1", "block1.2.conv1.weight:1", "transition1.conv.weight:1"} <= set(readers)


def test_a_flattened_channel_owns_all_of_its_pixels() -> None:
    coupling = coupled("vgg_flatten")
    group = coupling.group("features.3")
    (vector,) = coupling.vectors[coupling.tensor_axes["classifier.0.weight", 1]]
    assert (group.size, len(vector)) == (24, 24 * 4 * 4)
    assert (vector.reshape(24, 16) == group.units[:, None]).all()


def test_mlps_are_pruned_by_their_width() -> None:
    found = sizes(coupled("vit"))
    assert [found["blocks.0.mlp.0"], found["blocks.1.mlp.0"]] == [64, 64]


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        ("resnet_pad", "linear", "it is an output of the model"),
        ("vit", "patch_embed", "layer norm blocks.0.norm1 takes its statistics over all of them"),
        ("bert", "word_embeddings", "layer norm embedding_norm takes its statistics over all of them"),
        ("bert", "layers.1.output", "layer norm embedding_norm takes its statistics over all of them"),
    ],
)
def test_what_stays_says_why(model: str, name: str, reason: str) -> None:
    assert reason in frozen(coupled(model))[name]


class Body(nn.Module):
    """Two layers of 8 channels and whatever `body` does with them, then a linear layer."""

    def __init__(self, body: Callable[[Body, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.grouped_up = nn.ConvTranspose2d(8, 6, 2, groups=2)
        self.gate = nn.Conv2d(8, 1, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(8) + 0.5)
        self.tokens = nn.Embedding(8, 8)
        self.body = body
        self.tail = nn.LazyLinear(3)
        with torch.no_grad():
            self(torch.zeros(2, 3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tail(self.body(self, self.a(x)).flatten(1))
        return out


def analysed(body: Callable[[Body, Tensor], Tensor]) -> Coupling:
    return analyse(export_images(Body(body), 3, 4, 4).graph)


def shuffled(m: Body, x: Tensor) -> Tensor:
    return x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2).relu()


def test_a_channel_shuffle_loses_the_same_channels_from_each_of_its_parts() -> None:
    coupling = analysed(shuffled)
    (group,) = coupling.groups
    assert (group.name, group.size, group.width) == ("a", 4, 2)
    (made,) = coupling.vectors[coupling.tensor_axes["a.weight", 0]]
    assert (made[:4] == made[4:]).all()


@pytest.mark.parametrize(("layer", "made"), [("grouped", 4), ("grouped_up", 3)])
def test_a_layer_in_groups_loses_the_same_channels_of_each_on_either_side(layer: str, made: int) -> None:
    coupling = analysed(lambda m, x: getattr(m, layer)(x))
    assert sizes(coupling) == {"a": 4, layer: made}
    (read,) = coupling.vectors[coupling.tensor_axes["a.weight", 0]]
    assert (read[:4] == read[4:]).all()


def test_a_gain_that_is_viewed_before_it_multiplies_goes_with_the_channels() -> None:
    def frozen_norm(m: Body, x: Tensor) -> Tensor:
        scale = m.gain.reshape(1, -1, 1, 1) * (m.gain.view(1, 8, 1, 1) + 1e-5).rsqrt()
        return x * scale + m.gain[None, :, None, None]

    coupling = analysed(frozen_norm)
    assert coupling.group("a").members == ("a.weight:0", "a.bias:0", "gain:0", "tail.weight:1")


def test_a_gate_for_all_channels_stays_and_leaves_them_free() -> None:
    coupling = analysed(lambda m, x: m.b(x) * m.gate(x).sigmoid())
    assert sizes(coupling) == {"a": 8, "b": 8}
    assert "would all go with it" in frozen(coupling)["gate"]


def test_a_part_of_a_group_norm_goes_as_a_whole() -> None:
    (group,) = analysed(lambda m, x: F.group_norm(x, 4)).groups
    assert (group.name, group.size, group.width) == ("a", 4, 2)


def test_pixels_of_a_shuffle_go_together() -> None:
    coupling = analysed(lambda m, x: F.pixel_shuffle(x, 2))
    (group,) = coupling.groups
    assert (group.name, group.size, group.width) == ("a", 2, 4)
    assert coupling.vectors[coupling.tensor_axes["a.weight", 0]].reshape(2, 4).std(axis=1).tolist() == [0, 0]


def test_a_gated_unit_is_a_channel_of_two_halves() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 32), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            gate, value = self.up(x).chunk(2, -1)
            out: Tensor = self.down(F.silu(gate) * value)
            return out

    (group,) = analyse(export_images(Gated(), 4).graph).groups
    assert (group.name, group.kind, group.size, group.width) == ("up", "channels", 16, 2)


def test_halves_of_one_layer_are_groups_of_their_own_names() -> None:
    coupling = analysed(lambda m, x: torch.cat([part.relu() for part in x.chunk(2, 1)[::-1]], 1))
    assert sizes(coupling) == {"a": 4, "a#2": 4}


def test_a_layer_called_twice_reads_and_makes_the_same_units() -> None:
    coupling = analysed(lambda m, x: m.b(m.b(x).relu()))
    assert sizes(coupling) == {"a": 8}
    assert {"b.weight:0", "b.weight:1"} <= set(coupling.group("a").members)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: x[:, ::2].relu(), "counts along them"),
        (lambda m, x: x[:, 3].relu(), "counts along them"),
        (lambda m, x: x.unbind(1)[0] * x.unbind(1)[1], "counts along them"),
        (lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 2), mode="circular"), "circular"),
        (lambda m, x: x.softmax(1), "softmax"),
        (lambda m, x: x.mean(1), "mean over them"),
        (lambda m, x: x + torch.arange(8).view(8, 1, 1), "cannot shrink"),
        (lambda m, x: x.relu() * m.a.weight.mean((0, 1, 2, 3)), "a.weight is also used"),
        (lambda m, x: F.avg_pool2d(x.transpose(1, 2), 2), "needs whole slices"),
        (lambda m, x: F.group_norm(x, 1), "group norm"),
        (lambda m, x: F.normalize(x, dim=1), "takes the norm over them"),
        (lambda m, x: torch.cat(F.group_norm(x, 2).chunk(2, 1)[::-1], 1), "its 4 channels can only"),
    ],
    ids=[
        "strided slice", "select", "unbind", "padding by copies", "softmax", "mean", "constants",
        "a weight used as a value", "channels in the place of rows", "group norm of one part",
        "length of a vector", "parts that would be empty",
    ],
)  # fmt: skip
def test_units_that_cannot_go_are_frozen_with_the_reason(
    body: Callable[[Body, Tensor], Tensor], reason: str
) -> None:
    coupling = analysed(body)
    assert "a" not in sizes(coupling)
    assert reason in frozen(coupling)["a"]


def test_an_embedding_that_is_tied_to_a_layer_keeps_its_vocabulary() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(16, 6)
            self.up = nn.Linear(6, 16, bias=False)
            self.up.weight = self.embedding.weight
            self.head = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            index = torch.zeros_like(x).to(torch.int64)
            out: Tensor = self.head(self.up(self.embedding(index)).relu())
            return out

    coupling = analyse(export_images(Tied(), 5).graph)
    assert sizes(coupling) == {"up": 6}
    assert frozen(coupling)["up"] == "up.weight is also used where units cannot go"


def test_a_weight_computed_from_others_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOpError, match="computes its 'weight'"):
        analysed(lambda m, x: F.conv2d(x, m.b.weight * 2))


def test_an_unknown_group_is_answered_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"did you mean 'layer2.0.conv2'"):
        coupled("resnet_pad").group("layer2.0.convv2")


@pytest.mark.parametrize("units", [[], [-1], [8]])
def test_units_out_of_range_are_refused(units: list[int]) -> None:
    with pytest.raises(RequestError, match="allowed: some of 0 to 7"):
        coupled("resnet_pad").alive({"conv1": np.array(units, dtype=np.int64)})


def test_a_refused_group_is_frozen_under_its_name() -> None:
    coupling = coupled("vgg_flatten").without({"features.3": "we say so"})
    assert sizes(coupling) == {"features.0": 12, "classifier.0": 48}
    assert Frozen(name="features.3", size=24, reason="we say so") in coupling.frozen


def test_the_space_steps_by_what_the_device_likes_and_heads_by_one() -> None:
    space = coupled("vit").space(step=8, lowest_keep=0.25)
    assert [(axis.name, axis.step, axis.lowest) for axis in space.axes] == [
        ("blocks.0.attn.qkv", 1, 1),
        ("blocks.0.attn.qkv.width", 4, 4),
        ("blocks.0.mlp.0", 8, 16),
        ("blocks.1.attn.qkv", 1, 1),
        ("blocks.1.attn.qkv.width", 4, 4),
        ("blocks.1.mlp.0", 8, 16),
    ]


def test_a_group_of_less_than_two_steps_still_has_a_choice() -> None:
    space = coupled("resnet_pad").space(step=16)
    assert [axis.step for axis in space.axes if axis.size == 8] == [4, 4, 4, 4]


def test_a_step_beyond_all_groups_is_not_counted_up_to() -> None:
    space = coupled("resnet_pad").space(step=2**62)
    assert {axis.step for axis in space.axes if axis.size == 8} == {4}


def test_evenly_kept_units_are_distinct_and_as_many_as_asked_for() -> None:
    coupling = coupled("vgg_flatten")
    kept = even_kept(coupling, Candidate((1, 17, 48)))
    assert [len(np.unique(kept[group.name])) for group in coupling.groups] == [1, 17, 48]
