"""Fine-tuning learns, repeats itself, and stops at the first number that is none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hwprofiles.errors import InvariantError, RequestError, TrialError
from tests.models import build
from trials.data import DataSpec, Split, load
from trials.evaluate import evaluate, logits
from trials.finetune import Augment, _schedule, _shuffled, augmented, finetune


class SmallNet(nn.Module):
    """A network for the digits with a norm, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        logits: Tensor = self.linear(self.dropout(x.flatten(1)))
        return logits


def small_net(seed: int = 0) -> SmallNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallNet()


@pytest.fixture(scope="module")
def train() -> Split:
    return load(DataSpec("digits"), Path(), seed=0).train


@pytest.fixture(scope="module")
def validation() -> Split:
    return load(DataSpec("digits"), Path(), seed=0).validation


def test_a_network_learns_the_digits(train: Split, validation: Split) -> None:
    model = small_net()
    result = finetune(model, train, steps=100, seed=0, batch_size=64, learning_rate=0.05)
    assert len(result.losses) == 100
    assert np.mean(result.losses[-10:]) < 0.3 < result.losses[0]
    assert evaluate(model, validation).accuracy > 0.9
    assert not model.training


def test_one_seed_gives_one_network_whatever_the_global_generator_holds(train: Split) -> None:
    first, second, other = small_net(), small_net(), small_net()
    state = torch.get_rng_state()
    finetune(first, train, steps=5, seed=7, augment=Augment.SHIFT)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    finetune(second, train, steps=5, seed=7, augment=Augment.SHIFT)
    finetune(other, train, steps=5, seed=8, augment=Augment.SHIFT)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_a_teacher_without_labels_is_imitated(train: Split, validation: Split) -> None:
    """Labels are shuffled away; all that the pupil can learn comes from the teacher."""
    teacher = small_net(seed=1)
    finetune(teacher, train, steps=100, seed=0, batch_size=64, learning_rate=0.05)
    unlabelled = Split(train.inputs, np.zeros_like(train.labels))
    by_logits, by_model = small_net(), small_net()
    recipe: dict[str, Any] = {
        "steps": 100,
        "seed": 0,
        "batch_size": 64,
        "learning_rate": 0.01,
        "distill": 1.0,
    }
    finetune(by_logits, unlabelled, teacher=logits(teacher, train), **recipe)
    finetune(by_model, unlabelled, teacher=teacher, **recipe)
    for pupil in (by_logits, by_model):
        assert evaluate(pupil, validation).accuracy > 0.9
    for name, value in by_logits.state_dict().items():
        torch.testing.assert_close(value, by_model.state_dict()[name], atol=1e-3, rtol=1e-3)


def test_a_perfect_pupil_of_its_own_teacher_has_no_loss(train: Split) -> None:
    model = build("resnet_pad")
    images = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None
    split = Split((images,), np.arange(8))
    result = finetune(model, split, steps=1, seed=0, batch_size=8, distill=1.0, teacher=copy.deepcopy(model))
    assert result.losses[0] == pytest.approx(0, abs=1e-5)


def test_no_steps_change_nothing(train: Split) -> None:
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    assert finetune(model, train, steps=0, seed=0).losses == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_frozen_parameter_stays(train: Split) -> None:
    model = small_net()
    model.conv.weight.requires_grad_(False)
    before = model.conv.weight.clone()
    finetune(model, train, steps=2, seed=0)
    assert torch.equal(model.conv.weight, before)


def test_weight_decay_leaves_norms_and_biases_alone(train: Split) -> None:
    """With a teacher that equals the outputs by construction the only force is decay."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    linear = model[1]
    assert isinstance(linear, nn.Linear)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    finetune(model, train, steps=1, seed=0, learning_rate=1.0, distill=1.0, teacher=copy.deepcopy(model))
    torch.testing.assert_close(linear.bias, bias, atol=1e-5, rtol=0)
    shrink = 1 - 1.9 * 5e-4  # Nesterov's first step: gradient times (1 + momentum)
    torch.testing.assert_close(linear.weight, weight * shrink, atol=1e-5, rtol=0)


def test_a_loss_that_is_no_number_ends_the_trial_at_its_step(train: Split) -> None:
    with pytest.raises(TrialError, match=r"became (nan|inf) at step \d+ of 50 with learning rate 1e\+20"):
        finetune(small_net(), train, steps=50, seed=0, learning_rate=1e20)


def test_progress_counts_the_steps(train: Split) -> None:
    seen: list[tuple[int, float]] = []
    result = finetune(small_net(), train, steps=3, seed=0, progress=lambda *step: seen.append(step))
    assert seen == list(zip((1, 2, 3), result.losses, strict=True))


def test_distillation_without_a_teacher_is_our_bug(train: Split) -> None:
    with pytest.raises(InvariantError, match="without a teacher"):
        finetune(small_net(), train, steps=1, seed=0, distill=0.5)


class TestAugmentation:
    images = np.random.default_rng(0).standard_normal((50, 2, 16, 16)).astype(np.float32)

    @pytest.mark.parametrize("augment", [Augment.SHIFT, Augment.SHIFT_FLIP])
    def test_gives_windows_of_the_padded_image(self, augment: Augment) -> None:
        ((*shifted,),) = augmented((self.images,), augment, np.random.default_rng(1))
        mirrored = 0
        for image, result in zip(self.images, shifted, strict=True):
            padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
            windows = [padded[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
            plain = any(np.array_equal(window, result) for window in windows)
            mirrored += not plain
            assert plain or any(np.array_equal(window[..., ::-1], result) for window in windows)
        assert (mirrored > 10) == (augment is Augment.SHIFT_FLIP)

    def test_none_is_none(self) -> None:
        assert augmented((self.images,), Augment.NONE, np.random.default_rng(0))[0] is self.images

    def test_of_what_is_no_image_is_refused(self) -> None:
        with pytest.raises(RequestError, match=r"an input has shape \(5,\)"):
            augmented((np.zeros((2, 5)),), Augment.SHIFT, np.random.default_rng(0))


@given(steps=st.integers(1, 500))
def test_the_schedule_rises_to_its_peak_and_falls_towards_zero(steps: int) -> None:
    rates = [_schedule(step, steps) for step in range(steps)]
    peak = int(np.argmax(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak <= 0.06 * steps


@given(count=st.integers(1, 50), batch_size=st.integers(1, 60), seed=st.integers(0, 5))
def test_an_epoch_sees_no_row_twice_and_every_batch_is_full(count: int, batch_size: int, seed: int) -> None:
    size = min(count, batch_size)
    batches = _shuffled(count, batch_size, np.random.default_rng(seed))
    for _ in range(2):
        epoch = np.concatenate([next(batches) for _ in range(count // size)])
        assert len(epoch) == count // size * size
        assert len(np.unique(epoch)) == len(epoch)
