"""Criteria against numbers worked out by hand, and what must not change when units only change places."""

from __future__ import annotations

from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwprofiles.errors import RequestError
from search.job import Search
from tests.bundles import coupled, export_images, exported
from tests.models import CLASSES, example_input
from trials.candidate import Candidate
from trials.criteria import CRITERIA, Evidence, Scores, score, select
from trials.criteria.evidence import Tensors
from trials.data import Split
from trials.groups import Coupling, analyse
from trials.units import Group

INPUT = torch.tensor([[1.0, 2.0]])
LABEL = torch.tensor([0])
NOTHING = Split((), np.zeros(1, dtype=np.int64))
"""For criteria that look at weights alone."""


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


BY_HAND: dict[str, list[float]] = {
    "l1": [1.0, 0.5, 1.5],
    "l2": [1.0, 0.5, 1.25**0.5],
    # The weights of the units lie 1.25**0.5, 0.5 and 1 from each other.
    "geometric_median": [1.25**0.5 + 0.5, 1.25**0.5 + 1, 1.5],
    # The squares are 1 twice, and 0.25 twice; those at least as large add up to 2, and to 2.5.
    "lamp": [1 / 2, 0.25 / 2.5, 1 / 2 + 0.25 / 2.5],
    "taylor": [1, 4, 9],
    # The gradients of weights and bias are (1, 2, 1) for two units, and less that for the third.
    "fisher": [1 / 2, (0.25 * 4 + 1) / 2, (1 + 0.25 * 4 + 1) / 2],
    "activation": [1, 2, 3],
    "apoz": [1, 1, 1],
    "relevance": [0, 0, 1],
}


def perceived(
    criterion: str, coupling: Coupling, tensors: Tensors, inputs: torch.Tensor = INPUT, labels: object = LABEL
) -> np.ndarray:
    """Scores of the hidden units of a perceptron."""
    evidence = Evidence(coupling, tensors, Split((inputs.numpy(),), np.asarray(labels)))
    return score(criterion, evidence)["body"]


@pytest.mark.parametrize(("criterion", "expected"), BY_HAND.items())
def test_scores_are_those_worked_out_by_hand(
    coupling: Coupling, tensors: Tensors, criterion: str, expected: list[float]
) -> None:
    np.testing.assert_allclose(perceived(criterion, coupling, tensors), expected, rtol=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_unit_of_a_frozen_layer_is_worth_what_it_is_elsewhere(coupling: Coupling, criterion: str) -> None:
    if criterion == "batchnorm":
        pytest.skip("a perceptron has none")
    model = Perceptron()
    model.body.requires_grad_(False)
    frozen = analyse(export_images(model, 2).graph)
    found, wanted = (perceived(criterion, each, model.state_dict()) for each in (frozen, coupling))
    np.testing.assert_array_equal(found, wanted)


def test_taylor_averages_within_batches_of_64_and_adds_squares_over_them(
    coupling: Coupling, tensors: Tensors
) -> None:
    def scores(labels: list[int]) -> np.ndarray:
        return perceived("taylor", coupling, tensors, INPUT.expand(len(labels), 2), labels)

    alike = np.array([1, 4, 9])
    np.testing.assert_allclose(scores([0] * 64), alike, rtol=1e-5)
    np.testing.assert_allclose(scores([0] * 65), 2 * alike, rtol=1e-5)
    # Either label pulls just as hard the other way: within a batch they cancel, over batches they do not.
    np.testing.assert_allclose(scores([0, 1] * 32), 0 * alike, atol=1e-9)
    np.testing.assert_allclose(scores([0] * 64 + [1] * 64), 2 * alike, rtol=1e-5)


def test_fisher_squares_the_gradients_of_single_examples_and_averages(
    coupling: Coupling, tensors: Tensors
) -> None:
    found = perceived("fisher", coupling, tensors, INPUT.expand(4, 2), [0, 1, 0, 1])
    np.testing.assert_allclose(found, BY_HAND["fisher"], rtol=1e-5)


def test_activations_are_averaged_over_examples(coupling: Coupling, tensors: Tensors) -> None:
    """Where the inputs are less than nothing no unit fires."""
    both = torch.cat([INPUT, -10 * INPUT])
    np.testing.assert_allclose(perceived("activation", coupling, tensors, both, [0, 0]), [0.5, 1, 1.5])
    np.testing.assert_allclose(perceived("apoz", coupling, tensors, both, [0, 0]), [0.5, 0.5, 0.5])


def test_relevance_goes_to_what_speaks_for_the_class_in_proportion(
    coupling: Coupling, tensors: Tensors
) -> None:
    found = perceived("relevance", coupling, tensors, INPUT.expand(2, 2), [0, 1])
    np.testing.assert_allclose(found, [2 / 6, 4 / 6, 1], rtol=1e-5)


def test_no_relevance_is_lost_or_made_on_the_way_through_pools_norms_and_activations() -> None:
    scores = score("relevance", evidence_of("vgg_flatten"))
    np.testing.assert_allclose(scores["classifier.0"].sum(), ROWS, rtol=1e-4)
    np.testing.assert_allclose(scores["features.3"].sum(), ROWS, rtol=1e-4)
    np.testing.assert_allclose(scores["features.0"].sum(), ROWS, rtol=1e-2)  # some is a bias's
    for group, found in scores.items():
        assert (found >= 0).all(), group


class Meeting(nn.Module):
    """The hidden units of a perceptron with a second layer on them, and how the two meet."""

    def __init__(self, meet: str) -> None:
        super().__init__()
        lower = Perceptron()
        self.body, self.head, self.meet = lower.body, lower.head, meet
        self.inner = nn.Linear(3, 3, bias=False)
        self.inner.weight = nn.Parameter(torch.diag(torch.tensor([1.0, 0.0, -1.0])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lower = self.body(x).relu()
        upper = self.inner(lower).relu()
        logits: torch.Tensor = self.head(lower + upper if self.meet == "sum" else lower * upper)
        return logits


@pytest.mark.parametrize(
    ("meet", "expected"), [("sum", [0.5 + 0.5, 0.5 + 0.5, 0]), ("product", [1 + 1, 0, 0])]
)
def test_relevance_is_shared_where_values_meet(meet: str, expected: list[float]) -> None:
    """The values are (1, 2, 3) and (1, 0, 0), and the second class reads the first two in equal parts.

    Of the sum (2, 2, 3) both units get a half, and hand it back to the lower ones, one of them by two ways.
    Only the first has a product that is not zero. Scores add up what both readers of a unit find.
    """
    model = Meeting(meet)
    bundle = export_images(model, 2)
    evidence = Evidence(analyse(bundle.graph), bundle.tensors, Split((INPUT.numpy(),), np.array([1])))
    np.testing.assert_allclose(score("relevance", evidence)["body"], expected, rtol=0.02)


def test_batch_norms_are_read_where_there_are_some_and_weights_elsewhere() -> None:
    coupling, tensors = coupled("vgg_flatten"), dict(exported("vgg_flatten").tensors)
    tensors["features.4.weight"] = torch.arange(-12.0, 12.0)
    found = score("batchnorm", Evidence(coupling, tensors, NOTHING))
    np.testing.assert_array_equal(found["features.3"], np.abs(np.arange(-12, 12)))
    weights = score("l1", Evidence(coupling, tensors, NOTHING))
    np.testing.assert_array_equal(found["classifier.0"], weights["classifier.0"])


def test_a_model_without_batch_norms_has_no_scales_to_read(coupling: Coupling, tensors: Tensors) -> None:
    with pytest.raises(RequestError, match="no group of this model passes one; choose another, such as 'l1'"):
        perceived("batchnorm", coupling, tensors)


def test_lots_follow_from_the_seed_and_from_nothing_else(coupling: Coupling, tensors: Tensors) -> None:
    first, again, other = (
        score("random", Evidence(coupling, {}, NOTHING, seed=seed))["body"] for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).all()


def test_a_unit_that_never_fires_is_worth_nothing_to_those_who_look(
    coupling: Coupling, tensors: dict[str, torch.Tensor]
) -> None:
    tensors["body.bias"] = torch.tensor([0.0, -100.0, 1.0])
    for criterion in ("taylor", "fisher", "activation", "apoz", "relevance"):
        assert perceived(criterion, coupling, tensors)[1] == 0, criterion
    assert perceived("l1", coupling, tensors)[1] == 0.5


GROW = ("l1", "l2", "geometric_median", "activation")
"""With the weights that make units; the others do not, as long as what reads the units shrinks as much."""


@settings(max_examples=10)
@given(scale=st.floats(0.1, 10))
def test_a_layer_scaled_up_and_read_scaled_down_grows_in_size_alone(coupling: Coupling, scale: float) -> None:
    before = Perceptron().state_dict()
    after = {
        "body.weight": before["body.weight"] * scale,
        "body.bias": before["body.bias"] * scale,
        "head.weight": before["head.weight"] / scale,
    }
    for criterion, expected in BY_HAND.items():
        factor = scale if criterion in GROW else 1
        found = perceived(criterion, coupling, after)
        np.testing.assert_allclose(
            found, factor * np.array(expected), rtol=1e-4, atol=1e-6, err_msg=criterion
        )


ROWS = 4


def evidence_of(name: str, tensors: Tensors | None = None) -> Evidence:
    examples = Split((example_input(name, batch=ROWS).numpy(),), np.arange(ROWS) % CLASSES)
    return Evidence(coupled(name), exported(name).tensors if tensors is None else tensors, examples)


@cache
def scores_of(name: str, criterion: str) -> Scores:
    return score(criterion, evidence_of(name))


def permuted(coupling: Coupling, tensors: Tensors, group: Group, order: np.ndarray) -> Tensors:
    """The same model with the units of a group in another order, in every tensor that has them."""
    changed = dict(tensors)
    for (name, axis), vector in coupling.tensor_axes.items():
        classes = coupling.vectors[vector]
        places = [np.flatnonzero((classes == unit).any(0)) for unit in group.units]
        index = np.arange(classes.shape[1])
        for unit, source in enumerate(order):
            index[places[unit]] = places[source]
        changed[name] = changed[name].index_select(axis, torch.from_numpy(index))
    return changed


def test_by_error_a_unit_with_a_twin_goes_before_the_smallest(coupling: Coupling, tensors: Tensors) -> None:
    twins = torch.tensor([[1.0, 0.5], [1.0, 0.5], [0.0, 0.25]])
    tensors = {**tensors, "body.weight": twins, "body.bias": torch.ones(3)}
    inputs = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    assert perceived("l1", coupling, tensors).argmin() == 2
    found = perceived("error", coupling, tensors, inputs, [0] * 100)
    assert sorted(found) == [0, 1, 2]
    assert found.argmin() in (0, 1)


EQUIVARIANT = [name for name in CRITERIA if name not in ("random", "error")]
"""In an order by error units that are missed alike go as they come."""


@pytest.mark.parametrize("name", ["resnet_pad", "vgg_flatten", "vit_mha"])
@settings(max_examples=3)
@given(data=st.data())
def test_units_in_another_order_have_their_scores_in_that_order(name: str, data: st.DataObject) -> None:
    coupling = coupled(name)
    group = data.draw(st.sampled_from(coupling.groups))
    order = np.array(data.draw(st.permutations(range(group.size))))
    changed = evidence_of(name, permuted(coupling, exported(name).tensors, group, order))
    for criterion in (
        EQUIVARIANT if name != "vit_mha" else [each for each in EQUIVARIANT if each != "batchnorm"]
    ):
        before, after = scores_of(name, criterion), score(criterion, changed)
        for other in coupling.groups:
            expected = before[other.name][order] if other is group else before[other.name]
            np.testing.assert_allclose(
                after[other.name], expected, rtol=1e-3, atol=1e-6 * abs(expected).max(), err_msg=criterion
            )


def test_a_head_is_worth_its_rows_of_queries_keys_and_values() -> None:
    rows = exported("vit").tensors["blocks.0.attn.qkv.weight"].abs().reshape(3, 4, 8, 32)
    expected = rows.sum(dim=(0, 2, 3)).numpy()
    np.testing.assert_allclose(scores_of("vit", "l1")["blocks.0.attn.qkv"], expected, rtol=1e-5)


def test_all_layers_that_make_a_residual_stream_count_for_its_channels() -> None:
    tensors = exported("resnet_projection").tensors
    makers = ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    expected = sum(tensors[f"{name}.weight"].abs().sum(dim=(1, 2, 3)) for name in makers)
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_allclose(scores_of("resnet_projection", "l1")["conv1"], expected.numpy(), rtol=1e-5)


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
        perceived("tailor", coupling, tensors)


def test_a_job_may_name_every_criterion() -> None:
    assert get_args(Search.model_fields["criterion"].annotation) == tuple(CRITERIA)
