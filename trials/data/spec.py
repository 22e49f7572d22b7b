"""What a job says of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
