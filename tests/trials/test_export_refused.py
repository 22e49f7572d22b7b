"""Models that no bundle can hold, and the sentence for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import RequestError, UnsupportedOpError
from tests.bundles import ConvolutionThen, export_images


class Random(nn.Module):
    """Random numbers in eval mode too, and a buffer that counts the calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1.0
        return F.dropout(x)


def test_a_refused_export_leaves_buffers_and_random_numbers_alone() -> None:
    model = Random()
    held, random_state = model.calls, torch.get_rng_state()
    with pytest.raises(RequestError):
        export_images(model, 3, 4, 4)
    assert model.calls is held
    assert held == 0
    assert torch.equal(torch.get_rng_state(), random_state)


def half_in_use(x: Tensor) -> Tensor:
    x[:, :2].add_(1.0)
    return x


def view_of_a_view_in_use(x: Tensor) -> Tensor:
    x[:, :2].flatten(1)[:, :3].add_(1.0)
    return x


def base_changed_under_a_view(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    x.add_(1.0)
    return flat


class Counter(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1.0)
        return self.conv(x) + self.seen


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)


class TrainingBranch(nn.Module):
    """Doubles its output in eval mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out if self.training else out * 2


class TrainingOutputs(nn.Module):
    """Has a second output in training mode, as networks with an auxiliary head do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out: Tensor = self.conv(x)
        return (out, out.relu()) if self.training else out


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (TrainingBranch(), "branches on self.training"),
        (TrainingOutputs(), "branches on self.training"),
        (ConvolutionThen(lambda x: F.dropout(x, 0.5)), "a random op in it stays on"),
    ],
    ids=["another formula", "another number of outputs", "dropout that is always on"],
)
def test_a_model_that_is_another_one_in_eval_mode_is_refused_with_the_cause(
    model: nn.Module, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        export_images(model, 3, 4, 4)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (ConvolutionThen(lambda x: torch.fft.rfft(x).real), UnsupportedOpError, "fft_rfft"),
        (ConvolutionThen(lambda x: x * 2 if x.sum() > 0 else x), RequestError, "dynamic batch"),
        (ConvolutionThen(half_in_use), UnsupportedOpError, "shares its memory"),
        (ConvolutionThen(view_of_a_view_in_use), UnsupportedOpError, "shares its memory"),
        (ConvolutionThen(base_changed_under_a_view), UnsupportedOpError, "shares its memory"),
        (ConvolutionThen(lambda x: x[x > 0]), UnsupportedOpError, "picks by a mask"),
        (nn.BatchNorm2d(3, track_running_stats=False), UnsupportedOpError, "track_running_stats=True"),
        (Counter(), UnsupportedOpError, "seen"),
        (FixedBatch(), RequestError, "dynamic batch"),
    ],
    ids=[
        "op off the list", "control flow", "half in place", "view of a view in place",
        "base in place", "data-dependent", "statistics of the batch", "own buffer", "fixed batch",
    ],
)  # fmt: skip
def test_a_model_that_no_bundle_can_hold_is_refused_with_the_reason(
    model: nn.Module, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        export_images(model, 3, 4, 4)


def test_a_model_with_infinite_weights_is_refused_by_their_name() -> None:
    model = nn.Linear(3, 4)
    nn.init.constant_(model.bias, float("inf"))
    with pytest.raises(RequestError, match=r"infinite numbers in 'bias'"):
        export_images(model, 3)


class Returns(nn.Module):
    """A linear layer whose output is handed to `returned`."""

    def __init__(self, returned: Callable[[Returns, Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.returned = returned

    def forward(self, x: Tensor) -> Any:
        return self.returned(self, self.linear(x))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda m, x: None, "returns None; a model must return tensors alone"),
        (lambda m, x: (x, None), "returns None; a model must return tensors alone"),
        (lambda m, x: (x, 3), "returns 3; a model must return tensors alone"),
        (lambda m, x: [], "returns nothing; a model must return tensors alone"),
        (lambda m, x: m.linear.weight, r"returns 'linear\.weight' as it is"),
    ],
    ids=["None", "None beside a tensor", "a number", "nothing", "a parameter"],
)
def test_a_model_that_returns_something_else_than_computed_tensors_is_refused(
    returned: Callable[[Returns, Tensor], Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        export_images(Returns(returned), 3)


def test_a_wrong_input_shape_is_refused_with_the_shape_and_the_reason_on_one_line() -> None:
    with pytest.raises(
        RequestError,
        match=r"Linear does not run on inputs of shape \[2, 5\], .*: mat1 and mat2 shapes cannot",
    ) as caught:
        export_images(nn.Linear(3, 4), 5)
    assert "\n" not in str(caught.value)


def test_an_input_too_large_to_make_an_example_of_is_refused() -> None:
    with pytest.raises(RequestError, match=r"\[100000, 100000, 1000\] has 10000000000000 elements"):
        export_images(nn.Flatten(), 100_000, 100_000, 1000)
