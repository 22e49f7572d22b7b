"""A job's data from source to splits: read, checked, and completed where a split is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwprofiles.errors import RequestError
from trials.data.sources import read
from trials.data.spec import DataSpec, Normalize
from trials.data.splits import CHANNELS_FIRST, Array, Split, Splits, stratified

CARVED_FRACTION = 0.1
MAX_CLASSES = 1_000_000
"""More is a column of something else than classes."""


def load(spec: DataSpec, base: Path, seed: int) -> Splits:
    """Read a job's data; `base` is the job file's folder, `seed` decides which rows a carved split gets.

    Raises:
        RequestError: the data is missing, damaged or cannot teach a classifier; one sentence says which.
    """
    named, names = read(spec, base)
    splits = {name: _checked(*examples, spec.normalize, name) for name, examples in named.items()}
    train, validation, test = splits["train"], splits.get("validation"), splits.get("test")
    for name, split in splits.items():
        if [values.shape[1:] for values in split.inputs] != [values.shape[1:] for values in train.inputs]:
            raise RequestError(f"[data] {name} has inputs of another shape than train; store both alike")

    warnings = []
    carved = validation is None
    if validation is None:
        kept, taken = stratified(train.labels, CARVED_FRACTION, seed)
        if not len(kept):
            raise RequestError(
                f"[data] train has {len(train)} examples of {len(taken)} classes: when one of each steers "
                "the search, none is left to train on; name a split of its own in [data] validation"
            )
        train, validation = train.take(kept), train.take(taken)
        warnings.append(
            f"no validation split: {len(taken)} training examples steer the search, and the model may have "
            "memorised them; name a split it has not seen in [data] validation"
        )
    if test is None:
        warnings.append(
            "no test split: finalists are reported on the split that chose them, which flatters them; "
            "name one in [data] test"
        )
    absent = np.setdiff1d(train.labels, validation.labels)
    if len(absent):
        warnings.append(
            f"the validation split has no example of {len(absent)} of the classes (the first is "
            f"{absent[0]}), so nothing stops the search from forgetting them"
        )
    largest = max(int(split.labels.max()) for split in splits.values())
    classes = names or tuple(str(label) for label in range(largest + 1))
    return Splits(train, validation, test, classes, carved, tuple(warnings))


def _checked(inputs: tuple[Array, ...], labels: Array, normalize: Normalize | None, name: str) -> Split:
    """Refuse what no classifier can learn from; store the rest as it is read."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise RequestError(
            f"[data] {name} has labels of type {labels.dtype} and shape {labels.shape}; "
            "allowed: one integer class per example"
        )
    if not inputs:
        raise RequestError(f"[data] {name} has labels but no inputs; give at least one array of them")
    for number, values in enumerate(inputs, start=1):
        if values.dtype.kind not in "fiub":
            raise RequestError(f"[data] {name} has inputs of type {values.dtype}; allowed: numbers")
        if values.shape[:1] != labels.shape:
            raise RequestError(
                f"[data] {name} has {len(labels)} labels but its input {number} of {len(inputs)} has shape "
                f"{values.shape}; store one row per label"
            )
    if not len(labels):
        raise RequestError(f"[data] {name} is empty; name a file with examples in it")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < MAX_CLASSES:
            raise RequestError(f"[data] {name} has the label {label}; allowed: 0 to {MAX_CLASSES - 1}")
    if labels.min() == labels.max():
        raise RequestError(
            f"[data] {name} has examples of class {labels[0]} only, which any constant answer gets right; "
            "shuffle the file or widen its rows"
        )
    arrays = tuple(np.ascontiguousarray(_single(values)) for values in inputs)
    for values in arrays:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
            raise RequestError(
                f"[data] {name} has a NaN or infinite input in row {row}, as float32, which ends at 3.4e38; "
                "clean the data"
            )
    if normalize is not None:
        _check_normalize(normalize, arrays[0])
    return Split(arrays, np.ascontiguousarray(labels, dtype=np.int64), normalize)


def _single(values: Array) -> Array:
    """Cut doubles to float32: they would take twice the memory and be cut in every batch."""
    if values.dtype.kind != "f" or values.dtype.itemsize <= 4:
        return values
    with np.errstate(over="ignore"):  # what becomes infinite by that is refused by its row
        return values.astype(np.float32)


def _check_normalize(normalize: Normalize, values: Array) -> None:
    channels = values.shape[1] if values.ndim > 1 else 1
    given = {len(normalize.mean), len(normalize.std)}
    if given - {1, channels}:
        last = values.ndim == 4 and not given - {1, values.shape[-1]}
        raise RequestError(
            f"[data] normalize has {len(normalize.mean)} means and {len(normalize.std)} deviations "
            f"but the input, of shape {values.shape[1:]}, has {channels} channels; "
            f"{CHANNELS_FIRST if last else 'give one of each per channel'}"
        )
    with np.errstate(over="ignore", under="ignore"):
        mean, std = (np.array(numbers, dtype=np.float32) for numbers in (normalize.mean, normalize.std))
    if not np.isfinite(mean).all():
        raise RequestError(f"[data] normalize has the means {normalize.mean}; allowed: finite in float32")
    if not (np.isfinite(std) & (std > 0)).all():
        raise RequestError(
            f"[data] normalize has the deviations {normalize.std}; allowed: finite and above 0 in float32"
        )
    if values.dtype.kind != "f" and values.dtype != np.uint8:
        raise RequestError(f"[data] normalize is for images and floats, but the input holds {values.dtype}")
