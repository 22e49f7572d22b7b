"""The process that works on one job of the service, for as long as it holds the lease on it.

    python -m search.service.controller RUNS JOB HOLDER FENCE

The supervisor starts it. A thread beside the work renews the lease, says how far the work is, and hears what
the job's owner asks of it. What ends it early is what ends `prunefront run` early, Ctrl-C: all that is
finished is kept.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hwprofiles.disk import is_full
from hwprofiles.errors import (
    LostLeaseError,
    PrunefrontError,
    TransientError,
    one_line,
)
from search.finish import finish_trial
from search.job import Job
from search.outcome import export_trial
from search.place import Place, hold
from search.plan import prepare
from search.progress import Listener
from search.service.supervisor import DONE, DRAIN_S, LOST, NO_ROOM
from search.session import run_job
from search.sets.asked import ModelSet, read
from search.sets.run import run_set
from search.settings import Settings
from trials.leases import Lease, Leases
from trials.records import TAKEN_UP, JobState
from trials.service_jobs import ServiceJobs
from trials.steering import Wish
from trials.store import Store

RENEW_EVERY_S = 1.0
SEARCHING = "searching"

_log = logging.getLogger(__name__)


class Steering:
    """What a job says of itself, and what is asked of it; a `Listener` and the search's `wish`.

    Outside the search there are no trials to wait for, so whatever ends the job does so at once.
    """

    def __init__(self, leases: Leases, lease: Lease, workers: int) -> None:
        self._leases, self._lease, self._workers = leases, lease, workers
        self._asked, self._drain_from_s, self._told = Wish.NOTHING, 0.0, False
        self._stage, self._share, self._text, self._begun_s = "starting", 0.0, "", time.time()
        self.notes: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def asked(self) -> Wish:
        """What the owner asks."""
        return self._asked

    def wish(self) -> Wish:
        """What is asked of the search; a process that is to end lets its trials finish, as in a pause."""
        return Wish.PAUSE if self._drain_from_s else self._asked

    def drain(self, number: int, frame: FrameType | None) -> None:
        """Take SIGTERM."""
        self._drain_from_s = self._drain_from_s or time.monotonic()

    def stage(self, name: str) -> None:
        self._stage, self._share, self._text, self._begun_s = name, 0.0, "", time.time()

    def update(self, share: float, text: str = "") -> None:
        self._share, self._text = min(1.0, share), text or self._text

    def note(self, text: str) -> None:
        _say(text)
        self._leases.guarded(self._lease).add_event(self._lease.job, "note", one_line(text))

    def _renew(self) -> None:
        before_s = time.monotonic()
        while not self._ended.wait(RENEW_EVERY_S):
            now_s = time.monotonic()
            try:
                self._asked = self._leases.renew(
                    self._lease, self._progress(), (now_s - before_s) * self._workers
                )
                before_s = now_s
            except LostLeaseError as error:
                _say(str(error))
                os._exit(LOST)  # not a moment longer; the workers end with this process
            except PrunefrontError as error:
                _say(f"the lease could not be renewed: {error}")
            if self._must_end(now_s) and not self._told:
                self._told = True
                signal.raise_signal(signal.SIGINT)

    def _must_end(self, now_s: float) -> bool:
        searching = self._stage.endswith(SEARCHING)
        if self._asked is Wish.CANCEL:
            return True
        if self._drain_from_s:
            return not searching or now_s - self._drain_from_s > DRAIN_S
        return self._asked is Wish.PAUSE and not searching

    def _progress(self) -> Mapping[str, Any]:
        return {
            "stage": self._stage,
            "share": round(self._share, 4),
            "text": self._text,
            "stage_begun_s": self._begun_s,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "fence": self._lease.fence,
        }


def conduct(store: Store, runs: Path, lease: Lease, *, is_copied: bool = False) -> int:
    """Work on a job until it is done or has failed, or its owner or the service asks for an end.

    Args:
        is_copied: whether what jobs make is copied, which `search.service.copying` does.

    Returns:
        The exit code.
    """
    leases = Leases(store)
    guarded = leases.guarded(lease)
    asked = read(guarded.job(lease.job).spec)
    place = Place(runs, lease.job)
    steering = Steering(leases, lease, asked.search.workers)
    signal.signal(signal.SIGTERM, steering.drain)
    steering.start()
    reason = ""
    try:
        _wait_for_others(place, steering)
        if is_copied:
            ServiceJobs(guarded).set_uncopied(lease.job, True)
        if guarded.job(lease.job).state in TAKEN_UP:
            _run(asked, place, guarded, steering)
        if isinstance(asked, Job):
            _export(asked, place, guarded, leases, lease, steering)
    except KeyboardInterrupt:
        pass  # the job becomes what was asked for as it is let go
    except LostLeaseError as error:
        _say(str(error))
        return LOST
    except Exception as error:
        if is_full(error):
            _say(str(error))
            return NO_ROOM
        if isinstance(error, TransientError):  # as good as dead: it is tried again, a few times
            _say(str(error))
            guarded.set_job_state(lease.job, JobState.INTERRUPTED)
            leases.bury(lease, str(error))
            return DONE
        if not isinstance(error, PrunefrontError):
            _log.exception("job %s", lease.job)
        reason = one_line(str(error) or type(error).__name__)
        if guarded.job(lease.job).state is not JobState.FAILED:
            guarded.set_job_state(lease.job, JobState.FAILED)
    finally:
        steering.end()
    leases.release(lease, reason)
    return DONE


def _say(text: str) -> None:
    """Write to the job's log, where that has room; a job does not end for want of its log."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), f"{text}\n".encode())


def _wait_for_others(place: Place, steering: Steering) -> None:
    """Wait while the command line works on the job: what it ends is not begun again."""
    while place.is_held():
        steering.stage("waiting for another process that works on it")
        time.sleep(RENEW_EVERY_S)


def _run(asked: Any, place: Place, store: Store, steering: Steering) -> None:
    listener: Listener = steering
    if isinstance(asked, ModelSet):
        run_set(asked, place, store, listener, wish=steering.wish, forget=False)
    else:
        run_job(asked, place, store, listener, wish=steering.wish, forget=False)


def _export(job: Job, place: Place, store: Store, leases: Leases, lease: Lease, steering: Steering) -> None:
    """Export the trials that its owner has asked for.

    A folder of the job that the disk has lost is not made anew, or its copy would not come back.
    """
    for number in ServiceJobs(store).get(job.name).exports:
        _wait_for_others(place, steering)
        steering.stage("exporting trials")
        try:
            with hold(place.folder, f"another process works on job {job.name!r}"):
                prepared = prepare(job, place, store.job(job.name).plan, steering)
                finish_trial(prepared, store, number, steering)
                export_trial(prepared, store, number, place.export_of(number), replace=True)
            store.add_event(job.name, "exported", str(number))
        except LostLeaseError:
            raise
        except Exception as error:  # whatever it is, it is this export's, and the job goes on without it
            if is_full(error):
                raise
            reason = one_line(str(error) or type(error).__name__)
            store.add_event(job.name, "export failed", f"trial {number}: {reason}")
        leases.end_export(lease, number)


def main(runs: str, job: str, holder: str, fence: str) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder, settings = Path(runs), Settings()
    with Store.open(settings.database or Place(folder, "").store) as store:
        lease = Lease(job=job, holder=holder, fence=int(fence))
        return conduct(store, folder, lease, is_copied=bool(settings.artifacts))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
