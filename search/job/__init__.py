"""The job file: what one search is asked to do, read once and checked before anything starts.

`Job.load` either returns a job that can be run or raises one sentence that names the file, the key, the value
and what is allowed. docs/job.md explains every key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from hwprofiles.errors import RequestError, nearest
from search.job.table import NESTED, Name, Table
from search.job.tables import (
    Budget,
    Data,
    DeviceChoice,
    Finetune,
    Level,
    Model,
    Regularise,
    Search,
    Sparsity,
)
from trials import data

__all__ = ["Budget", "DeviceChoice", "Job", "Level", "Search", "Sparsity"]

FORMAT_VERSION = 1
"""Of the JSON that the store holds; the job file itself has no version."""


_MAX_BYTES = 2**20
_DEEP_KEY = re.compile(
    r"""(?<![\w\-"'\\])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}"""
)
"""A key of more parts than tables lie in one another: reading one of 100 000 would take hours."""


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
    def _has_one_device(self) -> Self:
        if len(self.devices) != 1:
            raise ValueError(f"has {len(self.devices)} [[devices]]; allowed: one device per job for now")
        return self


class Job(_JobFile):
    """One search, as asked for. Paths are as written; those that are relative start at `folder`."""

    folder: Path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job file and check all of it, down to the files it names.

        Raises:
            RequestError: the file, a key, a value or a file that it names is wrong.
        """
        written = _JobFile.checked(_read_toml(path), str(path))
        folder = path.resolve().parent
        name = written.name or _default_name(folder.name if path.stem == "job" else path.stem)
        job = cls.model_validate({**dict(written), "name": name, "folder": folder})
        for key, file in job._files():
            if not os.path.exists(folder / file):  # unlike Path.exists, False for a name that is too long
                given = f"{key} = {json.dumps(file, ensure_ascii=False)}"
                raise RequestError(f"{path}: {given} does not exist; {_beside(folder / file)}")
        return job

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild a job from `to_json`, whether or not its files are still there.

        Raises:
            RequestError: another version of prunefront wrote it.
        """
        if stored.get("version") != FORMAT_VERSION:
            raise RequestError(
                f"the stored job has format version {stored.get('version')!r}; allowed: {FORMAT_VERSION}; "
                "run the job file again under another name"
            )
        tables = {key: value for key, value in stored.items() if key != "version"}
        return cls.checked(tables, "the stored job")

    def to_json(self) -> dict[str, Any]:
        return {"version": FORMAT_VERSION, **self.model_dump(mode="json")}

    def fingerprint(self) -> str:
        """sha256, in hex, of everything that affects results: all keys with their defaults, but not the name,
        the place of the file or the number of workers."""
        content = self.model_dump(mode="json", exclude={"name": True, "folder": True, "search": {"workers"}})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def device(self) -> DeviceChoice:
        """The device that is searched on."""
        return self.devices[0]

    def data_spec(self) -> data.DataSpec:
        """Return `[data]` as `trials.data.load` takes it, with `folder` as its base."""
        table = self.data
        splits = {name: data.SplitSpec(split.path, split.rows) for name, split in table.splits.items()}
        normalize = data.Normalize(table.normalize.mean, table.normalize.std) if table.normalize else None
        return data.DataSpec(
            source=table.source, normalize=normalize, factory=table.factory, args=table.args, **splits
        )

    def _files(self) -> Iterator[tuple[str, str]]:
        """Every file or folder that the job names, with the key that names it."""
        if self.model.checkpoint:
            yield "model.checkpoint", self.model.checkpoint
        if self.model.bundle:
            yield "model.bundle", self.model.bundle
        for name, split in self.data.splits.items():
            yield f"data.{name}", split.path


def _read_toml(path: Path) -> dict[str, Any]:
    if os.path.isdir(path):
        raise RequestError(f"{path} is a folder; name the job file in it, such as {path / 'job.toml'}")
    if not os.path.exists(path):
        raise RequestError(f"the job file {path} does not exist; {_beside(path)}")
    try:
        with path.open("rb") as file:
            told = file.read(_MAX_BYTES + 1)
        if len(told) > _MAX_BYTES:
            raise RequestError(f"{path} has more than {_MAX_BYTES} bytes, as no job has; name the job file")
        text = told.decode()
        if _DEEP_KEY.search(text):
            raise RequestError(f"{path}: {NESTED}")
        return tomllib.loads(text)
    except OSError as error:
        raise RequestError(f"the job file {path} cannot be read: {error.strerror}; mend that first") from None
    except ValueError as error:
        raise RequestError(f"{path} is not valid TOML: {error}; mend that place first") from None
    except RecursionError:
        raise RequestError(f"{path}: {NESTED}") from None


def _default_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:64] or "job"


def _beside(path: Path) -> str:
    """Name the nearest thing to a missing path."""
    if not os.path.isdir(path.parent):
        return f"there is no folder {path.parent}"
    names = [each.name for each in path.parent.iterdir()]
    return nearest(path.name, names) if names else f"the folder {path.parent} is empty"
