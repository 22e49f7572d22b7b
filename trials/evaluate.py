"""How good a model is on a split: it is run over the images, and what it answers is scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor, nn

from hwprofiles.errors import RequestError, TrialError
from trials.answers import Evaluation, score
from trials.data import Array, Split
from trials.network import Network
from trials.prefix import Inputs, Prefix

BATCH_SIZE = 256
HELD_BYTES = 128 * 2**20
"""What a judge holds at most of images as tensors, and as much again of activations of the dense model."""
RISK = 0.01
"""Of calling a model hopeless that is not."""


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


class Batches(Sequence[Inputs]):
    """A split's inputs as tensors, batch by batch; kept once they are made, if all of them fit."""

    def __init__(self, split: Split, execution: Execution, batch_size: int, held_bytes: int = 0) -> None:
        self.split, self.execution, self.batch_size = split, execution, batch_size
        numbers = sum(values.size for values in split.inputs)
        self._holds = numbers * np.dtype(np.float32).itemsize <= held_bytes
        self._held: dict[int, Inputs] = {}

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def __getitem__(self, number: int) -> Inputs:  # type: ignore[override]  # no slices
        if number in self._held:
            return self._held[number]
        if not 0 <= number < len(self):
            raise IndexError(number)
        first = number * self.batch_size
        arrays, _ = self.split.batch(slice(first, first + self.batch_size))
        tensors = self.execution.tensors(arrays)
        if self._holds:
            self._held[number] = tensors
        return tensors


class Judge:
    """A split made ready to judge many models by: what does not depend on the model is worked out once.

    Images are looked at in a random order, the same for all models. They are held as tensors, and so are the
    dense model's activations part of the way, for candidates that are the dense model so far.

    Args:
        dense: the model that others come from; without it nothing is said of divergence and changes.

    Raises:
        TrialError: an output of the dense model is NaN or infinite.
    """

    def __init__(
        self,
        split: Split,
        dense: Network | None = None,
        *,
        execution: Execution = Execution.FLOAT32,
        batch_size: int = BATCH_SIZE,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        split = split.take(np.random.default_rng(0).permutation(len(split)))
        self.labels = torch.from_numpy(split.labels)
        self._execution = execution
        self._batches = Batches(split, execution, batch_size, held_bytes)
        self._prefix = None if dense is None else Prefix(dense, self._batches, held_bytes)
        self._reference = None if dense is None else logits(dense, split, execution=execution)

    def __call__(self, model: nn.Module, *, needed: float = 0.0) -> Evaluation:
        """Score a model; its mode is what it was when this returns.

        Args:
            needed: an accuracy short of which a model is of no use: once it is all but certain that it falls
                short, the rest of the images is not looked at.

        Raises:
            TrialError: an output is NaN or infinite.
            RequestError: the model gives something other than one row of logits per example.
        """
        parts: list[Tensor] = []
        seen = right = 0
        with evaluating(model), torch.no_grad(), self._execution.autocast():
            batches = torch.split(self.labels, self._batches.batch_size)
            for output, labels in zip(self._run(model), batches, strict=True):
                parts.append(_rows_of_logits(output, len(labels)))
                seen += len(labels)
                right += int((parts[-1].argmax(dim=1) == labels).sum())
                if hopeless(right, seen, of=len(self.labels), needed=needed, risk=RISK / len(batches)):
                    break
        reference = None if self._reference is None else self._reference[:seen]
        return score(_finite(parts), self.labels[:seen], reference)

    def _run(self, model: nn.Module) -> Iterator[object]:
        if self._prefix is not None and isinstance(model, Network):
            return self._prefix.run(model)
        return (model(*inputs) for inputs in self._batches)


def evaluate(
    model: nn.Module, split: Split, dense: Network | None = None, *, execution: Execution = Execution.FLOAT32
) -> Evaluation:
    """Score one model on a split, as a `Judge` does."""
    return Judge(split, dense, execution=execution, held_bytes=0)(model)


def logits(
    model: nn.Module, split: Split, *, batch_size: int = BATCH_SIZE, execution: Execution = Execution.FLOAT32
) -> Tensor:
    """Return the model's outputs in eval mode, (rows, classes) float32.

    Raises:
        TrialError: an output is NaN or infinite.
        RequestError: the model gives something other than one row of logits per example.
    """
    with evaluating(model), torch.no_grad(), execution.autocast():
        batches = Batches(split, execution, batch_size)
        return _finite([_rows_of_logits(model(*inputs), len(inputs[0])) for inputs in batches])


def hopeless(right: int, seen: int, *, of: int, needed: float, risk: float) -> bool:
    """Whether a model with `right` of `seen` answers falls short of `needed` on all `of` images.

    True if not even the rest could save it, or if an accuracy of `needed` gives so few right answers with a
    probability below `risk`. Images are drawn without replacement, for which the bound holds, too.

    Source: Hoeffding, Probability inequalities for sums of bounded random variables, JASA 58 (1963), theorem
    1, inequality 2.1, and section 6.
    """
    if right + of - seen < needed * of:
        return True
    share = right / seen
    if share >= needed:
        return False
    divergence = (1 - share) * math.log((1 - share) / (1 - needed))
    if share:
        divergence += share * math.log(share / needed)
    return seen * divergence > -math.log(risk)


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


def _rows_of_logits(output: object, rows: int) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != rows:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise RequestError(f"the model gives {shape} for {rows} examples; a classifier gives (rows, classes)")
    return output.float()


def _finite(parts: Sequence[Tensor]) -> Tensor:
    joined = torch.cat(list(parts))
    broken = int((~joined.isfinite()).any(dim=1).sum())
    if broken:
        raise TrialError(f"the outputs for {broken} of {len(joined)} examples are NaN or infinite")
    return joined
