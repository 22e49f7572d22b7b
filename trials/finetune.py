"""Brief training of a pruned model on the train split, with the dense model as its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import InvariantError, RequestError, TrialError
from trials.data import Array, Labels, Split
from trials.evaluate import Execution, evaluating

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
WARMUP_FRACTION = 0.05
TEMPERATURE = 4.0


Constraint = Callable[[int, float], None]
"""Called after each step with the number of steps done and the learning rate; may change the weights."""


class Augment(StrEnum):
    """What is done to training images; a flip is for things that have no handedness, so not for digits."""

    NONE = "none"
    SHIFT = "shift"
    SHIFT_FLIP = "shift+flip"


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The training loss of every step, before its update."""

    losses: tuple[float, ...]


def finetune(
    model: nn.Module,
    split: Split,
    *,
    steps: int,
    seed: int,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    distill: float = 0.0,
    teacher: nn.Module | Tensor | None = None,
    augment: Augment = Augment.NONE,
    execution: Execution = Execution.FLOAT32,
    constraint: Constraint | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> FinetuneResult:
    """Train `model` in place by SGD with Nesterov momentum and a cosine schedule; leave it in eval mode.

    The same seed gives the same weights on one machine; torch's global generator is left as it was.

    Args:
        learning_rate: its peak, after a warm-up of one step in twenty.
        distill: weight, 0..1, of the divergence from the teacher's softened outputs against the labels' loss.
        teacher: the dense model, which then sees the same augmented images, or its (rows of the split,
            classes) logits, which cost nothing per step.
        constraint: what must hold of the weights after each step, such as zeros that stay zero.
        progress: called after each step with the number of steps done and the loss.

    Raises:
        TrialError: a loss is NaN or infinite; says at which step.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2.
    """
    if distill and teacher is None:
        raise InvariantError(f"distill={distill} without a teacher")
    optimizer = _optimizer(model, learning_rate)
    generator = np.random.default_rng(seed)
    losses = []
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout, which takes no generator
        for step, rows in zip(range(steps), _shuffled(len(split), batch_size, generator), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _schedule(step, steps)
            arrays, classes = split.batch(rows)
            inputs = execution.tensors(augmented(arrays, augment, generator))
            labels = torch.from_numpy(classes)
            with execution.autocast():
                outputs = model(*inputs).float()
            loss = (1 - distill) * F.cross_entropy(outputs, labels)
            if distill and teacher is not None:
                wanted = _teacher_logits(teacher, inputs, rows, execution)
                loss = loss + distill * _softened_divergence(outputs, wanted)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise TrialError(
                    f"the training loss became {losses[-1]} at step {step + 1} of {steps} "
                    f"with learning rate {learning_rate}; lower it"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
            optimizer.step()
            if constraint is not None:
                constraint(step + 1, learning_rate * _schedule(step, steps))
            if progress is not None:
                progress(step + 1, losses[-1])
    model.eval()
    return FinetuneResult(tuple(losses))


def _optimizer(model: nn.Module, learning_rate: float) -> torch.optim.SGD:
    """Weight decay pulls on matrices and kernels only: on a norm's scale or a bias it costs accuracy."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)


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


def shifted(split: Split, seed: int) -> Split:
    """The same images, each moved a little: for judging a model on images that it was trained on.

    Other inputs than images stay as they are.
    """
    if split.inputs[0].ndim != 4:
        return split
    generator = np.random.default_rng(seed)
    return replace(split, inputs=augmented(split.inputs, Augment.SHIFT, generator))


def _teacher_logits(
    teacher: nn.Module | Tensor, inputs: tuple[Tensor, ...], rows: Labels, execution: Execution
) -> Tensor:
    if isinstance(teacher, Tensor):
        return teacher[torch.from_numpy(rows)]
    with evaluating(teacher), torch.no_grad(), execution.autocast():
        logits: Tensor = teacher(*inputs).float()
    return logits


def _softened_divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    """KL at `TEMPERATURE`, times its square so that gradients keep their size."""
    softened = F.log_softmax(outputs / TEMPERATURE, dim=1)
    target = F.log_softmax(wanted / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(softened, target, reduction="batchmean", log_target=True)
