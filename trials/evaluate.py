"""How good a model is on a split: accuracy with its error, loss, and divergence from the dense model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import RequestError, TrialError
from trials.data import Array, Split

PROBE_ROUNDS = 2
PROBE_GAIN = 1.2
PROBE_AGREEMENT = 0.99


class Execution(StrEnum):
    """How torch computes: exactly, with channels last in memory, or so and in bfloat16 where that is safe.

    Only inputs and a context change, never the model: its weights stay contiguous float32.
    """

    FLOAT32 = "float32"
    CHANNELS_LAST = "channels_last"
    BFLOAT16 = "bfloat16"

    def tensors(self, arrays: tuple[Array, ...]) -> tuple[Tensor, ...]:
        """Wrap writable arrays without a copy; images change their memory format where this way wants it."""
        tensors = tuple(torch.from_numpy(values) for values in arrays)
        if self is Execution.FLOAT32:
            return tensors
        return tuple(
            tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
            for tensor in tensors
        )

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self is Execution.BFLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One model on one split. Accuracies are 0..1, loss and divergence are means in nats.

    `accuracy_error` is one standard error. `divergence` is KL(dense || model), 0 without a reference.
    `class_accuracy` has an entry for each output; 0 for a class without examples.
    """

    accuracy: float
    accuracy_error: float
    loss: float
    divergence: float
    class_accuracy: tuple[float, ...]
    images: int


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int = 256,
    limit: int = 0,
    reference_logits: Tensor | None = None,
    execution: Execution = Execution.FLOAT32,
) -> Evaluation:
    """Score a model; its mode is what it was when this returns.

    Args:
        limit: how many rows to use, evenly spaced; 0 is all.
        reference_logits: (rows of the split, classes) of the dense model, from `logits`.

    Raises:
        TrialError: an output is NaN or infinite.
    """
    if 0 < limit < len(split):
        rows = np.linspace(0, len(split), limit, endpoint=False).astype(np.int64)
        split = split.take(rows)
        reference_logits = None if reference_logits is None else reference_logits[torch.from_numpy(rows)]
    outputs = logits(model, split, batch_size=batch_size, execution=execution)
    return score(outputs, torch.from_numpy(split.labels.copy()), reference_logits)


def logits(
    model: nn.Module, split: Split, *, batch_size: int = 256, execution: Execution = Execution.FLOAT32
) -> Tensor:
    """Return the model's outputs in eval mode, (rows, classes) float32.

    Raises:
        TrialError: an output is NaN or infinite.
        RequestError: the model gives something other than one row of logits per example.
    """
    outputs = []
    with evaluating(model), torch.no_grad(), execution.autocast():
        for arrays, labels in split.batches(batch_size):
            output = model(*execution.tensors(arrays))
            if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(labels):
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise RequestError(
                    f"the model gives {shape} for {len(labels)} examples; a classifier gives (rows, classes)"
                )
            outputs.append(output.float())
    joined = torch.cat(outputs)
    broken = int((~joined.isfinite()).any(dim=1).sum())
    if broken:
        raise TrialError(f"the outputs for {broken} of {len(split)} examples are NaN or infinite")
    return joined


def score(outputs: Tensor, labels: Tensor, reference_logits: Tensor | None = None) -> Evaluation:
    """Turn (rows, classes) logits and (rows,) labels into an `Evaluation`.

    The error counts half a right and half a wrong answer more than there were (Agresti and Coull 1998, for
    one standard error), so that a perfect score on 300 images does not claim to be certain.
    """
    rows, classes = outputs.shape
    right = outputs.argmax(dim=1) == labels
    smoothed = (int(right.sum()) + 0.5) / (rows + 1)
    log_probabilities = F.log_softmax(outputs, dim=1)
    divergence = 0.0
    if reference_logits is not None:
        reference = F.log_softmax(reference_logits, dim=1)
        divergence = F.kl_div(log_probabilities, reference, reduction="batchmean", log_target=True).item()
    per_class = torch.bincount(labels, minlength=classes)
    right_per_class = torch.bincount(labels[right], minlength=classes)
    return Evaluation(
        accuracy=int(right.sum()) / rows,
        accuracy_error=math.sqrt(smoothed * (1 - smoothed) / (rows + 1)),
        loss=F.nll_loss(log_probabilities, labels).item(),
        divergence=divergence,
        class_accuracy=tuple((right_per_class.double() / per_class.clamp(min=1)).tolist()),
        images=rows,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and each back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def probe_execution(model: nn.Module, split: Split, *, batch_size: int = 128) -> Execution:
    """Time a forward pass in each way and return the fastest that pays.

    A way is taken if it is `PROBE_GAIN` times faster than exact float32 and predicts the same class for
    `PROBE_AGREEMENT` of the batch. The answer depends on the machine and its load, and accuracies on the
    answer: ask once per job and keep it with the job.
    """
    batch = split.take(slice(0, batch_size))
    fastest_s = dict.fromkeys(Execution, math.inf)
    predicted: dict[Execution, Tensor] = {}
    for _ in range(PROBE_ROUNDS):  # in turns, so that a slow spell of the machine hits every way
        for execution in Execution:
            start_s = time.perf_counter()
            try:
                outputs = logits(model, batch, batch_size=batch_size, execution=execution)
            except (RuntimeError, TrialError):
                # A view of channels-last memory, or a value beyond bfloat16: not a way for this model.
                if execution is Execution.FLOAT32:
                    raise
                continue
            fastest_s[execution] = min(fastest_s[execution], time.perf_counter() - start_s)
            predicted[execution] = outputs.argmax(dim=1)
    exact = Execution.FLOAT32
    paying = [
        execution
        for execution, way in predicted.items()
        if fastest_s[execution] * PROBE_GAIN <= fastest_s[exact]
        and (way == predicted[exact]).double().mean().item() >= PROBE_AGREEMENT
    ]
    return min(paying, key=fastest_s.__getitem__, default=exact)
