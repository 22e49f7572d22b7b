"""Brief training of a pruned model on the train split, with the dense model as its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import RequestError, TrialError
from trials.data import Array, Labels, Split
from trials.distill import Distillation
from trials.evaluate import Execution
from trials.muon import Muon, matrices

LABEL_RATE, PUPIL_RATE = 0.02, 2e-4
"""Learning rates, where none is asked for, of SGD from labels and of Adam under a teacher."""
MATRIX_RATE = 20
"""Times the rate of Adam is that of Muon, which counts it in shares of a matrix's norm."""
MOMENTUM = 0.9
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 5e-4
WARMUP_FRACTION = 0.05
AVERAGE_DECAY = 0.97


Constraint = Callable[[int, float], None]
"""Called after each step with the number of steps done and the learning rate; may change the weights."""


class Augment(StrEnum):
    """What is done to training images; a flip is for things that have no handedness, so not for digits."""

    NONE = "none"
    SHIFT = "shift"
    SHIFT_FLIP = "shift+flip"


Loss = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]
"""Of a model on a batch: its inputs and its (rows,) labels."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What training came to, beside the weights of its last step.

    `losses` has one of each step, before its update. `averaged` is the model's state as an exponential
    average over the steps, `at_once` how many examples of a batch memory held at a time in the end.
    """

    losses: tuple[float, ...]
    averaged: Mapping[str, Tensor]
    at_once: int


def finetune(
    model: nn.Module,
    split: Split,
    *,
    steps: int,
    seed: int,
    batch_size: int = 128,
    at_once: int | None = None,
    learning_rate: float = 0.0,
    distillation: Distillation | None = None,
    augment: Augment = Augment.NONE,
    execution: Execution = Execution.FLOAT32,
    constraint: Constraint | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> FinetuneResult:
    """Train `model` in place with a cosine schedule; leave it in eval mode.

    Labels teach by SGD with Nesterov momentum, a teacher by Muon and, where weights are no matrices, by Adam:
    steps of SGD long enough to move a repaired network undo its repair first (docs/training.md). The same
    seed gives the same weights on one machine; torch's global generator is left as it was. When memory runs
    out, batches go through in parts, each half as large as before: the update and its learning rate stay
    those of the whole batch.

    Args:
        at_once: examples of a batch that go through together at most.
        learning_rate: its peak, after a warm-up of one step in twenty; that of Muon is `MATRIX_RATE` times
            as high. 0 is what suits the optimizer.
        distillation: the loss; without it, that of the labels. Where labels do not count for it, images are
            mixed two by two. With it the model is run as its teacher is, in eval mode: without dropout, and
            with the statistics of batch norms that it has, which are not those of mixed images.
        constraint: what must hold of the weights after each step, such as zeros that stay zero.
        progress: called after each step with the number of steps done and the loss.

    Raises:
        TrialError: a loss is NaN or infinite, at which step; or memory does not hold one example.
    """
    loss: Loss = distillation or _label_loss
    learning_rate = learning_rate or (PUPIL_RATE if distillation else LABEL_RATE)
    optimizers = _under_a_teacher(model) if distillation else _by_labels(model)
    generator = np.random.default_rng(seed)
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    losses, at_once = [], min(batch_size, at_once or batch_size)
    model.train(mode=distillation is None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout, which takes no generator
        for step, rows in zip(range(steps), _shuffled(len(split), batch_size, generator), strict=False):
            for group in (group for each in optimizers for group in each.param_groups):
                group["lr"] = group["times"] * learning_rate * _schedule(step, steps)
            arrays, classes = split.batch(rows)
            arrays = augmented(arrays, augment, generator)
            if distillation and distillation.weight == 1:
                arrays = mixed(arrays, generator)
            inputs, labels = execution.tensors(arrays), torch.from_numpy(classes)
            with execution.autocast():
                value, at_once = _backward(model, loss, inputs, labels, at_once)
            losses.append(value)
            if not math.isfinite(value):
                raise TrialError(
                    f"the training loss became {value} at step {step + 1} of {steps} "
                    f"with learning rate {learning_rate}; lower it"
                )
            for optimizer in optimizers:
                optimizer.step()
            if constraint is not None:
                constraint(step + 1, learning_rate * _schedule(step, steps))
            _average(averaged, model.state_dict())
            if progress is not None:
                progress(step + 1, value)
    model.eval()
    return FinetuneResult(tuple(losses), averaged, at_once)


def _label_loss(model: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    outputs: Tensor = model(*inputs)
    return F.cross_entropy(outputs.float(), labels)


def _backward(
    model: nn.Module, loss: Loss, inputs: tuple[Tensor, ...], labels: Tensor, at_once: int
) -> tuple[float, int]:
    """Put the gradients of a batch's mean loss into the model; returns the loss, and how many fit at once."""
    while True:
        model.zero_grad(set_to_none=True)
        try:
            total = 0.0
            for first in range(0, len(labels), at_once):
                part = slice(first, first + at_once)
                share = len(labels[part]) / len(labels)
                value = share * loss(model, tuple(values[part] for values in inputs), labels[part])
                value.backward()
                total += value.item()
            return total, at_once
        except (MemoryError, RuntimeError) as error:
            if not _is_short_of_memory(error):
                raise
        if at_once == 1:
            raise TrialError("training runs out of memory with one example at a time; use fewer workers")
        at_once = -(-min(at_once, len(labels)) // 2)


def _is_short_of_memory(error: Exception) -> bool:
    """NumPy has an error of its own for it; torch has words, others on each device."""
    words = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


@torch.no_grad()
def _average(averaged: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Move an exponential average on by a step."""
    for name, value in state.items():
        if value.is_floating_point():
            averaged[name].lerp_(value, 1 - AVERAGE_DECAY)
        else:
            averaged[name].copy_(value)


def _by_labels(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(_decayed(_trained(model)), momentum=MOMENTUM, nesterov=True)]


def _under_a_teacher(model: nn.Module) -> list[torch.optim.Optimizer]:
    """
    Source of AdamW: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101.
    """
    mixing = matrices(model)
    others = [each for each in _trained(model) if all(each is not weight for weight in mixing)]
    found: list[torch.optim.Optimizer] = []
    if mixing:
        found.append(Muon([{"params": mixing, "times": MATRIX_RATE}]))
    if others:
        found.append(torch.optim.AdamW(_decayed(others), betas=BETAS))
    return found


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _decayed(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Weight decay pulls on matrices and kernels only: on a norm's scale or a bias it costs accuracy."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY, "times": 1},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "times": 1},
    ]


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine that would reach 0 one step later."""
    rise = min(1.0, (step + 1) / max(1.0, WARMUP_FRACTION * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def _shuffled(count: int, batch_size: int, generator: np.random.Generator) -> Iterator[Labels]:
    """Yield row numbers without end, every epoch in a new order; the rest of an epoch that fills no batch
    is left out, because BatchNorm learns nothing good from a few rows."""
    size = min(batch_size, count)
    while True:
        order = generator.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def augmented(
    arrays: tuple[Array, ...], augment: Augment, generator: np.random.Generator
) -> tuple[Array, ...]:
    """Shift each image by up to an eighth of its height, zeros moving in; mirror half if asked."""
    if augment is Augment.NONE:
        return arrays
    images, *others = arrays
    if images.ndim != 4:
        raise RequestError(
            f"augment {augment.value!r} is for images, but an input has shape {images.shape[1:]}"
        )
    count, _, height, width = images.shape
    reach = height // 8
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    rows = generator.integers(0, 2 * reach + 1, (count, 1)) + np.arange(height)
    columns = generator.integers(0, 2 * reach + 1, (count, 1)) + np.arange(width)
    if augment is Augment.SHIFT_FLIP:
        mirrored = generator.random(count) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    shifted = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return (np.ascontiguousarray(shifted.transpose(0, 3, 1, 2)), *others)


def mixed(arrays: tuple[Array, ...], generator: np.random.Generator) -> tuple[Array, ...]:
    """Blend each example with the next one, in shares drawn evenly; what is no floats, such as tokens, stays.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412, with alpha = 1.
    """
    first, *_ = arrays
    if any(values.dtype.kind != "f" for values in arrays):
        return arrays
    share = generator.random(len(first), dtype=np.float32)
    shares = [share.reshape(-1, *(1,) * (values.ndim - 1)) for values in arrays]
    return tuple(
        own * values + (1 - own) * np.roll(values, 1, axis=0)
        for own, values in zip(shares, arrays, strict=True)
    )


def shifted(split: Split, seed: int) -> Split:
    """The same images, each moved a little: for judging a model on images that it was trained on.

    Other inputs than images stay as they are.
    """
    if split.inputs[0].ndim != 4:
        return split
    generator = np.random.default_rng(seed)
    return replace(split, inputs=augmented(split.inputs, Augment.SHIFT, generator))
