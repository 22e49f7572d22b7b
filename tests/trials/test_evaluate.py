"""Scores against closed forms, and what an evaluation must leave as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwprofiles.errors import RequestError, TrialError
from tests.bundles import exported
from tests.models import build
from trials.answers import score
from trials.data import Split
from trials.evaluate import RISK, Batches, Execution, Judge, evaluate, evaluating, hopeless, logits


def random_split(rows: int, shape: tuple[int, ...] = (3, 16, 16)) -> Split:
    generator = np.random.default_rng(0)
    images = generator.standard_normal((rows, *shape)).astype(np.float32)
    return Split((images,), generator.integers(0, 10, rows))


class Echo(nn.Module):
    """Gives its input back, so that a test writes the logits it wants."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def echo_split(outputs: list[list[float]], labels: list[int]) -> Split:
    return Split((np.array(outputs, dtype=np.float32),), np.array(labels))


class TestScore:
    def test_counts_right_answers_in_all_and_per_class(self) -> None:
        split = echo_split([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], [0, 1, 1, 0])
        scored = evaluate(Echo(), split)
        assert scored.accuracy == 0.75
        assert scored.class_accuracy == (1.0, 0.5, 0.0)
        assert scored.images == 4

    def test_loss_of_equal_outputs_is_the_logarithm_of_the_classes(self) -> None:
        assert evaluate(Echo(), echo_split([[0.0] * 8] * 3, [0, 5, 7])).loss == pytest.approx(math.log(8))

    def test_divergence_of_a_coin_from_a_loaded_one_is_known(self) -> None:
        loaded = torch.tensor([[math.log(3.0), 0.0]])  # 3 : 1
        coin = torch.zeros(1, 2)
        expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
        assert score(coin, torch.tensor([0]), loaded).divergence == pytest.approx(expected)

    @given(shift=st.floats(-20, 20))
    def test_divergence_from_itself_is_nothing_and_ignores_a_common_shift(self, shift: float) -> None:
        outputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
        labels = torch.zeros(7, dtype=torch.int64)
        assert score(outputs + shift, labels, outputs).divergence == pytest.approx(0, abs=1e-5)

    @given(rows=st.integers(1, 400), data=st.data())
    def test_the_error_is_the_binomial_one_and_never_claims_certainty(
        self, rows: int, data: st.DataObject
    ) -> None:
        right = data.draw(st.integers(0, rows))
        outputs = F.one_hot((torch.arange(rows) >= right).long(), 2).float()
        scored = score(outputs, torch.zeros(rows, dtype=torch.int64))
        assert scored.accuracy_error > 0
        binomial = math.sqrt(scored.accuracy * (1 - scored.accuracy) / rows)
        assert scored.accuracy_error == pytest.approx(binomial, abs=1 / math.sqrt(2) / rows)


class TestEvaluate:
    def test_batches_do_not_change_the_outputs(self) -> None:
        model, split = build("resnet_pad"), random_split(10)
        torch.testing.assert_close(logits(model, split, batch_size=3), logits(model, split, batch_size=10))

    def test_dropout_and_batch_statistics_are_off_and_modes_come_back(self) -> None:
        model, split = build("mobilenet_v2"), random_split(6)
        expected = logits(model, split)
        model.train()
        frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        frozen.eval()
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        torch.testing.assert_close(logits(model, split), expected)
        assert model.training
        assert not frozen.training
        for name, value in model.named_buffers():
            torch.testing.assert_close(value, buffers[name])

    def test_modes_come_back_after_a_failure(self) -> None:
        model = build("resnet_pad").train()
        with pytest.raises(KeyError), evaluating(model):
            raise KeyError
        assert all(module.training for module in model.modules())

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_outputs_that_are_no_numbers_fail_the_trial(self, broken: float) -> None:
        with pytest.raises(TrialError, match="outputs for 1 of 2 examples are NaN or infinite"):
            evaluate(Echo(), echo_split([[1, 0], [broken, 0]], [0, 0]))

    def test_a_model_that_gives_maps_is_no_classifier(self) -> None:
        with pytest.raises(RequestError, match=r"gives \(2, 3, 16, 16\)"):
            evaluate(Echo(), random_split(2))

    def test_tokens_reach_a_text_model_as_integers(self) -> None:
        tokens = np.random.default_rng(0).integers(0, 64, (4, 16)).astype(np.int32)
        assert logits(build("bert"), Split((tokens,), np.arange(4))).shape == (4, 10)


class TestExecution:
    @pytest.mark.parametrize("execution", Execution)
    def test_every_way_agrees_with_exact_float32(self, execution: Execution) -> None:
        model, split = build("resnet_projection"), random_split(16)
        outputs = logits(model, split, execution=execution)
        torch.testing.assert_close(outputs, logits(model, split), atol=0.05, rtol=0.05)


class TestJudge:
    def test_says_of_many_models_what_an_evaluation_says_of_one(self) -> None:
        network, split = exported("resnet_pad").network(), random_split(20)
        other = exported("resnet_pad").network()
        with torch.no_grad():
            other.get_parameter("linear.weight").mul_(-1)
        judge = Judge(split, network, batch_size=6)
        assert judge(other) == judge(other)
        assert judge(network).divergence == pytest.approx(0, abs=1e-6)
        found, alone = judge(other), evaluate(other, split)
        assert found.accuracy == alone.accuracy
        assert found.loss == pytest.approx(alone.loss, rel=1e-5)
        assert found.changes is not None
        assert found.divergence > 0.01

    def test_images_are_held_only_where_all_of_them_fit(self) -> None:
        split = random_split(10)
        fits = sum(values.size for values in split.inputs) * 4
        for held_bytes, kept in ((fits, True), (fits - 1, False)):
            batches = Batches(split, Execution.FLOAT32, 4, held_bytes)
            assert [len(batch[0]) for batch in batches] == [4, 4, 2]
            assert (batches[1][0] is batches[1][0]) == kept
            torch.testing.assert_close(batches[1][0], torch.from_numpy(split.inputs[0][4:8]))

    def test_a_model_without_hope_is_left_early_and_any_other_seen_to_the_end(self) -> None:
        rows = 2000
        split = echo_split(
            [[0.0, 1.0]] * rows, [0] * (rows // 2) + [1] * (rows // 2)
        )  # right by half, in order
        judge = Judge(split, batch_size=100)
        assert judge(Echo(), needed=0.9).images < 300
        assert abs(judge(Echo(), needed=0.9).accuracy - 0.5) < 0.15
        for needed in (0.0, 0.45, 0.5):
            assert judge(Echo(), needed=needed).images == rows

    def test_what_cannot_be_reached_even_with_all_others_right_is_certain(self) -> None:
        assert hopeless(0, 2, of=10, needed=0.81, risk=1e-300)
        assert not hopeless(0, 2, of=10, needed=0.8, risk=1e-300)

    @settings(max_examples=20)
    @given(accuracy=st.floats(0.3, 0.99), seed=st.integers(0, 10**6))
    def test_a_model_as_good_as_needed_is_hardly_ever_called_hopeless(
        self, accuracy: float, seed: int
    ) -> None:
        """500 orders of the images of a model that is just good enough, looked at ten times each."""
        images, looks = 1000, 10
        right = round(accuracy * images)
        order = np.random.default_rng(seed).permuted(np.tile(np.arange(images) < right, (500, 1)), axis=1)
        seen = np.cumsum(order, axis=1)[:, images // looks - 1 :: images // looks]
        given_up = sum(
            any(
                hopeless(
                    int(count),
                    (look + 1) * images // looks,
                    of=images,
                    needed=right / images,
                    risk=RISK / looks,
                )
                for look, count in enumerate(counts)
            )
            for counts in seen
        )
        assert given_up <= 500 * RISK * 3
