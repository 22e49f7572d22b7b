"""The supervisor: starts a process for each job whose turn it is, and clears up behind those that died."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hwprofiles.disk import write_whole
from hwprofiles.errors import LostLeaseError, NotFoundError, PrunefrontError
from search.removal import sweep
from trials.leases import Lease, Leases
from trials.records import TAKEN_UP, JobState
from trials.service_jobs import ServiceJobs
from trials.steering import Verb, Wish
from trials.store import Store

LOOK_EVERY_S, LOOK_AT_END_S = 0.5, 0.05
STUCK_S = 120.0
"""A supervisor that has not looked for so long hangs: one look waits for a database, and not for jobs."""
START_S = 300.0
"""A process that says nothing of itself for so long loses its job."""
CANCEL_S = 10.0
"""A process that has not ended a cancelled job by then is killed."""
DRAIN_S, KILL_S = 20.0, 5.0
"""For how long a process that is told to end may let its trials go on, and itself after that."""
CONTROLLER = "search.service.controller"
"""What the process runs."""
DONE, NO_ROOM, LOST = 0, 75, 76
"""Its exit codes: it let go of the job; there is no room on a disk; another process has taken the job."""
ROOM_BYTES = 64 * 2**20
"""Below which no job is started."""
SPARE_BYTES = 2**20
"""Of a file that is given up where there is no room, so that a database on that disk can say so."""
WAITS_FOR_ROOM = "a disk has no room left; it goes on once there is some"
TRY_AGAIN_S = 600.0
"""After which a job that had no room is tried again without more: it may have been another disk."""


@dataclass
class _Child:
    lease: Lease
    process: subprocess.Popen[bytes]
    begun_s: float = field(default_factory=time.monotonic)
    cancelled_from_s: float = 0.0


@dataclass(frozen=True)
class _Full:
    """When a job had no room, and how many bytes it left: with as many it would have none again."""

    free_bytes: int
    at_s: float = field(default_factory=time.monotonic)

    def is_over(self, free_bytes: int) -> bool:
        more = free_bytes >= self.free_bytes + ROOM_BYTES
        return more or time.monotonic() - self.at_s > TRY_AGAIN_S


@dataclass
class Supervisor:
    """Keeps at most `most` jobs of a store at work.

    Args:
        runs: where jobs keep their files.
        logs: where each job's processes write what they print.
        limits: how many jobs of each user may run at once; see `Leases.take`.
    """

    store: Store
    runs: Path
    logs: Path
    most: int
    limits: Callable[[], Mapping[str, int]] = dict
    _children: list[_Child] = field(default_factory=list)
    _full: dict[str, _Full] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _looked_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.jobs, self.leases = ServiceJobs(self.store), Leases(self.store)
        self._spare = self.logs.parent / "spare"

    @property
    def is_busy(self) -> bool:
        return bool(self._children)

    @property
    def is_well(self) -> bool:
        """Whether its thread lives, and looks now and then."""
        alive = self._thread is not None and self._thread.is_alive()
        return alive and time.monotonic() - self._looked_s < STUCK_S

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let all processes finish the trials that run, for `DRAIN_S` at most, and end all."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)
        end_s = time.monotonic() + DRAIN_S + KILL_S
        for child in self._children:
            while not _has_ended(child.process):
                if time.monotonic() > end_s:
                    _kill(child.process.pid)
                time.sleep(LOOK_AT_END_S)
        self._reap()

    def step(self) -> None:
        """Look once at all that may have changed."""
        self._reap()
        self._look_after_holders()
        self._end_cancelled()
        self._keep_for_starting()
        if self._free_bytes() < ROOM_BYTES:
            return
        if not self._spare.exists():
            write_whole(self._spare, bytes(SPARE_BYTES))
        self._go_on_with_room()
        while lease := self._take():
            try:
                self._start(lease)
            except OSError as error:  # no processes or no memory are left now
                self.leases.bury(lease, f"before it began: {error.strerror}")
                return

    def _watch(self) -> None:
        sweep(self.runs)
        while not self._ended.wait(LOOK_EVERY_S):
            self._looked_s = time.monotonic()
            try:
                self.step()
            except (PrunefrontError, OSError) as error:  # such as a database that is not there now
                print(f"supervisor: {error}", flush=True)
            except Exception:  # a bug of ours must not end the work of everybody
                traceback.print_exc()

    def _take(self) -> Lease | None:
        return self.leases.take(secrets.token_hex(8), self.limits(), self.most)

    def _start(self, lease: Lease) -> None:
        _kill_holder(lease.job, self.jobs.get(lease.job).progress)
        self.logs.mkdir(parents=True, exist_ok=True)
        arguments = [str(self.runs), lease.job, lease.holder, str(lease.fence)]
        with (self.logs / f"{lease.job}.log").open("ab") as log:
            process = subprocess.Popen(
                # -u: nothing waits to be written that a full disk would not take when the process ends.
                [sys.executable, "-u", "-m", CONTROLLER, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._children.append(_Child(lease, process))

    def _reap(self) -> None:
        """Let go of the jobs whose processes have ended."""
        for child in [each for each in self._children if _has_ended(each.process)]:
            with suppress(LostLeaseError, NotFoundError):  # it had let go itself, or the job is gone
                self._let_go(child.lease, child.process.returncode)
            self._children.remove(child)

    def _let_go(self, lease: Lease, code: int) -> None:
        if code == NO_ROOM:
            self._wait_for_room(lease)
        elif code == -signal.SIGTERM and self._ended.is_set():
            self.leases.release(lease)
        elif code not in (DONE, LOST):
            self.leases.bury(lease, f"killed by signal {-code}" if code < 0 else f"with exit code {code}")

    def _look_after_holders(self) -> None:
        """Let go of jobs of a service that was here before, whose processes have died since, and end those
        that were halted for too long: one that was in the midst of a transaction locks an SQLite file for
        everybody, so nobody could even take its job.
        """
        ours = {child.lease.job for child in self._children}
        for job in self.jobs.taken():
            name, pid = job.record.name, job.progress.get("pid")
            if job.progress.get("fence") != job.fence or job.progress.get("host") != socket.gethostname():
                continue
            if not _is_holder(pid, name):
                if name not in ours:
                    self.leases.bury(Lease(job=name, holder=job.holder, fence=job.fence), "and is gone")
            elif not job.is_held and _is_halted(pid):
                _kill_holder(name, job.progress)

    def _wait_for_room(self, lease: Lease) -> None:
        self._spare.unlink(missing_ok=True)
        if self.store.job(lease.job).state not in TAKEN_UP:  # it was for an export, which is given up at last
            self.leases.bury(lease, "for want of room on a disk")
            return
        self.leases.guarded(lease).requeue_running(lease.job)
        self.leases.release(lease, WAITS_FOR_ROOM, JobState.PAUSED)
        self._full[lease.job] = _Full(self._free_bytes())

    def _go_on_with_room(self) -> None:
        free_bytes = self._free_bytes()
        for job, _ in self.jobs.page(limit=1000, states=[JobState.PAUSED]):
            full = self._full.get(job.record.name)
            if job.reason == WAITS_FOR_ROOM and (full is None or full.is_over(free_bytes)):
                self.jobs.steer(job.record.name, Verb.RESUME)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.runs).free

    def _keep_for_starting(self) -> None:
        """Renew the leases of processes that are not far enough to: on a busy machine that takes a while."""
        for child in self._children:
            with suppress(LostLeaseError, NotFoundError):  # the process will find out
                progress = self.jobs.get(child.lease.job).progress
                if progress.get("fence") != child.lease.fence and time.monotonic() - child.begun_s < START_S:
                    self.leases.renew(child.lease, progress, 0.0)

    def _end_cancelled(self) -> None:
        for child in self._children:
            with suppress(NotFoundError):
                if self.jobs.get(child.lease.job).wish is Wish.CANCEL:
                    child.cancelled_from_s = child.cancelled_from_s or time.monotonic()
            if child.cancelled_from_s and time.monotonic() - child.cancelled_from_s > CANCEL_S:
                _kill(child.process.pid)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a controller has ended; if so, what it left is ended, too, while its number is still its own.

    One that ends while it starts Ray leaves Ray's agents, which would miss it only a minute later.
    """
    if process.returncode is None and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        _kill(process.pid)
    return process.poll() is not None


def _kill(pid: int) -> None:
    """End a controller with all that it started, or what it has left of that: its group of processes."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_holder(job: str, progress: Mapping[str, object]) -> None:
    """End a process on this machine that held a job and lost it, such as one that was halted by a signal."""
    pid = progress.get("pid")
    if progress.get("host") == socket.gethostname() and isinstance(pid, int) and _is_holder(pid, job):
        _kill(pid)


def _is_halted(pid: object) -> bool:
    """Whether a signal has stopped a process of this machine, which has not gone on since."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _is_holder(pid: object, job: str) -> bool:
    """Whether a process of this machine is one that works on that job."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return CONTROLLER in command and job in command
