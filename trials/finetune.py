"""Brief training of a pruned model on the train split, with the dense model as its teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import TrialError
from trials.augment import Augment, augmented, mixed
from trials.data import Labels, Split
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
Progress = Callable[[int, float], object]


Loss = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]
"""Of a model on a batch: its inputs and its (rows,) labels."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """All that a training needs in order to go on as if it had never been left off.

    `model` and `averaged` are by the names of the model's state, `memory` what optimizers remember of each
    weight.
    """

    model: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    losses: tuple[float, ...]
    at_once: int

    @property
    def step(self) -> int:
        """How many are done."""
        return len(self.losses)


class Training:
    """The training of a model in place, with a cosine schedule; it can be left off and gone on with.

    Labels teach by SGD with Nesterov momentum, a teacher by Muon and, where weights are no matrices, by Adam:
    steps of SGD long enough to move a repaired network undo its repair first (docs/training.md). The same
    seed gives the same weights on one machine, in however many parts; torch's global generator is left as it
    was. When memory runs out, batches go through in parts, each half as large as before: the update and its
    learning rate stay those of the whole batch.

    Args:
        at_once: examples of a batch that go through together at most.
        learning_rate: its peak, after a warm-up of one step in twenty; that of Muon is `MATRIX_RATE` times
            as high. 0 is what suits the optimizer.
        distillation: the loss; without it, that of the labels. Where labels do not count for it, images are
            mixed two by two. With it the model is run as its teacher is, in eval mode: without dropout, and
            with the statistics of batch norms that it has, which are not those of mixed images.
        constraint: what must hold of the weights after each step, such as zeros that stay zero.

    Attributes:
        losses: of each step that is done, before its update.
        averaged: the model's state as an exponential average over the steps.
        at_once: how many examples of a batch memory held at a time in the end.
    """

    def __init__(
        self,
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
    ) -> None:
        self._model, self._split, self._steps, self._seed = model, split, steps, seed
        self._batch_size, self.at_once = batch_size, min(batch_size, at_once or batch_size)
        self._distillation, self._loss = distillation, distillation or _label_loss
        self._learning_rate = learning_rate or (PUPIL_RATE if distillation else LABEL_RATE)
        self._optimizers = under_a_teacher(model) if distillation else by_labels(model)
        self._augment, self._execution, self._constraint = augment, execution, constraint
        self.averaged = {name: value.clone() for name, value in model.state_dict().items()}
        self.losses: list[float] = []

    def run(self, *, for_s: float = math.inf, progress: Progress = lambda step, loss: None) -> Self:
        """Take steps, one at least, until all are done or the time is over; leave the model in eval mode.

        Args:
            progress: called after each step with the number of steps done and the loss.

        Raises:
            TrialError: a loss is NaN or infinite, at which step; or memory does not hold one example.
        """
        end_s = time.monotonic() + for_s
        self._model.train(mode=self._distillation is None)
        while len(self.losses) < self._steps:
            loss = self._step(len(self.losses))
            progress(len(self.losses), loss)
            if time.monotonic() >= end_s:
                break
        self._model.eval()
        return self

    def state(self) -> TrainingState:
        """A copy of where it stands, for another training of the same arguments to `go_on` from."""
        return TrainingState(
            model=copied(self._model.state_dict()),
            averaged=copied(self.averaged),
            memory={
                f"{each}.{place}.{name}": value.clone()
                for each, optimizer in enumerate(self._optimizers)
                for place, parameter in enumerate(_of(optimizer))
                for name, value in optimizer.state[parameter].items()
            },
            losses=tuple(self.losses),
            at_once=self.at_once,
        )

    def go_on(self, state: TrainingState) -> None:
        """Stand where another training stood."""
        self._model.load_state_dict(state.model)
        self.averaged, self.losses, self.at_once = copied(state.averaged), list(state.losses), state.at_once
        for path, value in state.memory.items():
            each, place, name = path.split(".")
            optimizer = self._optimizers[int(each)]
            optimizer.state[_of(optimizer)[int(place)]][name] = value.clone()

    def _step(self, step: int) -> float:
        """Returns the loss. What is random follows from the step alone, whatever came before."""
        rate = self._learning_rate * _schedule(step, self._steps)
        for group in (group for each in self._optimizers for group in each.param_groups):
            group["lr"] = group["times"] * rate
        generator = np.random.default_rng((self._seed, 1, step))
        arrays, classes = self._split.batch(batch_rows(step, len(self._split), self._batch_size, self._seed))
        arrays = augmented(arrays, self._augment, generator)
        if self._distillation and self._distillation.weight == 1:
            arrays = mixed(arrays, generator)
        inputs, labels = self._execution.tensors(arrays), torch.from_numpy(classes)
        with torch.random.fork_rng(devices=[]), self._execution.autocast():
            torch.manual_seed(int(generator.integers(2**63)))  # for dropout, which takes no generator
            loss, self.at_once = _backward(self._model, self._loss, inputs, labels, self.at_once)
        self.losses.append(loss)
        if not math.isfinite(loss):
            raise TrialError(
                f"the training loss became {loss} at step {step + 1} of {self._steps} "
                f"with learning rate {self._learning_rate}; lower it"
            )
        for optimizer in self._optimizers:
            optimizer.step()
        if self._constraint is not None:
            self._constraint(step + 1, rate)
        _average(self.averaged, self._model.state_dict())
        return loss


def _of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with tensors of its own."""
    return {name: value.clone() for name, value in tensors.items()}


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


def by_labels(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(decayed(_trained(model)), momentum=MOMENTUM, nesterov=True)]


def under_a_teacher(model: nn.Module) -> list[torch.optim.Optimizer]:
    """
    Source of AdamW: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101.
    """
    mixing = matrices(model)
    others = [each for each in _trained(model) if all(each is not weight for weight in mixing)]
    found: list[torch.optim.Optimizer] = []
    if mixing:
        found.append(Muon([{"params": mixing, "times": MATRIX_RATE}]))
    if others:
        found.append(torch.optim.AdamW(decayed(others), betas=BETAS))
    return found


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def decayed(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Weight decay pulls on matrices and kernels only: on a norm's scale or a bias it costs accuracy."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY, "times": 1},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "times": 1},
    ]


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine that would reach 0 one step later."""
    rise = min(1.0, (step + 1) / max(1.0, WARMUP_FRACTION * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def batch_rows(step: int, count: int, batch_size: int, seed: int) -> Labels:
    """The row numbers of a step's batch, of `count` rows.

    Every epoch has an order of its own; the rest of an epoch that fills no batch is left out, because
    BatchNorm learns nothing good from a few rows.
    """
    size = min(batch_size, count)
    epoch, place = divmod(step, count // size)
    return _order(count, seed, epoch)[place * size : (place + 1) * size]


@lru_cache(maxsize=1)
def _order(count: int, seed: int, epoch: int) -> Labels:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)
