"""What jobs have made is copied as soon as nobody works on them, again and again until that succeeds."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from hwprofiles.errors import NotFoundError, PrunefrontError, TransientError
from search.place import Place
from search.service.copies import Copies, CopyError
from search.status import jobs_of
from trials.service_jobs import ServiceJob, ServiceJobs
from trials.store import Store

LOOK_EVERY_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
"""Before a copy that failed is tried again; each pause is twice the one before it."""


@dataclass(frozen=True)
class _Pause:
    lasts_s: float
    begun_s: float = field(default_factory=time.monotonic)

    def is_over(self) -> bool:
        return time.monotonic() - self.begun_s >= self.lasts_s

    def next(self) -> _Pause:
        return _Pause(min(2 * self.lasts_s, LONGEST_PAUSE_S))


@dataclass
class Copying:
    """A thread of the service. The store knows what is still to be copied, so it may end at any time."""

    store: Store
    runs: Path
    copies: Copies
    _pauses: dict[tuple[str, float], _Pause] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._jobs = ServiceJobs(self.store)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="copying", daemon=True).start()

    def stop(self) -> None:
        """Begin no further copy; one that is being made is not waited for."""
        self._ended.set()

    def step(self) -> None:
        """Copy once all that is to be copied and may be tried now."""
        outstanding = {_which(job): job for job in self._jobs.to_be_copied()}
        self._pauses = {which: pause for which, pause in self._pauses.items() if which in outstanding}
        for which, job in outstanding.items():
            pause = self._pauses.get(which)
            if not self._ended.is_set() and (pause is None or pause.is_over()):
                self._try(job, pause)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                self.step()
            except (PrunefrontError, OSError) as error:  # such as a database that is not there now
                print(f"copying: {error}", flush=True)
            except Exception:  # a bug of ours must not leave everybody without copies
                traceback.print_exc()

    def _try(self, job: ServiceJob, pause: _Pause | None) -> None:
        try:
            self._copy(job.record.name)
        except CopyError:
            self._put_off(job, pause)
        except (NotFoundError, TransientError):  # it is removed, or worked on, just now
            pass
        except (PrunefrontError, OSError) as error:  # of its own files, which keep no other from its copy
            print(f"copying {job.record.name!r}: {error}", flush=True)
            self._put_off(job, pause)

    def _put_off(self, job: ServiceJob, pause: _Pause | None) -> None:
        self._pauses[_which(job)] = pause.next() if pause else _Pause(FIRST_PAUSE_S)
        if pause is None:
            told = "what it has made; it is tried until it succeeds"
            self.store.add_event(job.record.name, "copy failed", told)

    def _copy(self, name: str) -> None:
        """Copy what a job has made, under the lock by which nobody works on it or removes it meanwhile."""
        place = Place(self.runs, name)
        if not place.folder.exists():
            return
        with place.lock():
            job = self._jobs.get(name)
            if not job.is_to_be_copied:
                return
            names = {name, *jobs_of(job.record)}
            for record in [each for each in self.store.jobs() if each.name in names]:
                self.copies.keep(record)
            self._jobs.set_uncopied(name, False)


def _which(job: ServiceJob) -> tuple[str, float]:
    """Tells a job from others that have its name at other times."""
    return job.record.name, job.record.created_s
