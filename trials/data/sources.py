"""What each source gives: inputs and labels for every split that it has."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from hwprofiles.errors import RequestError, nearest
from trials.data.files import READERS, Examples, Select
from trials.data.spec import DataSpec, SplitSpec
from trials.data.splits import stratified
from trials.factory import call_factory

SPLITS = ("train", "validation", "test")


def read(spec: DataSpec, base: Path) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Examples by split, as they are stored, and the names of the classes where the source knows them.

    Raises:
        RequestError: the source is unknown, missing or damaged, or the job says of it what it would ignore.
    """
    _refuse_idle_keys(spec)
    if spec.source == "digits":
        return _digits(), tuple("0123456789")
    if spec.source == "factory":
        return _from_factory(spec, base), ()
    if spec.source in READERS:
        return _from_files(spec, base)
    known = ("digits", "factory", *READERS)
    raise RequestError(f"[data] source is {spec.source!r}; {nearest(spec.source, known)}")


def _refuse_idle_keys(spec: DataSpec) -> None:
    """A key that its source would ignore is a misunderstanding; say so before anything is read."""
    if spec.source != "factory" and (spec.factory or spec.args):
        raise RequestError(f"[data] factory and args belong to source = 'factory', not to {spec.source!r}")
    if spec.source in ("digits", "factory"):
        for name in SPLITS:
            if getattr(spec, name) not in (None, SplitSpec()):
                raise RequestError(
                    f"[data] {name} is a file, but source {spec.source!r} makes its own splits"
                )


def _digits() -> dict[str, Examples]:
    """scikit-learn's 1 797 handwritten digits (UCI Optical Recognition of Handwritten Digits, test part).

    Inputs are (rows, 1, 8, 8) in 0..1. The split is fixed, whatever the job's seed, because checkpoints are
    trained on its train part: 60 % train, 20 % validation, 20 % test.
    """
    # To import scikit-learn would take longer than a trial.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",", dtype=np.int64)
    pixels, labels = table[:, :-1], table[:, -1]
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
        if name not in SPLITS:
            raise RequestError(
                f"[data] factory {spec.factory!r} returned a split {name!r}; {nearest(name, SPLITS)}"
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


def _from_files(spec: DataSpec, base: Path) -> tuple[dict[str, Examples], tuple[str, ...]]:
    reader = READERS[spec.source]
    splits: dict[str, Examples] = {}
    classes: tuple[str, ...] = ()
    for name in SPLITS:
        wanted: SplitSpec | None = getattr(spec, name)
        if wanted is None:
            continue
        path = base / wanted.path
        if not wanted.path or not path.exists():
            raise RequestError(f"[data] {name} names {wanted.path!r}, which is not there (looked at {path})")
        splits[name], names = reader(path, _selection(wanted, name))
        if name != "train" and names != classes:
            raise RequestError(f"[data] {name} has the classes {names} but train has {classes}; use one set")
        classes = names
    return splits, classes


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
