"""Examples in memory, a split each, as a model and a job's other parts take them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from trials.data.spec import Normalize

Array = NDArray[Any]
Labels = NDArray[np.int64]
Rows = slice | NDArray[np.int64]

PIXEL_MAX = 255
CHANNELS_FIRST = "store images channels first, as by x.transpose(0, 3, 1, 2)"
"""What to do where they come last, as most libraries that read images have them."""
SAMPLED_ROWS = 256
"""Of each split, evenly spaced: enough to tell it from another, and soon read where it is large."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Examples in memory: each input (rows, ...), labels (rows,) from 0.

    `normalize` applies to the first input. Arrays may be read-only views of memory that workers share.
    """

    inputs: tuple[Array, ...]
    labels: Labels
    normalize: Normalize | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> Self:
        return replace(self, inputs=tuple(values[rows] for values in self.inputs), labels=self.labels[rows])

    def batch(self, rows: Rows) -> tuple[tuple[Array, ...], Labels]:
        """Return fresh, writable arrays of these rows as a model takes them.

        Bytes are pixels: they become float32 in 0..1. Other integers are tokens, int64; floats are float32.
        """
        first, *others = (_as_model_input(values[rows]) for values in self.inputs)
        if self.normalize is not None:
            shape = (-1, *(1,) * (first.ndim - 2))
            first -= np.array(self.normalize.mean, dtype=np.float32).reshape(shape)
            first /= np.array(self.normalize.std, dtype=np.float32).reshape(shape)
        return (first, *others), self.labels[rows].copy()

    @property
    def preparation(self) -> dict[str, Any]:
        """What `batch` makes of the first input, for those who have no Split: (x / divisor - mean) / std."""
        normalize = self.normalize or Normalize((0.0,), (1.0,))
        divisor = PIXEL_MAX if self.inputs[0].dtype == np.uint8 else 1
        return {"divisor": divisor, "mean": list(normalize.mean), "std": list(normalize.std)}

    def evenly(self, count: int) -> Self:
        """At most so many of the rows, evenly spaced over all of them."""
        count = min(count, len(self))
        return self.take(np.linspace(0, len(self), count, endpoint=False).astype(np.int64))

    def batches(self, size: int) -> Iterator[tuple[tuple[Array, ...], Labels]]:
        """Yield every row once, in order; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """What a job's data came to; `warnings` are sentences for the user."""

    train: Split
    validation: Split
    test: Split | None
    classes: tuple[str, ...]
    carved: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """In hex, of all labels and of `SAMPLED_ROWS` of the inputs: data that have changed have another."""
        found = hashlib.sha256()
        for split in filter(None, (self.train, self.validation, self.test)):
            sample = split.evenly(SAMPLED_ROWS).inputs
            found.update(repr([(values.dtype.str, values.shape) for values in split.inputs]).encode())
            for values in (split.labels, *sample):
                found.update(np.ascontiguousarray(values).data)
        return found.hexdigest()

    def check_model(self, input_shapes: Sequence[tuple[int, ...]], outputs: int) -> None:
        """Hold the data against a model that takes `input_shapes` (no batch) and gives `outputs` logits.

        Raises:
            RequestError: another number or shape of inputs, or a label that the model has no output for.
        """
        shapes = [values.shape[1:] for values in self.train.inputs]
        takes = [tuple(shape) for shape in input_shapes]
        if shapes != takes:
            turned = [(*shape[2:], *shape[:2]) for shape in shapes]
            todo = CHANNELS_FIRST if turned == takes else "store the data in the model's shape"
            raise RequestError(
                f"the data has inputs of shape {shapes} but the model takes {takes}; "
                f"change [model] input, or {todo}"
            )
        if len(self.classes) > outputs:
            raise RequestError(
                f"the data has labels up to {len(self.classes) - 1} but the model gives {outputs} outputs, "
                f"so labels may be 0 to {outputs - 1}; count labels from 0, or give the model more outputs"
            )


def stratified(labels: Labels, fraction: float, seed: int) -> tuple[Labels, Labels]:
    """Split row numbers so that every class gives the same `fraction`, at least one row, to the second part.

    Returns:
        (kept, taken), each ascending, together every row once.
    """
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        taken[generator.permutation(rows)[: max(1, round(fraction * len(rows)))]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def _as_model_input(values: Array) -> Array:
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(PIXEL_MAX)
    kinds: Mapping[str, type[np.generic]] = {"f": np.float32, "b": np.bool_}
    return values.astype(kinds.get(values.dtype.kind, np.int64))
