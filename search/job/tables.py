"""The tables of a job file: their keys, what each may hold, and what it is where it is left out."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from search.job.budget import Asked, Levels
from search.job.table import (
    Arguments,
    Checkpoint,
    Count,
    CountOrZero,
    FileName,
    Function,
    Positive,
    Table,
    Text,
)
from trials import graph

Criterion = Literal[
    "l1",
    "l2",
    "batchnorm",
    "geometric_median",
    "lamp",
    "taylor",
    "fisher",
    "activation",
    "apoz",
    "relevance",
    "error",
    "random",
]
Repair = Literal["least_squares", "sequential", "batchnorm", "none"]


class Input(Table):
    """One input of the model, without its batch axis; integers are drawn from 0 to `high` - 1."""

    name: Text = "input"
    shape: Annotated[tuple[Count, ...], Field(description="sizes of 1 or more, such as [3, 32, 32]")]
    dtype: Literal["float32", "int64", "int32", "bool"] = "float32"
    high: Annotated[int, Field(ge=1, le=2**31, description="an integer from 1 to 2147483648")] = 2


class Model(Table):
    """Where the model comes from: a function of the user's, or a bundle made before."""

    factory: Function = ""
    args: Arguments = Field(default_factory=dict)
    checkpoint: Checkpoint = ""
    input: Input | None = None
    inputs: tuple[Input, ...] = ()
    bundle: str = ""

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if bool(self.factory) == bool(self.bundle):
            raise ValueError(f"needs factory or bundle; it has {'both' if self.bundle else 'neither'}")
        for key in ("args", "checkpoint", "input", "inputs") if self.bundle else ():
            if getattr(self, key):
                raise ValueError(f"has {key}, which a bundle brings itself; remove it")
        if self.factory and bool(self.input) == bool(self.inputs):
            raise ValueError(
                "needs input = { shape = [...] } or one [[model.inputs]] for each input; "
                f"it has {'both' if self.inputs else 'neither'}"
            )
        names = [each.name for each in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"has inputs named {names}; each needs a name of its own")
        return self

    @property
    def input_specs(self) -> tuple[graph.Input, ...]:
        """All inputs as a bundle describes them; none for a job that starts from a bundle."""
        inputs = (self.input,) if self.input else self.inputs
        return tuple(graph.Input(**each.model_dump()) for each in inputs)


# Not strict, or the list that `_path_alone` passes on is no tuple.
Rows = Annotated[tuple[int, int], Field(strict=False, description="[first, past the last]")]


class Split(Table):
    """A file or folder, and the rows [first, past the last) of it that count."""

    path: Text
    rows: Rows | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _rows_ascend(self) -> Self:
        if self.rows and not 0 <= self.rows[0] < self.rows[1]:
            raise ValueError(f"has rows = {list(self.rows)}; allowed: 0 <= first < past the last")
        return self


SplitChoice = Annotated[Split | None, Field(description='a path, or { path = "...", rows = [0, 5000] }')]


class Normalize(Table):
    """Per-channel mean and standard deviation of inputs scaled to 0..1."""

    mean: Annotated[tuple[float, ...], Field(min_length=1, description="a number per channel")]
    std: Annotated[tuple[Positive, ...], Field(min_length=1, description="a number above 0 per channel")]


class Data(Table):
    """Where the examples come from."""

    source: Literal["digits", "npz", "parquet", "folder", "factory"]
    train: SplitChoice = None
    validation: SplitChoice = None
    test: SplitChoice = None
    normalize: Normalize | None = None
    factory: Function = ""
    args: Arguments = Field(default_factory=dict)

    @model_validator(mode="after")
    def _suits_its_source(self) -> Self:
        made_by_source = self.source in ("digits", "factory")
        if made_by_source and self.splits:
            raise ValueError(
                f"has {next(iter(self.splits))}, but source {self.source!r} makes its own splits; remove it"
            )
        if not made_by_source and self.train is None:
            raise ValueError(f"lacks train, the path that source {self.source!r} reads; add it")
        if self.source == "factory" and not self.factory:
            raise ValueError('lacks factory; name a function, such as "data:splits"')
        if self.source != "factory" and (self.factory or self.args):
            raise ValueError(f"has factory or args, which source {self.source!r} does not use; remove them")
        return self

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that are files."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}


class DeviceChoice(Table):
    """What latency is measured on, and how it is run."""

    name: FileName = "this-cpu"
    runtime: Literal[
        "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "synthetic", "tensorrt", "torch"
    ] = "onnxruntime"
    precision: Literal["fp32", "tf32", "fp16"] = "fp32"
    batch: Annotated[int, Field(ge=1, le=65536, description="an integer from 1 to 65536")] = 1
    threads: Annotated[int, Field(ge=1, le=1024, description="an integer from 1 to 1024")] = 1
    profile: str = ""
    latency_ms: Levels = ()
    latency: Levels = ()

    @property
    def own_latency(self) -> Asked | None:
        """What candidates may take on this device, where that is not what [budget] says."""
        given = [Asked(key, getattr(self, key)) for key in ("latency_ms", "latency") if getattr(self, key)]
        return given[0] if given else None

    @model_validator(mode="after")
    def _is_told_once(self) -> Self:
        if self.latency_ms and self.latency:
            raise ValueError("has both latency_ms and latency; allowed: one of them")
        if self.own_latency:
            self.own_latency.check_unit()
        usual = type(self).model_construct()
        if self.profile and self.name == usual.name:
            raise ValueError("has profile and no name; say what reports call that device")
        if self.profile:
            for key in ("runtime", "precision", "batch", "threads"):
                if getattr(self, key) != getattr(usual, key):
                    raise ValueError(f"has {key} beside profile, which says how its device runs; remove it")
        return self


class Search(Table):
    """How candidates are proposed, made real and judged; a zero leaves the choice to prunefront."""

    controller: Literal[
        "auto", "amc", "evolution", "greedy", "knapsack", "nsga2", "random", "tpe", "uniform"
    ] = "auto"
    reward: Literal["accuracy", "tradeoff"] = "accuracy"
    trials: Count = 60
    workers: Annotated[int, Field(ge=1, le=64, description="an integer from 1 to 64")] = 1
    seed: Annotated[int, Field(ge=0, lt=2**32, description="an integer from 0 to 4294967295")] = 0
    whole: Annotated[tuple[Text, ...], Field(description="a list of group names or patterns")] = ()
    blocks: Annotated[bool, Field(description="true or false")] = False
    lowest_keep: Annotated[float, Field(gt=0, le=1, description="a fraction above 0 and up to 1")] = 0.1
    criterion: Criterion = "l1"
    repair: Repair = "sequential"
    final_repair: Repair = "sequential"
    validation_images: CountOrZero = 0
    execution: Literal["auto", "float32", "channels_last", "bfloat16"] = "auto"
    round_to: CountOrZero = 0
    finalists: Count = 4

    @model_validator(mode="after")
    def _reward_is_of_amc(self) -> Self:
        if self.reward != "accuracy" and self.controller != "amc":
            raise ValueError(
                f'has reward, but only the controller "amc" has a choice of it, not {self.controller!r}; '
                "remove it"
            )
        return self


class Finetune(Table):
    """How pruned candidates are trained."""

    brief_steps: CountOrZero = 0
    final_steps: CountOrZero = 300
    batch_size: Count = 128
    learning_rate: Annotated[float, Field(ge=0, le=1e6, description="a number from 0 to 1000000")] = 0.0
    augment: Literal["none", "shift", "shift+flip"] = "none"
    distill: Annotated[float, Field(ge=0, le=1, description="a fraction from 0 to 1")] = 1.0


def _read_zeros(value: object) -> float | str:
    """A fraction, or how many weights stay of how many, as "2:4"."""
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9]\d?):([1-9]\d?)", value)):
        if int(match[1]) < int(match[2]):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise PydanticCustomError("zeros", "neither a fraction nor a pattern")


Zeros = Annotated[
    float | str,
    PlainValidator(_read_zeros),
    Field(description='a fraction from 0 to below 1, or how many weights stay of how many, such as "2:4"'),
]


class Sparsity(Table):
    """Single weights that are zero in what is trained and exported, beside units that are gone."""

    zeros: Zeros = 0.0
    scope: Literal["global", "layer"] = "global"
    schedule: Literal["one_shot", "iterative", "gradual", "rewind"] = "one_shot"

    @model_validator(mode="after")
    def _scope_is_of_a_fraction(self) -> Self:
        if isinstance(self.zeros, str) and self.scope != "global":
            raise ValueError(f"has scope, but the pattern {self.zeros!r} holds in every layer; remove it")
        return self


class Regularise(Table):
    """Training of the dense model, before anything is pruned, that drives what is not needed to zero."""

    steps: CountOrZero = 0
    penalty: Literal["l1", "group_lasso", "batchnorm"] = "group_lasso"
    strength: Positive = 0.01
    threshold: Literal["soft", "hard"] = "soft"
