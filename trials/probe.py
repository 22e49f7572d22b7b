"""Which way of computing pays on this machine, for this model: measured, not assumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import TrialError
from trials.data import Split
from trials.evaluate import Execution, evaluating, logits

ROUNDS = 2
GAIN = 1.2
"""Times as fast as exact float32 that another way has to be."""
AGREEMENT = 0.99
"""Share of the answers that another way has to give as exact float32 does."""
ALIGNMENT = 0.95
"""Cosine that the gradient of another way has to have with that of exact float32."""


def probe_execution(model: nn.Module, split: Split, *, batch_size: int = 128) -> Execution:
    """Time a forward pass in each way and return the fastest that pays and gives the same answers.

    The choice depends on the machine and its load, and accuracies on the choice: ask once per job and keep it
    with the job.
    """
    batch = split.take(slice(0, batch_size))

    def answers(execution: Execution) -> Tensor:
        return logits(model, batch, batch_size=batch_size, execution=execution).argmax(dim=1)

    def agree(found: Tensor, exact: Tensor) -> bool:
        return (found == exact).double().mean().item() >= AGREEMENT

    return _fastest(answers, agree)


def probe_training(model: nn.Module, split: Split, *, batch_size: int = 128) -> Execution:
    """The same for a forward and a backward pass, by the direction of the gradient; leaves no gradients."""
    arrays, _ = split.take(slice(0, batch_size)).batch(slice(None))
    parameters = [each for each in model.parameters() if each.requires_grad]

    def gradient(execution: Execution) -> Tensor:
        inputs = execution.tensors(arrays)
        with evaluating(model), execution.autocast():
            outputs = model(*inputs).float()
        # Not the loss, of which a trained model has none: rounding would be all that is left of its gradient.
        parts = torch.autograd.grad(outputs.square().mean(), parameters, allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None])

    def agree(found: Tensor, exact: Tensor) -> bool:
        return F.cosine_similarity(found, exact, dim=0).item() >= ALIGNMENT

    return _fastest(gradient, agree)


def _fastest(run: Callable[[Execution], Tensor], agree: Callable[[Tensor, Tensor], bool]) -> Execution:
    fastest_s = dict.fromkeys(Execution, math.inf)
    found: dict[Execution, Tensor] = {}
    for _ in range(ROUNDS):  # in turns, so that a slow spell of the machine hits every way
        for execution in Execution:
            start_s = time.perf_counter()
            try:
                result = run(execution)
            except (RuntimeError, TrialError):
                # A view of channels-last memory, or a value beyond bfloat16: not a way for this model.
                if execution is Execution.FLOAT32:
                    raise
                continue
            fastest_s[execution] = min(fastest_s[execution], time.perf_counter() - start_s)
            found[execution] = result
    exact = Execution.FLOAT32
    paying = [
        execution
        for execution, result in found.items()
        if fastest_s[execution] * GAIN <= fastest_s[exact] and agree(result, found[exact])
    ]
    return min(paying, key=fastest_s.__getitem__, default=exact)
