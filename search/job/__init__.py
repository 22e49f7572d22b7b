"""The job file: what one search is asked to do, read once and checked before anything starts.

`Job.load` either returns a job that can be run or raises one sentence that names the file, the key, the value
and what is allowed. docs/job.md explains every key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from hwprofiles.errors import RequestError
from search.job.budget import MEASURED_KINDS, Asked, Budget, CostKind, Level
from search.job.submission import Submission, files_of, read_toml
from search.job.table import Name, Table
from search.job.tables import (
    Data,
    DeviceChoice,
    Finetune,
    Model,
    Regularise,
    Search,
    Sparsity,
)
from trials import data

__all__ = ["Asked", "Budget", "CostKind", "DeviceChoice", "Job", "Level", "Search", "Sparsity"]


class _JobFile(Table):
    """What a job file may say."""

    name: Name = ""
    model: Model
    data: Data
    devices: tuple[DeviceChoice, ...] = (DeviceChoice(),)
    budget: Budget
    search: Search = Search()
    finetune: Finetune = Finetune()
    sparsity: Sparsity = Sparsity()
    regularise: Regularise = Regularise()

    @model_validator(mode="after")
    def _tells_its_devices_apart(self) -> Self:
        names = [device.name for device in self.devices]
        if not names:
            raise ValueError("has no [[devices]]; leave the key out for this machine's CPU, or name one")
        alike = {name.lower(): name for name in names}  # files go by them, and not all disks tell case apart
        for name in names:
            if (other := alike[name.lower()]) != name or names.count(name) > 1:
                raise ValueError(
                    f"has [[devices]] called {name!r} and {other!r}; give each a name of its own, "
                    "whatever the case of letters"
                )
        if self.devices[0].own_latency:
            raise ValueError("has a latency of its own for its first device; write it under [budget]")
        levels = len(self.budget.leading.levels)
        for device in self.devices[1:]:
            own = device.own_latency
            if own and len(own.levels) not in (1, levels):
                raise ValueError(
                    f"has {len(own.levels)} levels of {own.key} for {device.name!r}; allowed: one, or as "
                    f"many as [budget] has, which is {levels}"
                )
        return self


class Job(_JobFile, Submission):
    """One search, as asked for."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job file and check all of it, down to the files it names.

        Raises:
            RequestError: the file, a key, a value or a file that it names is wrong.
        """
        content = read_toml(path)
        if "models" in content:
            raise RequestError(
                f"{path} asks for a set of [[models]], which only `prunefront run` takes; for this command "
                "write a job file with one of them as [model] and [data]"
            )
        return cls.of(_JobFile.checked(content, str(path)), path)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        if "models" in stored:
            jobs = ", ".join(f"{stored['name']}.{member['name']}" for member in stored["models"])
            raise RequestError(f"{stored['name']!r} is a set of models; name one of its jobs: {jobs}")
        return super().from_json(stored)

    @property
    def device(self) -> DeviceChoice:
        """The device that is searched on."""
        return self.devices[0]

    def measured_on(self, choice: DeviceChoice) -> tuple[Asked, ...]:
        """What the job limits of that which a device is measured for, the leading key first."""
        asked = [each for each in self.budget.asked if each.kind in MEASURED_KINDS.values()]
        if choice.own_latency:
            asked = [each for each in asked if each.kind != "latency_ms"] + [choice.own_latency]
        return tuple(asked)

    def data_spec(self) -> data.DataSpec:
        """Return `[data]` as `trials.data.load` takes it, with `folder` as its base."""
        table = self.data
        splits = {name: data.SplitSpec(split.path, split.rows) for name, split in table.splits.items()}
        normalize = data.Normalize(table.normalize.mean, table.normalize.std) if table.normalize else None
        return data.DataSpec(
            source=table.source, normalize=normalize, factory=table.factory, args=table.args, **splits
        )

    def files(self) -> Iterator[tuple[str, str]]:
        yield from files_of(self.model, self.data)
        for number, device in enumerate(self.devices):
            if device.profile.endswith(".parquet"):
                yield f"devices[{number}].profile", device.profile
