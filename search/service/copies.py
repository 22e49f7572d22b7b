"""Copies of what jobs have made, on storage that fsspec knows: they outlive the disk of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from hwprofiles.disk import whole_folder
from hwprofiles.errors import RequestError, TransientError
from search.place import Place

LIST = ".whole.json"
"""Names all files of a job's copy, and is written last: without it the copy is not whole."""


class Copies:
    """What users may fetch of jobs, a folder for each job, below a URL such as `s3://bucket/prefix`.

    Without a URL there are none, and nothing is done.

    Raises:
        RequestError: there is no such storage, or what reads it is not installed.
    """

    def __init__(self, url: str, runs: Path) -> None:
        self._url, self._runs = url, runs
        self._files: Any = None
        try:
            if url:
                self._files, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RequestError(
                f"PRUNEFRONT_ARTIFACTS is {url!r}, which cannot be opened: {error}; allowed is a URL that "
                "fsspec knows, such as s3://bucket/prefix, for which install prunefront[s3]"
            ) from None

    def keep(self, job: str) -> None:
        """Copy the report and all exports of a job, in place of what was copied before.

        Raises:
            TransientError: the storage cannot be written to.
        """
        if self._files is None:
            return
        place = Place(self._runs, job)
        files = {path.relative_to(place.folder).as_posix(): path for path in artifacts(place)}
        if not files:
            return
        with self._reached(job):
            for name, path in files.items():
                there = self._at(job, name)
                self._files.makedirs(there.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), there)
            self._files.pipe_file(self._at(job, LIST), json.dumps(sorted(files)).encode())

    def bring_back(self, job: str) -> None:
        """Copy a job's files back where this disk has no folder of it, and its copy is whole.

        Raises:
            TransientError: the storage cannot be read.
        """
        place = Place(self._runs, job)
        if self._files is None or place.folder.exists():
            return
        with self._reached(job):
            if not self._files.exists(self._at(job, LIST)):
                return
            with whole_folder(place.folder) as partial:
                for name in json.loads(self._files.cat_file(self._at(job, LIST))):
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(self._at(job, name), str(partial / name))

    def forget(self, job: str) -> None:
        """Remove a job's copy.

        Raises:
            TransientError: the storage cannot be written to.
        """
        if self._files is None:
            return
        with self._reached(job):
            self._files.invalidate_cache()
            if self._files.exists(self._at(job, "")[:-1]):
                self._files.rm(self._at(job, "")[:-1], recursive=True)

    def _at(self, job: str, name: str) -> str:
        return f"{self._root.rstrip('/')}/{job}/{name}"

    @contextmanager
    def _reached(self, job: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each kind of storage has its own
            raise TransientError(
                f"the copy of job {job!r} at {self._url} cannot be reached: {error or type(error).__name__}; "
                "check that the storage is there and lets the service in"
            ) from error


def artifacts(place: Place) -> set[Path]:
    """What may be fetched: files in the open, no links, nothing that is being written."""
    made = [path for path in place.folder.glob("export*/**") if path.is_dir()]
    return {
        path
        for folder in (place.folder, *made)
        for path in folder.glob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    }
