"""Copies of what jobs have made, on storage that fsspec knows: they outlive the disk of the service."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from hwprofiles.errors import RequestError, TransientError
from search.place import Place
from trials.store import JobRecord, JobState

LIST = ".whole.json"
"""Names all files of a job's copy, and is written last: without it the copy is not whole."""
_log = logging.getLogger(__name__)


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

    def keep(self, job: JobRecord) -> None:
        """Copy the report and all exports of a job, in place of what was copied before.

        Raises:
            TransientError: the storage cannot be written to.
        """
        if self._files is None:
            return
        place = Place(self._runs, job.name)
        files = {path.relative_to(place.folder).as_posix(): path for path in artifacts(place)}
        if not files:
            return
        with self._reached(job.name):
            for name, path in files.items():
                there = self._at(job.name, name)
                self._files.makedirs(there.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), there)
            whole = {"created_s": job.created_s, "files": sorted(files)}
            self._files.pipe_file(self._at(job.name, LIST), json.dumps(whole).encode())

    def bring_back(self, job: JobRecord) -> None:
        """Copy the files of a job that is done back where the disk has no folder of it, if the copy is whole.

        That of another job which had its name before, and whose copy could not be removed, is none of it.

        Raises:
            TransientError: the storage cannot be read.
        """
        place = Place(self._runs, job.name)
        if self._files is None or job.state is not JobState.DONE or place.folder.exists():
            return
        with self._reached(job.name):
            if not self._files.exists(self._at(job.name, LIST)):
                return
            whole = json.loads(self._files.cat_file(self._at(job.name, LIST)))
            if whole["created_s"] == job.created_s:
                self._fetch(job.name, whole["files"], place.folder)

    def _fetch(self, job: str, names: Sequence[str], folder: Path) -> None:
        """Take the place of nothing, unlike `whole_folder`: a process may have begun to work on the job."""
        partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        try:
            for name in names:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(self._at(job, name), str(partial / name))
            with suppress(OSError):  # another call was faster
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

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
        """What a storage says may name paths and hosts of the service, so its log alone has that."""
        try:
            yield
        except Exception as error:  # each kind of storage has its own
            _log.warning("the copy of job %r at %s: %r", job, self._url, error)
            raise TransientError(
                f"the copy of job {job!r} cannot be reached now; try again, or let an admin look at "
                "PRUNEFRONT_ARTIFACTS and the service's log"
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
