"""A job on its way to a service: its model as a bundle, its data as files, itself as JSON that names them.

The user's code runs here and nowhere else. What the service has already is not sent again, and a file that
was cut off goes on where it ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwprofiles.disk import file_sha256
from hwprofiles.errors import RequestError
from hwprofiles.remote import RefusedError, Remote
from search.job import Job
from search.job.submission import REFERENCES
from search.model import open_model
from search.sets.asked import ModelSet
from trials.data.sources import read

PART_BYTES = 8 * 2**20
"""Of a file, sent at a time."""
CHECKING_S = 900.0
"""How long the service may take to check a model or data before this side takes its answer for lost."""
BUSY_TRIES, BUSY_S = 40, 0.25

Progress = Callable[[float, str], None]
"""Told how much of a file has been sent, 0..1, and which."""


def send(remote: Remote, asked: Job | ModelSet, progress: Progress, patience_s: float) -> dict[str, Any]:
    """Send what a job is made of.

    Returns:
        The job's tables, in which references to what was sent stand for its model and its data.

    Raises:
        RequestError: the model cannot be exported, the data not be read, or the service refuses them.
        TransientError: the service is not reached within `patience_s`.
    """
    tables = asked.model_dump(mode="json", exclude={"folder"})
    sender = _Sender(remote, progress, patience_s)
    for each, owner in _owners(asked, tables):
        owner["model"] = {"bundle": _send_model(sender, each)}
        owner["data"] = _send_data(sender, each)
    return tables


def _owners(asked: Job | ModelSet, tables: dict[str, Any]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job, and the table that holds its model and data."""
    if isinstance(asked, ModelSet):
        yield from zip(map(asked.job, asked.models), tables["models"], strict=True)
    else:
        yield asked, tables


def _send_model(sender: _Sender, job: Job) -> str:
    if job.model.bundle.startswith(REFERENCES):
        return job.model.bundle
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        open_model(job).write(folder)
        manifest = file_sha256(folder / "manifest.json")
        return sender.bring(f"/bundles/{manifest}", manifest, sorted(folder.iterdir()))


def _send_data(sender: _Sender, job: Job) -> dict[str, Any]:
    """Send a job's splits; gives its [data] as the service takes it."""
    table: dict[str, Any] = job.data.model_dump(mode="json")
    to_send = {
        name: split for name, split in job.data.splits.items() if not split.path.startswith(REFERENCES)
    }
    if job.data.source in ("npz", "parquet"):
        for name, split in to_send.items():
            table[name]["path"] = sender.bring_data(job.folder / split.path)
        return table
    if not to_send and job.data.source != "factory":  # it is there, or is the digits, which prunefront has
        return table
    if len(to_send) < len(job.data.splits):
        raise RequestError(
            f"[data] names data of the service and, with {next(iter(to_send))}, a folder of this machine; "
            "name one or the other"
        )
    with TemporaryDirectory() as scratch:
        return {
            "source": "npz",
            "normalize": table["normalize"],
            **{name: sender.bring_data(path) for name, path in _as_npz(job, Path(scratch)).items()},
        }


def _as_npz(job: Job, folder: Path) -> dict[str, Path]:
    """Write what a factory or a folder of images gives as arrays, a file for each split."""
    files = {}
    for name, (inputs, labels) in read(job.data_spec(), job.folder)[0].items():
        files[name] = folder / f"{name}.npz"
        arrays = {f"x{number}": values for number, values in enumerate(inputs)} | {"y": labels}
        if odd := [values.dtype for values in arrays.values() if values.dtype.kind not in "fiub"]:
            raise RequestError(f"[data] {name} has arrays of type {odd[0]}; allowed: numbers")
        np.savez(files[name], allow_pickle=False, **arrays)
    return files


class _Sender:
    """Sends files to a service, in parts."""

    def __init__(self, remote: Remote, progress: Progress, patience_s: float) -> None:
        self._remote, self._progress, self._patience_s = remote, progress, patience_s

    def bring_data(self, path: Path) -> str:
        if not path.stat().st_size:
            raise RequestError(f"{path} is empty; name a file with examples in it")
        sha256 = file_sha256(path)
        return self.bring(f"/data/{sha256}", sha256, [path])

    def bring(self, where: str, sha256: str, files: list[Path]) -> str:
        """Send files unless the service has what is made of them, and have it made; gives its reference."""
        if not self._is_there(sha256):
            for file in files:
                self._send(file)
            self._call("PUT", where, answer_s=CHECKING_S)
        return f"sha256:{sha256}"

    def _is_there(self, sha256: str) -> bool:
        try:
            self._call("GET", f"/inputs/{sha256}")
        except RefusedError as error:
            if error.status != 404:
                raise
            return False
        return True

    def _send(self, path: Path) -> None:
        """Send a file from where the service's part of it ends.

        Where another call is still sending it, such as one whose connection is lost and that the service has
        not given up yet, its end is waited for.
        """
        where = f"/uploads/{file_sha256(path)}"
        busy, total = 0, path.stat().st_size
        with path.open("rb") as file:
            here = self._call("GET", where).json()
            while not here["whole"]:
                first = min(here["size_bytes"], total - 1)
                file.seek(first)
                part = file.read(PART_BYTES)
                headers = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{total}"}
                try:
                    here = self._call("PUT", where, part, headers=headers).json()
                except RefusedError as error:
                    busy += 1
                    if error.status != 409 or busy > BUSY_TRIES:
                        raise
                    time.sleep(BUSY_S)
                    here = self._call("GET", where).json()
                self._progress(here["size_bytes"] / total, path.name)

    def _call(self, method: str, where: str, content: bytes = b"", **how: Any) -> Any:
        return self._remote.call(method, where, content, patience_s=self._patience_s, **how)


def key_of(tables: Mapping[str, Any]) -> str:
    """What makes asking for the same again, such as after a kill, asking for the same job: all of it."""
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
