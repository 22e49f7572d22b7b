"""Where a job's examples come from: five sources, read into plain arrays, in three splits.

Arrays stay as they were stored (images as uint8) and are made into normalised float32 batch by batch, so that
50 000 CIFAR images take 150 MB and every worker on a machine can share one read-only copy.

The train split fits and fine-tunes, the validation split steers the search, the test split is read once per
finalist. A trained network has memorised its training set, so a validation split carved from it flatters
every candidate: `Splits.carved` says so, and whoever scores then weighs the divergence from the dense model.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from hwprofiles.errors import RequestError, nearest
from trials.factory import call_factory

Array = NDArray[Any]
Labels = NDArray[np.int64]
Rows = slice | NDArray[np.int64]

CARVED_FRACTION = 0.1
MAX_CLASSES = 1_000_000
"""More is a column of something else than classes."""


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """A file or folder beside the job, and the rows [first, past the last) of it that count; None is all."""

    path: str = ""
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Normalize:
    """Per-channel mean and standard deviation of values scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DataSpec:
    """The `[data]` table of a job: "digits", "npz", "parquet", "folder" or "factory", a split each.

    `factory` ("module:function") and its `args` belong to the source of that name: the function returns
    `{"train": (inputs, labels), "validation": ..., "test": ...}`, and runs only where the job is submitted.
    """

    source: str
    train: SplitSpec = SplitSpec()
    validation: SplitSpec | None = None
    test: SplitSpec | None = None
    normalize: Normalize | None = None
    factory: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)


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

    def check_model(self, input_shapes: Sequence[tuple[int, ...]], outputs: int) -> None:
        """Hold the data against a model that takes `input_shapes` (no batch) and gives `outputs` logits.

        Raises:
            RequestError: another number or shape of inputs, or a label that the model has no output for.
        """
        shapes = [values.shape[1:] for values in self.train.inputs]
        if shapes != [tuple(shape) for shape in input_shapes]:
            raise RequestError(
                f"the data has inputs of shape {shapes} but the model takes {list(input_shapes)}; "
                "change [model] input, or store the data in the model's shape"
            )
        if len(self.classes) > outputs:
            raise RequestError(
                f"the data has labels up to {len(self.classes) - 1} but the model gives {outputs} outputs, "
                f"so labels may be 0 to {outputs - 1}; count labels from 0, or give the model more outputs"
            )


Examples = tuple[tuple[Array, ...], Array]
Select = Callable[[int], slice]
"""Given how many rows there are, the ones that the job wants; refuses what is out of range."""
Reader = Callable[[Path, Select], tuple[Examples, tuple[str, ...]]]


def load(spec: DataSpec, base: Path, seed: int) -> Splits:
    """Read a job's data; `base` is the job file's folder, `seed` decides which rows a carved split gets.

    Raises:
        RequestError: the data is missing, damaged or cannot teach a classifier; one sentence says which.
    """
    names: tuple[str, ...] = ()
    _refuse_idle_keys(spec)
    if spec.source == "digits":
        named, names = _digits(), tuple("0123456789")
    elif spec.source == "factory":
        named = _from_factory(spec, base)
    elif spec.source in READERS:
        named, names = _from_files(spec, base)
    else:
        known = ("digits", "factory", *READERS)
        raise RequestError(f"[data] source is {spec.source!r}; {nearest(spec.source, known)}")

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


def _refuse_idle_keys(spec: DataSpec) -> None:
    """A key that its source would ignore is a misunderstanding; say so before anything is read."""
    if spec.source != "factory" and (spec.factory or spec.args):
        raise RequestError(f"[data] factory and args belong to source = 'factory', not to {spec.source!r}")
    if spec.source in ("digits", "factory"):
        for name in ("train", "validation", "test"):
            if getattr(spec, name) not in (None, SplitSpec()):
                raise RequestError(
                    f"[data] {name} is a file, but source {spec.source!r} makes its own splits"
                )


def _as_model_input(values: Array) -> Array:
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    kinds: Mapping[str, type[np.generic]] = {"f": np.float32, "b": np.bool_}
    return values.astype(kinds.get(values.dtype.kind, np.int64))


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
    if {len(normalize.mean), len(normalize.std)} - {1, channels}:
        raise RequestError(
            f"[data] normalize has {len(normalize.mean)} means and {len(normalize.std)} deviations "
            f"but the input has {channels} channels; give one of each per channel"
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


def _digits() -> dict[str, Examples]:
    """scikit-learn's 1 797 handwritten digits (UCI Optical Recognition of Handwritten Digits, test part).

    Inputs are (rows, 1, 8, 8) in 0..1. The split is fixed, whatever the job's seed, because checkpoints are
    trained on its train part: 60 % train, 20 % validation, 20 % test.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    others, test = stratified(labels, 0.2, seed=0)
    train, validation = (others[part] for part in stratified(labels[others], 0.25, seed=0))
    rows = {"train": train, "validation": validation, "test": test}
    return {name: ((images[part],), labels[part]) for name, part in rows.items()}


def _from_factory(spec: DataSpec, base: Path) -> dict[str, Examples]:
    made = call_factory(spec.factory, base, "[data] factory", spec.args)
    if not isinstance(made, Mapping) or "train" not in made:
        raise RequestError(
            f"[data] factory {spec.factory!r} returned no mapping with a 'train' split; "
            'return {"train": (inputs, labels), "validation": ..., "test": ...}'
        )
    splits: dict[str, Examples] = {}
    for name, pair in made.items():
        if name not in ("train", "validation", "test"):
            raise RequestError(
                f"[data] factory {spec.factory!r} returned a split {name!r}; "
                f"{nearest(name, ('train', 'validation', 'test'))}"
            )
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise RequestError(
                f"[data] factory {spec.factory!r} returned {type(pair).__name__} as {name}; "
                "return (inputs, labels), with a tuple of arrays as inputs where there are several"
            )
        inputs, labels = pair
        if isinstance(inputs, Mapping):
            raise RequestError(
                f"[data] factory {spec.factory!r} returned {name} inputs by name; "
                "return a tuple of arrays in the order of [[model.inputs]]"
            )
        several = inputs if isinstance(inputs, tuple) else (inputs,)
        try:
            splits[name] = tuple(np.asarray(values) for values in several), np.asarray(labels)
        except Exception as error:  # tensors and data frames have reasons of their own
            raise RequestError(
                f"[data] factory {spec.factory!r} returned {name} examples that make no arrays ({error}); "
                "return NumPy arrays with one row per example, and several inputs as a tuple"
            ) from None
    return splits


def _selection(wanted: SplitSpec, name: str) -> Select:
    def select(count: int) -> slice:
        first, stop = wanted.rows or (0, count)
        if wanted.rows is not None and not 0 <= first < stop <= count:
            raise RequestError(
                f"[data] {name} asks for rows [{first}, {stop}] of {count}; "
                f"allowed: [first, past the last] within [0, {count}]"
            )
        return slice(first, stop)

    return select


def _from_files(spec: DataSpec, base: Path) -> tuple[dict[str, Examples], tuple[str, ...]]:
    read = READERS[spec.source]
    splits: dict[str, Examples] = {}
    classes: tuple[str, ...] = ()
    for name in ("train", "validation", "test"):
        wanted: SplitSpec | None = getattr(spec, name)
        if wanted is None:
            continue
        path = base / wanted.path
        if not wanted.path or not path.exists():
            raise RequestError(f"[data] {name} names {wanted.path!r}, which is not there (looked at {path})")
        splits[name], names = read(path, _selection(wanted, name))
        if name != "train" and names != classes:
            raise RequestError(f"[data] {name} has the classes {names} but train has {classes}; use one set")
        classes = names
    return splits, classes


def _read_npz(path: Path, select: Select) -> tuple[Examples, tuple[str, ...]]:
    """Arrays by name: `y` holds the labels, every other one is an input, in the file's order."""
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # archives and array headers break in many ways, each with a class of its own
        reason = str(error) or type(error).__name__
        raise RequestError(
            f"{path.name} cannot be read as npz ({reason}); write it with numpy.savez"
        ) from None
    for name, values in arrays.items():
        if not values.ndim:
            raise RequestError(f"{path.name} holds no rows as {name!r}; store one row per example")
    labels = arrays.pop("y", None)
    if labels is None or not arrays:
        raise RequestError(f"{path.name} holds {sorted(arrays)}; it needs inputs (x) and labels (y)")
    # The longest, so that arrays of different lengths stay so and are refused.
    rows = select(max(len(values) for values in (labels, *arrays.values())))
    return (tuple(values[rows] for values in arrays.values()), labels[rows]), ()


def _read_parquet(path: Path, select: Select) -> tuple[Examples, tuple[str, ...]]:
    """`label`, and either encoded images in `image`, or list columns of one length, each an input."""
    import pyarrow as pa

    from hwprofiles.parquet import read_parquet

    try:
        table = read_parquet(path, most_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RequestError(f"{path.name} cannot be read as Parquet ({error})") from None
    columns = dict(zip(table.column_names, table.schema.types, strict=True))
    lists = [
        name for name, kind in columns.items() if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    ]
    if "label" not in columns or not ("image" in columns or lists):
        raise RequestError(
            f"{path.name} has the columns {list(columns)}; it needs 'label' and 'image' (encoded bytes), "
            "or 'label' and columns of lists"
        )
    if columns.get("image", pa.binary()) not in (pa.binary(), pa.large_binary()):
        raise RequestError(
            f"{path.name} has a column 'image' of type {columns['image']}; allowed: binary, the bytes of "
            "image files"
        )
    rows = select(table.num_rows)
    table = table.slice(rows.start, rows.stop - rows.start)
    labels = table["label"].to_numpy()
    if "image" in columns:
        encoded = (value.as_py() for value in table["image"])
        sources = (
            (f"row {row} of {path.name}", io.BytesIO(image)) for row, image in enumerate(encoded, rows.start)
        )
        return ((_decode(sources, table.num_rows),), labels), ()
    return (tuple(_list_column(table[name].combine_chunks(), name, path) for name in lists), labels), ()


def _list_column(column: Any, name: str, path: Path) -> Array:
    values = column.flatten().to_numpy(zero_copy_only=False)
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) > 1 or None in lengths:
        raise RequestError(f"column {name!r} of {path.name} has lists of several lengths; pad them to one")
    return np.asarray(values).reshape(len(column), -1)


def _read_folder(path: Path, select: Select) -> tuple[Examples, tuple[str, ...]]:
    """One folder per class, in the order of their names; every file in it is an image."""
    if not path.is_dir():
        raise RequestError(f"{path} is a file; name a folder that holds one folder of images per class")
    classes = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    files = [
        (label, file)
        for label, name in enumerate(classes)
        for file in sorted((path / name).iterdir())
        if not file.name.startswith(".")
    ]
    if not files:
        raise RequestError(f"{path} holds no folder of images; put each class in a folder of its name")
    files = files[select(len(files))]
    sources = ((str(file.relative_to(path)), file) for _, file in files)
    labels = np.array([label for label, _ in files])
    return ((_decode(sources, len(files)),), labels), tuple(classes)


def _decode(sources: Iterator[tuple[str, Any]], count: int) -> NDArray[np.uint8]:
    """Decode images into (count, channels, height, width); grey stays one channel, all else becomes RGB."""
    from PIL import Image

    pixels: NDArray[np.uint8] | None = None
    mode = ""
    for row, (where, source) in enumerate(sources):
        try:
            with Image.open(source) as image:
                mode = mode or ("L" if image.mode in ("L", "1") else "RGB")
                values = np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)
        except Exception as error:  # Pillow has a class for each format's way to be damaged
            raise RequestError(
                f"{where} is no image that can be read ({error}); remove or replace it"
            ) from None
        if pixels is None:
            pixels = np.empty((count, *values.transpose(2, 0, 1).shape), dtype=np.uint8)
        if values.transpose(2, 0, 1).shape != pixels.shape[1:]:
            raise RequestError(
                f"{where} is {values.shape[0]}x{values.shape[1]} but the first image is "
                f"{pixels.shape[2]}x{pixels.shape[3]}; resize all images to one size"
            )
        pixels[row] = values.transpose(2, 0, 1)
    return np.empty((0, 1, 1, 1), dtype=np.uint8) if pixels is None else pixels


READERS: Mapping[str, Reader] = {"npz": _read_npz, "parquet": _read_parquet, "folder": _read_folder}
"""Sources that are files: what each makes of one path; the names of the classes where it knows them."""
