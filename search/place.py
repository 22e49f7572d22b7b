"""Where a run keeps its files, and the lock that keeps two processes from working on one job."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwprofiles.errors import NotFoundError, RequestError, TransientError

DEVICES = "devices"


@dataclass(frozen=True, slots=True)
class Place:
    """`runs/<job>/`, beside the store and the devices that all runs share."""

    runs: Path
    job: str

    @property
    def folder(self) -> Path:
        return self.runs / self.job

    @property
    def store(self) -> Path:
        return self.runs / "prunefront.db"

    @property
    def bundle(self) -> Path:
        """The dense model; written when the job has been planned."""
        return self.folder / "bundle"

    @property
    def profile(self) -> Path:
        return self.folder / "profile.parquet"

    def profile_on(self, name: str) -> Path:
        """The job's profile of a device that is not its first."""
        return self.folder / f"profile-{name}.parquet"

    @property
    def devices(self) -> Path:
        """Profiles of devices, which every job of this folder of runs may use."""
        return self.runs / DEVICES

    def recipes(self, trial: int) -> Path:
        """What has ended of the search for a trial's fine-tuning recipe."""
        return self.folder / "recipes" / f"trial-{trial}.json"

    @property
    def controller(self) -> Path:
        """What the search's controller knows, where it is one that keeps that."""
        return self.folder / "controller.safetensors"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def export_named(self) -> str:
        """How a report names it, which others read who are not to know where the runs are."""
        return self.export.relative_to(self.runs).as_posix()

    def export_of(self, trial: int) -> Path:
        """Of a trial that was asked for, beside the winner's."""
        return self.folder / "exports" / f"trial-{trial}"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def report_json(self) -> Path:
        return self.folder / "report.json"

    def finalist(self, trial: int) -> Path:
        return self.folder / "finalists" / f"trial-{trial}"

    def halfway(self, trial: int) -> Path:
        """How far the training of a finalist has come."""
        return self.folder / "halfway" / f"trial-{trial}"

    def remove_if_empty(self) -> bool:
        """Remove the folder if there is nothing in it; says whether that is so."""
        try:
            self.folder.rmdir()
        except OSError:
            return False
        return True

    def is_held(self) -> bool:
        """Whether a process works on this job now."""
        try:
            with hold(self.folder, ""):
                return False
        except NotFoundError:
            return False
        except TransientError:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and keep other processes off it; a process that dies lets go by that.

        Raises:
            RequestError: something else goes by the job's name there, or the folder cannot be made.
            TransientError: another process works on this job.
        """
        # SQLite names its own files after the store's.
        if self.job.startswith(self.store.name) or self.job == DEVICES:
            kept = "the profiles of devices" if self.job == DEVICES else "its store"
            raise RequestError(
                f"no job can be called {self.job!r}: {self.runs} keeps {kept} under that name; run it "
                "under another name with --name"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"the folder {self.folder} of job {self.job!r} cannot be made: {error.strerror}; run it "
                "under another name with --name, or move away what is in its place"
            ) from None
        with hold(self.folder, f"another process works on job {self.job!r} in {self.runs}"):
            yield


@contextmanager
def hold(folder: Path, busy: str) -> Iterator[None]:
    """Keep other processes off a folder that is there; one that dies lets go by that.

    Args:
        busy: what to say where another process holds it.

    Raises:
        NotFoundError: there is no such folder.
        TransientError: another process holds it.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        raise NotFoundError(f"there is no folder {folder} any more") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.path.samestat(os.fstat(handle), os.stat(folder))
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        if not is_there:  # or somebody who removes it has moved it away since it was opened
            raise TransientError(f"{busy}; wait for it, or stop it first")
        yield
    finally:
        os.close(handle)
