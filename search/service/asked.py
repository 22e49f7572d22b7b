"""What is asked for over the wire: a job file as JSON, whose files are named by what they hold.

Where a job file has a path, this has `sha256:…`, a file or a bundle that was sent before, or `source:NAME`,
data that an admin registered. No other path means anything here, and no function of a user's is ever called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from hwprofiles.errors import RequestError
from search.job import Job
from search.job.submission import REFERENCES
from search.place import DEVICES, Place
from search.sets.asked import ModelSet

SPLITS = ("train", "validation", "test")

Located = Callable[[str], Path]
"""From `sha256:…` or `source:NAME` to a path of the server.

Raises NotFoundError where there is no such thing.
"""


MOST_TRIALS = 100_000
"""Of a job: ten times as many as its page shows at once without delay."""


def read_asked(tables: Mapping[str, Any], folder: Path, located: Located) -> Job | ModelSet:
    """Check what is asked for; its paths become the server's.

    Args:
        tables: of a job file, or of one for a set of models.
        folder: where relative paths would begin.

    Raises:
        RequestError: a key or a value is wrong, names a path or a function, or nothing that is here.
    """
    kind = ModelSet if "models" in tables else Job
    name = tables.get("name") or "job"
    if name == DEVICES or str(name).startswith(Place(folder, "").store.name):
        raise RequestError(f"the job: name = {name!r} is one of the service's own; choose another")
    asked = kind.checked({**tables, "name": name, "folder": str(folder)}, "the job")
    if asked.search.trials > MOST_TRIALS:
        raise RequestError(
            f"the job: search.trials = {asked.search.trials} is more than this service takes; allowed: 1 to "
            f"{MOST_TRIALS}"
        )
    content = asked.model_dump(mode="json")
    for owner, where in _owners(content):
        _refuse_code(owner, where)
        model, data = owner["model"], owner["data"]
        model["bundle"] = str(_path(model["bundle"], f"{where}model.bundle", located))
        for name in SPLITS:
            if split := data[name]:
                split["path"] = str(_path(split["path"], f"{where}data.{name}", located))
    for number, device in enumerate(content["devices"]):
        if "/" in device["profile"] or device["profile"].endswith(".parquet"):
            raise RequestError(
                f"the job: devices[{number}].profile = {device['profile']!r} is a file; name a device of the "
                "service, as `prunefront devices` lists them"
            )
    return kind.checked({**content, "folder": str(folder)}, "the job")


def shown_asked(spec: Mapping[str, Any], named: Callable[[str], str]) -> dict[str, Any]:
    """What was asked for as it can be asked for again: paths of the server become names.

    Args:
        spec: as `read_asked` has it.
        named: from a path to a name of it.
    """
    content: dict[str, Any] = deepcopy({k: v for k, v in spec.items() if k not in ("folder", "version")})
    for owner, _ in _owners(content):
        owner["model"]["bundle"] = named(owner["model"]["bundle"])
        for name in SPLITS:
            if split := owner["data"][name]:
                split["path"] = named(split["path"])
    return content


def _owners(content: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The tables that hold a model and its data, and what their keys begin with."""
    if "models" in content:
        return [(each, f"models[{number}].") for number, each in enumerate(content["models"])]
    return [(content, "")]


def _refuse_code(owner: Mapping[str, Any], where: str) -> None:
    if owner["model"]["factory"]:
        raise RequestError(
            f"the job: {where}model.factory names a function, and a service runs no code of yours; send the "
            "model as a bundle, as `prunefront submit` does"
        )
    if owner["data"]["factory"]:
        raise RequestError(
            f"the job: {where}data.factory names a function, and a service runs no code of yours; send "
            "examples as npz or Parquet, or name data that an admin has registered"
        )


def _path(reference: str, key: str, located: Located) -> Path:
    if not reference.startswith(REFERENCES):
        raise RequestError(
            f"the job: {key} = {reference!r} is no file of the service; allowed: 'sha256:…' of what was sent "
            "before, or 'source:NAME' of data that an admin has registered"
        )
    return located(reference)
