"""A set of models that share one budget: what its file says, and the job of each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from hwprofiles.errors import RequestError
from search.job import Budget, DeviceChoice, Job, Search, Sparsity
from search.job.submission import Submission, files_of, read_toml
from search.job.table import Positive, Table
from search.job.tables import Data, Finetune, Model, Regularise

# Of both and the dot between them a job's name is made, of 64 characters at most.
SetName = Annotated[
    str,
    Field(
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,38})?$",
        description="up to 39 letters, digits, dots, dashes and underscores, a letter or digit first",
    ),
]
MemberName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,23}$",
        description="up to 24 letters, digits, dashes and underscores, a letter or digit first",
    ),
]


ADDING_UP = ("latency_ms", "macs", "parameters", "size_bytes", "energy_mj")
"""Kinds of budgets that models share: as one runs after another, all take the sum of what each does."""


class Member(Table):
    """One model of a set.

    `weight` is how much its accuracy counts beside that of the others. `floor`, 0..1, is the least accuracy
    on validation that it may have, `accuracy_drop` the same in points below the dense model.
    """

    name: MemberName
    model: Model
    data: Data
    weight: Positive = 1.0
    floor: Annotated[float | None, Field(gt=0, lt=1, description="a fraction between 0 and 1")] = None
    accuracy_drop: Annotated[float | None, Field(ge=0, lt=100, description="points, from 0 to below 100")] = (
        None
    )

    @model_validator(mode="after")
    def _has_one_floor(self) -> Self:
        if self.floor is not None and self.accuracy_drop is not None:
            raise ValueError("has floor and accuracy_drop, which say the same; remove one")
        return self

    def least_accuracy(self, dense: float) -> float:
        """What it must reach on validation, given the dense model's accuracy; 0 where it has no floor."""
        if self.accuracy_drop is not None:
            return dense - self.accuracy_drop / 100
        return self.floor or 0.0


class SetFile(Table):
    """What a file of several models may say."""

    name: SetName = ""
    models: Annotated[tuple[Member, ...], Field(min_length=2, description="two or more [[models]] tables")]
    devices: tuple[DeviceChoice, ...] = (DeviceChoice(),)
    budget: Budget
    search: Search = Search()
    finetune: Finetune = Finetune()
    sparsity: Sparsity = Sparsity()
    regularise: Regularise = Regularise()

    @model_validator(mode="after")
    def _is_one_search(self) -> Self:
        if len(self.devices) != 1:
            raise ValueError(
                f"has {len(self.devices)} [[devices]]; allowed: one, on which all [[models]] run"
            )
        if self.devices[0].own_latency:
            raise ValueError("has a latency of its own for its device; write it under [budget]")
        names = [member.name for member in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"has [[models]] named {', '.join(names)}; each needs a name of its own")
        if self.budget.accuracy_drop is not None:
            raise ValueError("has accuracy_drop in [budget]; write it, or a floor, with each of [[models]]")
        if len(self.budget.asked) != 1:
            keys = " and ".join(asked.key for asked in self.budget.asked)
            raise ValueError(f"has a budget of {keys}; allowed: one key, whose level all [[models]] share")
        if (kind := self.budget.leading.kind) not in ADDING_UP:
            raise ValueError(
                f"has a budget of {kind}, which is no sum of what each of [[models]] takes; allowed: "
                "latency, macs, parameters, size_bytes or energy"
            )
        if (levels := len(self.budget.leading.levels)) != 1:
            raise ValueError(f"has a budget of {levels} levels; allowed: one, which all [[models]] share")
        return self


class ModelSet(SetFile, Submission):
    """Models that run one after another on a device and share its budget, as asked for."""

    longest_name: ClassVar[int] = 39

    @property
    def jobs(self) -> list[str]:
        """What the jobs of its models are called."""
        return [self.job_name(member) for member in self.models]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        if "models" not in stored:
            raise RequestError(
                f"job {stored.get('name')!r} is one of a single model; run the set under another name with "
                "--name"
            )
        return super().from_json(stored)

    def job_name(self, member: Member) -> str:
        return f"{self.name}.{member.name}"

    def job(self, member: Member, levels: Sequence[float] = ()) -> Job:
        """The job of one model.

        Args:
            levels: what it may cost, in the unit of the budget's kind, with a finalist of each; none are the
                budget of the whole set.
        """
        budget, search = self.budget, self.search
        if levels:
            budget = Budget.checked({budget.leading.kind: list(levels)}, "a share")
            search = search.model_copy(update={"finalists": max(search.finalists, len(levels))})
        return Job(
            name=self.job_name(member),
            folder=self.folder,
            model=member.model,
            data=member.data,
            budget=budget,
            search=search,
            devices=self.devices,
            finetune=self.finetune,
            sparsity=self.sparsity,
            regularise=self.regularise,
        )

    def files(self) -> Iterator[tuple[str, str]]:
        for number, member in enumerate(self.models):
            yield from files_of(member.model, member.data, f"models[{number}].")


def load(path: Path) -> Job | ModelSet:
    """Read a file that asks for one job, or for a set of models.

    Raises:
        RequestError: the file, a key, a value or a file that it names is wrong.
    """
    content = read_toml(path)
    if "models" not in content:
        return Job.load(path)
    for key in ("model", "data"):
        if key in content:
            raise RequestError(
                f"{path}: has [{key}] beside [[models]]; write one model as [model] and [data], or each of "
                "several as [[models]] with a model and data of its own"
            )
    return ModelSet.of(SetFile.checked(content, str(path)), path)


def read(stored: Mapping[str, Any]) -> Job | ModelSet:
    """Rebuild what was asked for from its `to_json`.

    Raises:
        RequestError: another version of prunefront wrote it.
    """
    return (ModelSet if "models" in stored else Job).from_json(stored)
