"""Leases on jobs of the service: who works on one holds a lease on it and renews that.

Every taking raises the job's fence, and who took it before can change nothing any more, however late it wakes
up: the fence is compared in each transaction of its own. Leases are told by the clocks of the machines that
share a store, which must agree to a few seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from hwprofiles.errors import LostLeaseError
from trials.records import TAKEN_UP, JobState
from trials.service_jobs import ServiceJob, become, change, find
from trials.steering import Wish
from trials.store import TRIAL_EVENT, Store, note
from trials.tables import EVENTS, JOBS, SERVICE_JOBS
from trials.usage import worked_s_by_owner

LEASE_S = 10.0
MAX_DEATHS = 5
"""Processes in a row that may die of a job before it counts as failed,"""
LONG_S = 600.0
"""unless they worked on it for so long, or a trial ended by them."""

BEGUN = (JobState.PLANNING, JobState.SEARCHING, JobState.FINISHING, JobState.INTERRUPTED)
"""Those of them in which a dead process has left one: it comes first."""
BY_OWNER = "its owner asked for it"
_ASKED = {Wish.PAUSE: JobState.PAUSED, Wish.CANCEL: JobState.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a job, as long as nobody has taken it since."""

    job: str
    holder: str
    fence: int


class Leases:
    """The leases on all jobs of a store that came by the service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, holder: str, limits: Mapping[str, int] | None = None, most: int = 1) -> Lease | None:
        """Take the job whose turn it is: one that its holder has left, or else one of the user who has the
        fewest running, and of those the one who has used least; the oldest first.

        Args:
            holder: who takes it; by this name it is renewed.
            limits: how many jobs of a user may run at once, by user; "" for all others.
            most: jobs that may be held in this store.
        """
        now_s = time.time()
        held = SERVICE_JOBS.c.lease_until_s > now_s
        open_ = (
            select(JOBS.c.name, JOBS.c.state, SERVICE_JOBS.c.owner, SERVICE_JOBS.c.fence, held.label("held"))
            .select_from(JOBS.join(SERVICE_JOBS))
            .where(JOBS.c.state.in_(TAKEN_UP) | (SERVICE_JOBS.c.exports != "") | held)
            .order_by(JOBS.c.created_s)
        )
        with self._store.writing() as connection:
            rows = connection.execute(open_).all()
            worked_s = {row.owner: row.worked_s for row in connection.execute(worked_s_by_owner())}
            running = Counter(row.owner for row in rows if row.held)
            if running.total() >= most:
                return None
            allowed = {"": most, **(limits or {})}
            waiting = [row for row in rows if not row.held]
            for row in sorted(
                waiting,
                key=lambda row: (row.state not in BEGUN, running[row.owner], worked_s[row.owner]),
            ):
                if running[row.owner] >= allowed.get(row.owner, allowed[""]):
                    continue
                lease = Lease(job=row.name, holder=holder, fence=row.fence + 1)
                ours = {"holder": holder, "lease_until_s": now_s + LEASE_S, "taken_s": now_s}
                taken = connection.execute(
                    update(SERVICE_JOBS)
                    .where(SERVICE_JOBS.c.job == lease.job, SERVICE_JOBS.c.fence == row.fence)
                    .values(**ours, fence=lease.fence)  # what the last holder said stays until this one does
                )
                if taken.rowcount:
                    return lease
        return None

    def guarded(self, lease: Lease) -> Store:
        """The store for who holds the lease: it refuses every change once the job was taken by another.

        Its calls raise LostLeaseError then, and change nothing.
        """

        def guard(connection: Connection) -> None:
            _require_held(connection, lease)

        return self._store.under(guard)

    def renew(self, lease: Lease, progress: Mapping[str, Any], worked_s: float) -> Wish:
        """Keep a job for another `LEASE_S` and say how far it is; gives what is asked of it.

        Args:
            worked_s: seconds of workers since it was renewed last.

        Raises:
            LostLeaseError: another has taken it.
        """
        with self._store.writing() as connection:
            _require_held(connection, lease)
            until = {"lease_until_s": time.time() + LEASE_S, "progress": progress}
            change(connection, lease.job, **until, worked_s=SERVICE_JOBS.c.worked_s + worked_s)
            return find(connection, lease.job).wish.now

    def release(self, lease: Lease, reason: str = "", state: JobState | None = None) -> None:
        """Let go of a job that was worked on as long as it can be: to its end, or until what was asked, which
        it then is.

        Args:
            reason: why it is paused or failed, if that was not asked for.
            state: that it takes unless it is over, or another was asked for; None for the one it is in.

        Raises:
            LostLeaseError: another has taken it.
        """
        with self._store.writing() as connection:
            _require_held(connection, lease)
            found = find(connection, lease.job)
            is_to_stop = (
                found.wish in (Wish.STOP, Wish.PAUSE_STOP) and found.record.state is not JobState.DONE
            )
            kept = Wish.STOP if is_to_stop else Wish.NOTHING
            state = _ASKED.get(found.wish.now, state) if found.record.state in TAKEN_UP else None
            _let_go(connection, found, BY_OWNER if state and found.wish.now in _ASKED else reason, wish=kept)
            if state:
                become(connection, lease.job, state)

    def bury(self, lease: Lease, why: str) -> None:
        """Let go of a job whose holder has died: it is taken again, or has failed where too many died of it.

        One that was to be cancelled is. Does nothing where another has taken it.
        """
        with self._store.writing() as connection:
            try:
                _require_held(connection, lease)
            except LostLeaseError:
                return
            found = find(connection, lease.job)
            was_long = time.time() - found.taken_s > LONG_S
            deaths = 1 if was_long or _ended_trials(connection, found) else found.deaths + 1
            state, reason, cancelled = found.record.state, "", found.wish is Wish.CANCEL
            if cancelled and state in TAKEN_UP:
                state = JobState.CANCELLED
            elif deaths >= MAX_DEATHS:
                died = f"its process died {deaths} times in a row, at last {why}"
                if state in TAKEN_UP:
                    state, reason = JobState.FAILED, died
                else:
                    change(connection, lease.job, exports="")
                    note(connection, lease.job, "export failed", died)
            _let_go(connection, found, reason, wish=Wish.NOTHING if cancelled else found.wish, deaths=deaths)
            if state is not found.record.state:
                become(connection, lease.job, state)
            note(connection, lease.job, "process died", why)

    def end_export(self, lease: Lease, trial: int) -> None:
        """Note that a trial was exported, or cannot be.

        Raises:
            LostLeaseError: another has taken the job.
        """
        with self._store.writing() as connection:
            _require_held(connection, lease)
            left = set(find(connection, lease.job).exports) - {trial}
            change(connection, lease.job, exports=" ".join(map(str, sorted(left))))


def _require_held(connection: Connection, lease: Lease) -> None:
    """Raise LostLeaseError where another has taken the job; it is locked against other transactions then."""
    held = select(SERVICE_JOBS.c.fence, SERVICE_JOBS.c.holder).where(SERVICE_JOBS.c.job == lease.job)
    row = connection.execute(held.with_for_update()).one_or_none()
    if row is None or (row.fence, row.holder) != (lease.fence, lease.holder):
        raise LostLeaseError(
            f"job {lease.job!r} was taken by another process at fence {row.fence if row else 'none'}, after "
            f"{lease.fence}; this one has nothing more to do with it"
        )


def _ended_trials(connection: Connection, found: ServiceJob) -> bool:
    """Whether a trial of the job has ended since it was taken."""
    its = (EVENTS.c.job == found.record.name) & (EVENTS.c.kind == TRIAL_EVENT)
    ended = select(EVENTS.c.number).where(its, EVENTS.c.time_s > found.taken_s).limit(1)
    return connection.execute(ended).first() is not None


def _let_go(connection: Connection, found: ServiceJob, reason: str, **values: Any) -> None:
    """Take a job from its holder. Where it was held for an export alone, the reason why it ended stays."""
    ended = found.record.state in (JobState.PAUSED, JobState.CANCELLED, JobState.FAILED)
    kept = reason or (found.reason if ended else "")
    change(connection, found.record.name, lease_until_s=0, holder="", reason=kept, **values)
