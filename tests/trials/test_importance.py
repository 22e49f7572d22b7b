"""Criteria against gradients done by hand, and what must not change when units only change places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwprofiles.errors import RequestError
from tests.bundles import coupled, export_images, exported
from tests.models import CLASSES, example_input
from trials.candidate import Candidate
from trials.groups import Coupling, Group, analyse
from trials.importance import Tensors, l1, score, select, taylor

INPUT = (torch.tensor([[1.0, 2.0]]),)
LABEL = torch.tensor([0])


class Perceptron(nn.Module):
    """Three hidden units that are (1, 2, 3) on `INPUT`, read so that both classes get a logit of 6.

    There the loss falls by (1, 1, -1) a step of the hidden units, so zeroing them changes it by (1, 2, -3) to
    first order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 3), nn.Linear(3, 2, bias=False)
        self.load_state_dict(
            {
                "body.weight": torch.tensor([[1.0, 0.0], [0.0, 0.5], [1.0, 0.5]]),
                "body.bias": torch.tensor([0.0, 1.0, 1.0]),
                "head.weight": torch.tensor([[0.0, 0.0, 2.0], [2.0, 2.0, 0.0]]),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).relu())
        return logits


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    return analyse(export_images(Perceptron(), 2).graph)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return dict(Perceptron().state_dict())


def test_l1_adds_up_the_weights_that_make_a_unit_and_no_bias(coupling: Coupling, tensors: Tensors) -> None:
    np.testing.assert_array_equal(l1(coupling, tensors)["body"], [1.0, 0.5, 1.5])


def test_taylor_is_the_squared_first_order_change_of_the_loss(coupling: Coupling, tensors: Tensors) -> None:
    np.testing.assert_allclose(taylor(coupling, tensors, INPUT, LABEL)["body"], [1, 4, 9], rtol=1e-6)


def test_taylor_averages_within_batches_of_64_and_adds_squares_over_them(
    coupling: Coupling, tensors: Tensors
) -> None:
    def scores(labels: list[int]) -> np.ndarray:
        inputs = INPUT[0].expand(len(labels), 2)
        return taylor(coupling, tensors, (inputs,), torch.tensor(labels))["body"]

    alike = np.array([1, 4, 9])
    np.testing.assert_allclose(scores([0] * 64), alike, rtol=1e-5)
    np.testing.assert_allclose(scores([0] * 65), 2 * alike, rtol=1e-5)
    # Either label pulls just as hard the other way: within a batch they cancel, over batches they do not.
    np.testing.assert_allclose(scores([0, 1] * 32), 0 * alike, atol=1e-9)
    np.testing.assert_allclose(scores([0] * 64 + [1] * 64), 2 * alike, rtol=1e-5)


def test_a_unit_that_never_fires_is_worth_nothing_to_taylor_whatever_its_weights(
    coupling: Coupling, tensors: dict[str, torch.Tensor]
) -> None:
    tensors["body.bias"] = torch.tensor([0.0, -100.0, 1.0])
    assert taylor(coupling, tensors, INPUT, LABEL)["body"][1] == 0 < l1(coupling, tensors)["body"][1]


@settings(max_examples=20)
@given(scale=st.floats(0.1, 10))
def test_a_unit_scaled_up_and_read_scaled_down_scales_l1_and_leaves_taylor(
    coupling: Coupling, scale: float
) -> None:
    before, scales = Perceptron().state_dict(), torch.tensor([1.0, scale, 1.0])
    after = {
        "body.weight": before["body.weight"] * scales[:, None],
        "body.bias": before["body.bias"] * scales,
        "head.weight": before["head.weight"] / scales,
    }
    np.testing.assert_allclose(l1(coupling, after)["body"], [1, 0.5 * scale, 1.5], rtol=1e-5)
    np.testing.assert_allclose(taylor(coupling, after, INPUT, LABEL)["body"], [1, 4, 9], rtol=1e-4)


def permuted(coupling: Coupling, tensors: Tensors, group: Group, order: np.ndarray) -> Tensors:
    """The same model with the units of a group in another order, in every tensor that has them."""
    changed = dict(tensors)
    for (name, axis), vector in coupling.tensor_axes.items():
        places = [np.flatnonzero(coupling.vectors[vector] == unit) for unit in group.units]
        index = np.arange(len(coupling.vectors[vector]))
        for unit, source in enumerate(order):
            index[places[unit]] = places[source]
        changed[name] = changed[name].index_select(axis, torch.from_numpy(index))
    return changed


@pytest.mark.parametrize("name", ["resnet_pad", "vgg_flatten", "vit"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_units_in_another_order_have_their_scores_in_that_order(name: str, data: st.DataObject) -> None:
    coupling, tensors = coupled(name), exported(name).tensors
    group = data.draw(st.sampled_from(coupling.groups))
    order = np.array(data.draw(st.permutations(range(group.size))))
    changed = permuted(coupling, tensors, group, order)
    inputs, labels = (example_input(name, batch=8),), torch.arange(8) % CLASSES
    for criterion in ("l1", "taylor"):
        before = score(criterion, coupling, tensors, inputs, labels)
        after = score(criterion, coupling, changed, inputs, labels)
        for other in coupling.groups:
            expected = before[other.name][order] if other is group else before[other.name]
            np.testing.assert_allclose(after[other.name], expected, rtol=1e-3, atol=1e-7)


def test_a_head_is_worth_its_rows_of_queries_keys_and_values() -> None:
    coupling, tensors = coupled("vit"), exported("vit").tensors
    rows = tensors["blocks.0.attn.qkv.weight"].abs().reshape(3, 4, 8, 32)
    expected = rows.sum(dim=(0, 2, 3)).numpy()
    np.testing.assert_allclose(l1(coupling, tensors)["blocks.0.attn.qkv"], expected, rtol=1e-5)


def test_all_layers_that_make_a_residual_stream_count_for_its_channels() -> None:
    coupling, tensors = coupled("resnet_projection"), exported("resnet_projection").tensors
    makers = ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    expected = sum(tensors[f"{name}.weight"].abs().sum(dim=(1, 2, 3)) for name in makers)
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_allclose(l1(coupling, tensors)["conv1"], expected.numpy(), rtol=1e-5)


def test_the_lowest_scored_units_go_and_of_equal_ones_the_last() -> None:
    coupling = coupled("vgg_flatten")
    scores = {group.name: np.zeros(group.size) for group in coupling.groups}
    scores["features.0"][[3, 7]] = 1.0
    kept = select(coupling, scores, Candidate((4, 24, 47)))
    assert list(kept["features.0"]) == [0, 1, 3, 7]
    assert "features.3" not in kept, "a whole group is left out"
    assert list(kept["classifier.0"]) == list(range(47))


@settings(max_examples=30)
@given(data=st.data())
def test_no_unit_that_goes_is_worth_more_than_one_that_stays(data: st.DataObject) -> None:
    coupling = coupled("vgg_flatten")
    worth = st.integers(0, 3).map(float)
    scores = {
        group.name: np.array(data.draw(st.lists(worth, min_size=group.size, max_size=group.size)))
        for group in coupling.groups
    }
    counts = tuple(data.draw(st.integers(1, group.size)) for group in coupling.groups)
    kept = select(coupling, scores, Candidate(counts))
    for group, count in zip(coupling.groups, counts, strict=True):
        stay = kept.get(group.name, np.arange(group.size))
        assert len(stay) == count
        assert (np.diff(stay) > 0).all()
        gone = np.delete(scores[group.name], stay)
        assert not len(gone) or gone.max() <= scores[group.name][stay].min()


def test_an_unknown_criterion_is_refused_with_the_nearest(coupling: Coupling, tensors: Tensors) -> None:
    with pytest.raises(RequestError, match="did you mean 'taylor'"):
        score("tailor", coupling, tensors, INPUT, LABEL)
