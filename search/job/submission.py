"""What a job file and a file of several models have in common: read once, checked, kept as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from hwprofiles.errors import RequestError, near
from search.job.table import NESTED, Table
from search.job.tables import Data, Model

FORMAT_VERSION = 1
"""Of the JSON that the store holds; the file itself has no version."""

REFERENCES = ("sha256:", "source:")
"""What begins so is no file of this machine, but something that a service has; only a service can run it."""

MOST_BESIDE = 8
"""How many files beside a missing one a message names: a folder may have thousands."""
_MAX_BYTES = 2**20
_DEEP_KEY = re.compile(
    r"""(?<![\w\-"'\\])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}"""
)
"""A key of more parts than tables lie in one another: reading one of 100 000 would take hours."""


class Submission(Table):
    """Something asked for. Paths are as written; those that are relative start at `folder`."""

    name: str
    folder: Path

    longest_name: ClassVar[int] = 64

    @classmethod
    def of(cls, written: Table, path: Path) -> Self:
        """What the checked content of the file at `path` asks for.

        Raises:
            RequestError: a file that it names does not exist.
        """
        folder = path.resolve().parent
        name = dict(written)["name"] or _default_name(folder.name if path.stem == "job" else path.stem)
        asked = cls.model_validate({**dict(written), "name": name[: cls.longest_name], "folder": folder})
        for key, file in asked.files():
            if not (
                file.startswith(REFERENCES) or os.path.exists(folder / file)
            ):  # unlike Path.exists, False for a name that is too long
                given = f"{key} = {json.dumps(file, ensure_ascii=False)}"
                raise RequestError(f"{path}: {given} does not exist; {_beside(folder / file)}")
        return asked

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild what was asked for from `to_json`, whether or not its files are still there.

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

    @abstractmethod
    def files(self) -> Iterator[tuple[str, str]]:
        """Every file or folder that it names, with the key that names it."""


def files_of(model: Model, data: Data, within: str = "") -> Iterator[tuple[str, str]]:
    """The files of one model and its data; `within` is what their keys begin with."""
    if model.checkpoint:
        yield f"{within}model.checkpoint", model.checkpoint
    if model.bundle:
        yield f"{within}model.bundle", model.bundle
    for name, split in data.splits.items():
        yield f"{within}data.{name}", split.path


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a file that asks for something.

    Raises:
        RequestError: it is absent, no TOML, or larger or more nested than any such file.
    """
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
    names = sorted(each.name for each in path.parent.iterdir())
    if not names:
        return f"the folder {path.parent} is empty"
    if meant := near(path.name, names):
        return meant
    alike = [name for name in names if Path(name).suffix == path.suffix] or names
    more = f" and {len(alike) - MOST_BESIDE} more" if len(alike) > MOST_BESIDE else ""
    return f"the folder {path.parent} has {', '.join(alike[:MOST_BESIDE])}{more}"
