"""Copies of what jobs have made, on storage that fsspec knows: they outlive the disk of the service."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from hwprofiles.disk import file_sha256
from hwprofiles.errors import PrunefrontError, RequestError, TransientError
from search.place import Place
from trials.records import JobRecord, JobState
from trials.store import Store

LIST = ".whole.json"
"""Has size and sha256 of all files of a job's copy, and is written last: without it the copy is not whole."""
_log = logging.getLogger(__name__)


class CopyError(TransientError):
    """The storage of copies cannot be read or written now."""


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

    def __bool__(self) -> bool:
        """Whether there is a storage of them."""
        return self._files is not None

    def keep(self, job: JobRecord) -> None:
        """Copy the report and all exports of a job, in place of what was copied before.

        A file stays as it is there if the copy is whole, the storage still has as many bytes of it as it had
        then, and it has the sha256 here that it was copied with.

        Raises:
            CopyError: the storage cannot be written to.
        """
        if self._files is None:
            return
        place = Place(self._runs, job.name)
        files = {path.relative_to(place.folder).as_posix(): path for path in artifacts(place)}
        if not files:
            return
        here = {name: [path.stat().st_size, file_sha256(path)] for name, path in files.items()}
        with self._reached(job.name):
            there, sizes = self._listed(job), self._sizes(job.name)
            changed = [
                name for name in here if there.get(name) != here[name] or sizes.get(name) != here[name][0]
            ]
            if not there.keys().isdisjoint(changed):  # half of them is neither the old copy nor the new one
                self._files.rm_file(self._at(job.name, LIST))
            for name in changed:
                self._files.makedirs(self._at(job.name, name).rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(files[name]), self._at(job.name, name))
            if changed or there != here:
                whole = {"created_s": job.created_s, "files": here}
                self._files.pipe_file(self._at(job.name, LIST), json.dumps(whole).encode())

    def _listed(self, job: JobRecord) -> dict[str, Any]:
        """What a job's copy holds, by name, if it is whole. That of another job which had its name before,
        and whose copy could not be removed, is none of it."""
        self._files.invalidate_cache()
        if not self._files.exists(self._at(job.name, LIST)):
            return {}
        content = self._files.cat_file(self._at(job.name, LIST))
        try:
            whole = json.loads(content)
            return dict(whole["files"]) if whole["created_s"] == job.created_s else {}
        except (ValueError, KeyError, TypeError):  # it was cut off itself
            return {}

    def _sizes(self, job: str) -> dict[str, int]:
        """How many bytes the storage has of each file below a job's folder there."""
        root = self._at(job, "")
        found = self._files.find(root, detail=True) if self._files.exists(root[:-1]) else {}
        return {path.removeprefix(root): file["size"] for path, file in found.items()}

    def bring_back(self, job: JobRecord, store: Store) -> None:
        """Copy the files of a job that is done back where the disk has no folder of it, if the copy is whole.

        Raises:
            NotFoundError: the job was removed meanwhile.
            CopyError: the storage cannot be read.
        """
        place = Place(self._runs, job.name)
        if self._files is None or job.state is not JobState.DONE or place.folder.exists():
            return
        with self._reached(job.name):
            if listed := self._listed(job):
                self._fetch(job, listed, place.folder, store)

    def _fetch(self, job: JobRecord, names: Iterable[str], folder: Path, store: Store) -> None:
        """Take the place of nothing, unlike `whole_folder`: a process may have begun to work on the job."""
        partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        try:
            for name in names:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(self._at(job.name, name), str(partial / name))
            with store.keeping(job), suppress(OSError):  # another call was faster
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def forget(self, job: str) -> None:
        """Remove a job's copy.

        Raises:
            CopyError: the storage cannot be written to.
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
        except PrunefrontError:
            raise
        except Exception as error:  # each kind of storage has its own
            _log.warning("the copy of job %r at %s: %r", job, self._url, error)
            raise CopyError(
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
