"""Fine-tuning learns, repeats itself, and stops at the first number that is none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hwprofiles.errors import TrialError
from trials.augment import Augment
from trials.data import DataSpec, Split, load
from trials.distill import Distillation
from trials.evaluate import evaluate
from trials.finetune import (
    Training,
    _schedule,
    batch_rows,
    by_labels,
    under_a_teacher,
)


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
    result = Training(model, train, steps=100, seed=0, batch_size=64, learning_rate=0.05).run()
    assert len(result.losses) == 100
    assert np.mean(result.losses[-10:]) < 0.3 < result.losses[0]
    assert evaluate(model, validation).accuracy > 0.9
    assert not model.training


def test_one_seed_gives_one_network_whatever_the_global_generator_holds(train: Split) -> None:
    first, second, other = small_net(), small_net(), small_net()
    state = torch.get_rng_state()
    Training(first, train, steps=5, seed=7, augment=Augment.SHIFT).run()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    Training(second, train, steps=5, seed=7, augment=Augment.SHIFT).run()
    Training(other, train, steps=5, seed=8, augment=Augment.SHIFT).run()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_memory_that_runs_out_halves_what_goes_through_at_once_and_nothing_else(train: Split) -> None:
    """What a net of linear layers learns does not depend on how its batches are cut."""

    class Greedy(nn.Module):
        """Asks for 16 TiB for each example above `most`, which no machine gives."""

        def __init__(self, most: int) -> None:
            super().__init__()
            self.most, self.linear = most, nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            torch.empty(max(0, len(x) - self.most), 2**44, dtype=torch.uint8)
            logits: Tensor = self.linear(x.flatten(1))
            return logits

    models = {}
    for most in (64, 20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            models[most] = Greedy(most)
    results = {
        most: Training(model, train, steps=3, seed=0, batch_size=50).run() for most, model in models.items()
    }
    assert (results[64].at_once, results[20].at_once) == (50, 13)
    assert results[20].losses == pytest.approx(results[64].losses, rel=1e-5)
    torch.testing.assert_close(models[20].linear.weight, models[64].linear.weight)
    with pytest.raises(TrialError, match="out of memory with one example at a time"):
        Training(Greedy(0), train, steps=1, seed=0).run()


def test_an_error_that_is_not_about_memory_is_not_taken_for_one(train: Split) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Training(nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), train, steps=1, seed=0).run()


def test_the_average_follows_the_weights_from_where_they_began(train: Split) -> None:
    model = small_net()
    expected = {name: value.clone() for name, value in model.state_dict().items()}

    def follow(step: int, loss: float) -> None:
        for name, value in model.state_dict().items():
            expected[name] = (
                value.clone() if name.endswith("tracked") else 0.97 * expected[name] + 0.03 * value
            )

    result = Training(model, train, steps=4, seed=0, batch_size=32).run(progress=follow)
    assert result.averaged.keys() == expected.keys()
    for name, value in result.averaged.items():
        torch.testing.assert_close(value, expected[name])
    assert not torch.equal(result.averaged["linear.weight"], model.linear.weight)


def test_no_steps_change_nothing(train: Split) -> None:
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    assert Training(model, train, steps=0, seed=0).run().losses == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_frozen_parameter_stays(train: Split) -> None:
    model = small_net()
    model.conv.weight.requires_grad_(False)
    before = model.conv.weight.clone()
    Training(model, train, steps=2, seed=0).run()
    assert torch.equal(model.conv.weight, before)


@pytest.mark.parametrize(("optimizers", "shrink"), [(by_labels, 1 - 1.9 * 5e-4), (under_a_teacher, 1 - 5e-4)])
def test_weight_decay_leaves_norms_and_biases_alone(
    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]], shrink: float
) -> None:
    """Without gradients the only force is decay; Nesterov's first step takes it 1 + momentum times. Muon,
    which turns what is neither of an embedding nor depthwise, has none."""
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Conv2d(8, 8, 3, groups=8))
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers(model):
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        optimizer.step()
    for name, parameter in model.named_parameters():
        turned = name == "1.weight" and optimizers is under_a_teacher
        expected = before[name] * (shrink if parameter.ndim > 1 and not turned else 1)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=0)


def test_a_loss_that_is_no_number_ends_the_trial_at_its_step(train: Split) -> None:
    with pytest.raises(TrialError, match=r"became (nan|inf) at step \d+ of 50 with learning rate 1e\+20"):
        Training(small_net(), train, steps=50, seed=0, learning_rate=1e20).run()


def test_progress_counts_the_steps(train: Split) -> None:
    seen: list[tuple[int, float]] = []
    result = Training(small_net(), train, steps=3, seed=0).run(progress=lambda *step: seen.append(step))
    assert seen == list(zip((1, 2, 3), result.losses, strict=True))


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
    batches = count // size
    epochs = [
        np.concatenate([batch_rows(first + step, count, batch_size, seed) for step in range(batches)])
        for first in (0, batches)
    ]
    for epoch in epochs:
        assert len(epoch) == batches * size
        assert len(np.unique(epoch)) == len(epoch)
    if batches * size > 9:
        assert not np.array_equal(*epochs)


@pytest.mark.parametrize("taught", [False, True], ids=["labels", "teacher"])
def test_left_off_and_gone_on_with_a_training_ends_as_in_one_go(taught: bool, train: Split) -> None:
    def training(seed: int) -> Training:
        models[seed] = small_net(seed)
        teacher = Distillation(small_net(5)) if taught else None
        return Training(
            models[seed], train, steps=6, seed=7, batch_size=32, augment=Augment.SHIFT, distillation=teacher
        )

    models: dict[int, SmallNet] = {}
    whole = training(0).run()
    first = training(0).run(for_s=0).run(for_s=0)
    state = first.state()
    first.run()
    assert state.step == 2

    second = training(1)  # from other weights, which those of the state replace
    second.go_on(state)
    second.run()
    assert second.losses == first.losses == whole.losses
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name
        assert torch.equal(whole.averaged[name], second.averaged[name]), name
