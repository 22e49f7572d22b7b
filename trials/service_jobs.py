"""Jobs of the service in the store: whose they are, what is asked of them, and who works on them.

Who works on a job holds a lease on it and renews that. Every taking raises the job's fence, and who took it
before can change nothing any more, however late it wakes up: the fence is compared in each transaction of its
own. Leases are told by the clocks of the machines that share a store, which must agree to a few seconds.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    Select,
    String,
    Table,
    UniqueConstraint,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from hwprofiles.errors import ConflictError, LostLeaseError, NotFoundError, TransientError
from trials.candidate import TrialState
from trials.steering import Verb, Wish, steered
from trials.store import (
    JOBS,
    STATE_EVENT,
    TRIALS,
    JobRecord,
    JobState,
    Store,
    job_record,
    metadata,
    note,
    unknown_job,
)

LEASE_S = 10.0
MAX_RACES = 5
"""Services on one store that may add a job for the same key or name at once, each of which gets its turn;"""
_ADDING = threading.Lock()
"""of one service it is one request after the other."""
MAX_DEATHS = 5
"""Processes in a row that may die of a job before it counts as failed,"""
LONG_S = 600.0
"""unless they worked on it for so long."""

_service_jobs = Table(
    "service_jobs",
    metadata,
    Column("job", ForeignKey("jobs.name"), primary_key=True),
    Column("owner", String, nullable=False, index=True),
    Column("key", String),
    Column("fingerprint", String, nullable=False),
    Column("wish", String, nullable=False),
    Column("exports", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("holder", String, nullable=False),
    Column("lease_until_s", Float, nullable=False, index=True),
    Column("taken_s", Float, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("worked_s", Float, nullable=False),
    UniqueConstraint("owner", "key", name="uq_service_jobs_owner_key"),
)

TAKEN_UP = (JobState.QUEUED, JobState.PLANNING, JobState.SEARCHING, JobState.FINISHING, JobState.INTERRUPTED)
"""States in which a job that nobody holds is to be worked on."""
BEGUN = (JobState.PLANNING, JobState.SEARCHING, JobState.FINISHING, JobState.INTERRUPTED)
"""Those of them in which a dead process has left one: it comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceJob:
    """A job as its owner sees it.

    `exports` are the trials that are still to be exported; `reason` says why it is paused, cancelled or
    failed; `progress` is what the process that works on it said last; `worked_s` are seconds of its workers.
    """

    record: JobRecord
    owner: str
    wish: Wish
    exports: tuple[int, ...]
    reason: str
    progress: Mapping[str, Any]
    holder: str
    lease_until_s: float
    taken_s: float
    fence: int
    deaths: int
    worked_s: float

    @property
    def is_held(self) -> bool:
        return self.lease_until_s > time.time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a job, as long as nobody has taken it since."""

    job: str
    holder: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a user's jobs come to."""

    queued: int
    running: int
    worked_s: float


class ServiceJobs:
    """All jobs of a store that came by the service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def submit(
        self,
        owner: str,
        name: str,
        spec: Mapping[str, Any],
        fingerprint: str,
        key: str | None = None,
        admit: Callable[[Usage], None] = lambda usage: None,
    ) -> tuple[ServiceJob, bool]:
        """Queue a job, under the first of `name`, `name-2`, … that is free; gives it, and whether it is new.

        A set of models takes the names of its models' jobs, too.

        Args:
            spec: but for its "name", which becomes the job's.
            fingerprint: of what was asked for.
            key: of the request: sent again with the same key, it gives the job that it gave before.
            admit: raises where one more job of a user who has so much is too many.

        Raises:
            ConflictError: another job was asked for with this key.
        """
        for _ in range(MAX_RACES):
            try:
                with _ADDING, self._store.writing() as connection:
                    if found := _asked_before(connection, owner, key, fingerprint):
                        return found, False
                    admit(_usage(connection, owner))
                    return _add(connection, owner, name, spec, fingerprint, key), True
            except IntegrityError:  # the same key, or the same name, was added at this very moment
                continue
        raise TransientError(f"too many jobs are added at once to add {name!r}; send it again")

    def adopt(self, name: str, owner: str) -> None:
        """Make a job that `prunefront run` began one of the service.

        Raises:
            ConflictError: it is one already.
            NotFoundError: there is no such job.
        """
        spec = self._store.job(name).spec
        fingerprint = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        try:
            with self._store.writing() as connection:
                connection.execute(insert(_service_jobs), _fresh(name, owner, fingerprint, key=None))
        except IntegrityError:
            raise ConflictError(f"job {name!r} is one of the service already") from None

    def get(self, name: str, owner: str | None = None) -> ServiceJob:
        """One job; with an `owner`, if it is theirs.

        Raises:
            NotFoundError: there is none.
        """
        with self._store.reading() as connection:
            return _find(connection, name, owner)

    def is_one(self, name: str) -> bool:
        """Whether anybody has a job of that name here."""
        with self._store.reading() as connection:
            this = select(_service_jobs.c.job).where(_service_jobs.c.job == name)
            return connection.execute(this).first() is not None

    def page(
        self,
        owner: str | None = None,
        *,
        limit: int,
        after: tuple[float, str] | None = None,
        states: Collection[JobState] = (),
    ) -> list[tuple[ServiceJob, int]]:
        """Jobs, the newest first, each with the number of its finished trials.

        Args:
            owner: whose; None for everybody's.
            after: created_s and name of the last one of the page before.
            states: only those in one of them.
        """
        wanted = _shown().order_by(JOBS.c.created_s.desc(), JOBS.c.name.desc()).limit(limit)
        if owner is not None:
            wanted = wanted.where(_service_jobs.c.owner == owner)
        if states:
            wanted = wanted.where(JOBS.c.state.in_(states))
        if after is not None:
            created_s, name = after
            older = JOBS.c.created_s < created_s
            wanted = wanted.where(or_(older, and_(JOBS.c.created_s == created_s, JOBS.c.name < name)))
        with self._store.reading() as connection:
            rows = connection.execute(wanted).all()
        counts = self.finished([row.name for row in rows])
        return [(_service_job(row), counts.get(row.name, 0)) for row in rows]

    def finished(self, names: Sequence[str]) -> dict[str, int]:
        """How many trials have ended, by job; nothing of those that have none."""
        ended = TRIALS.c.state.in_([state for state in TrialState if state.finished])
        counted = select(TRIALS.c.job, func.count()).where(TRIALS.c.job.in_(names), ended)
        with self._store.reading() as connection:
            rows = connection.execute(counted.group_by(TRIALS.c.job)).all()
        return {job: count for job, count in rows}

    def usage(self, owner: str) -> Usage:
        """What a user has queued, running and used."""
        with self._store.reading() as connection:
            return _usage(connection, owner)

    def steer(self, name: str, verb: Verb, owner: str | None = None) -> ServiceJob:
        """Ask something of a job: at once where nobody works on it, else of who does.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: the verb does not fit the state that the job is in.
        """
        with self._store.writing() as connection:
            found = _find(connection, name, owner, for_update=True)
            state = found.record.state
            if verb is Verb.CANCEL and found.exports:
                _set(connection, name, exports="")
                if state is JobState.DONE:  # there is nothing more to cancel
                    _set(connection, name, wish=Wish.CANCEL if found.is_held else Wish.NOTHING)
                    return _find(connection, name)
            state, wish = steered(name, verb, state, found.wish, at_work=found.is_held)
            _set(connection, name, wish=wish)
            if state is not found.record.state:
                again = {"deaths": 0} if verb is Verb.RETRY else {}
                _set(connection, name, reason="", **again)
                _become(connection, name, state)
            return _find(connection, name)

    def want_export(self, name: str, trial: int, owner: str | None = None) -> ServiceJob:
        """Ask for one of a job's trials as a folder to deploy, made once nothing else is done for the job.

        Raises:
            NotFoundError: there is no such job, or it has no such trial.
            ConflictError: the trial was not tried to its end.
        """
        of_trial = select(TRIALS.c.state).where(TRIALS.c.job == name, TRIALS.c.number == trial)
        with self._store.writing() as connection:
            found = _find(connection, name, owner, for_update=True)
            state = connection.execute(of_trial).scalar_one_or_none()
            if state is None:
                raise NotFoundError(f"job {name!r} has no trial {trial}")
            if state != TrialState.DONE:
                raise ConflictError(
                    f"trial {trial} of job {name!r} is {state}, and only what is done can be exported"
                )
            _set(connection, name, exports=" ".join(map(str, sorted({*found.exports, trial}))))
            return _find(connection, name)

    def end_export(self, lease: Lease, trial: int) -> None:
        """Note that a trial was exported, or cannot be.

        Raises:
            LostLeaseError: another has taken the job.
        """
        with self._store.writing() as connection:
            _require_held(connection, lease)
            left = set(_find(connection, lease.job).exports) - {trial}
            _set(connection, lease.job, exports=" ".join(map(str, sorted(left))))

    def take(self, holder: str, limits: Mapping[str, int] | None = None, most: int = 1) -> Lease | None:
        """Take the job whose turn it is: one that its holder has left, or else one of the user who has the
        fewest running, and of those the one who has used least; the oldest first.

        Args:
            holder: who takes it; by this name it is renewed.
            limits: how many jobs of a user may run at once, by user; "" for all others.
            most: jobs that may be held in this store.
        """
        now_s = time.time()
        held = _service_jobs.c.lease_until_s > now_s
        open_ = (
            select(
                JOBS.c.name, JOBS.c.state, _service_jobs.c.owner, _service_jobs.c.fence, held.label("held")
            )
            .select_from(JOBS.join(_service_jobs))
            .where(JOBS.c.state.in_(TAKEN_UP) | (_service_jobs.c.exports != "") | held)
            .order_by(JOBS.c.created_s)
        )
        owner = _service_jobs.c.owner
        used = select(owner, func.sum(_service_jobs.c.worked_s)).group_by(owner)
        with self._store.writing() as connection:
            rows = connection.execute(open_).all()
            worked_s = {user: float(seconds) for user, seconds in connection.execute(used)}
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
                    update(_service_jobs)
                    .where(_service_jobs.c.job == lease.job, _service_jobs.c.fence == row.fence)
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
            _set(connection, lease.job, **until, worked_s=_service_jobs.c.worked_s + worked_s)
            return _find(connection, lease.job).wish

    def release(self, lease: Lease, reason: str = "") -> None:
        """Let go of a job that was worked on as long as it should be: to its end, or until what was asked.

        Args:
            reason: why it is paused, cancelled or failed.

        Raises:
            LostLeaseError: another has taken it.
        """
        with self._store.writing() as connection:
            _require_held(connection, lease)
            wish = _find(connection, lease.job).wish
            kept = wish if wish is Wish.STOP else Wish.NOTHING  # it is still to be ended early when taken up
            _set(connection, lease.job, lease_until_s=0, holder="", wish=kept, reason=reason)

    def bury(self, lease: Lease, why: str) -> None:
        """Let go of a job whose holder has died: it is taken again, or has failed where too many died of it.

        One that was to be cancelled is. Does nothing where another has taken it.
        """
        with self._store.writing() as connection:
            found = _find(connection, lease.job, for_update=True)
            if found.fence != lease.fence or found.holder != lease.holder:
                return
            deaths = 1 if time.time() - found.taken_s > LONG_S else found.deaths + 1
            state, reason = found.record.state, ""
            if found.wish is Wish.CANCEL and state in TAKEN_UP:
                state = JobState.CANCELLED
            elif deaths >= MAX_DEATHS:
                reason = f"its process died {deaths} times in a row, at last {why}"
                if state in TAKEN_UP:
                    state = JobState.FAILED
                else:
                    _set(connection, lease.job, exports="")
                    note(connection, lease.job, "export failed", reason)
            _set(connection, lease.job, lease_until_s=0, holder="", deaths=deaths, reason=reason)
            if found.wish is Wish.CANCEL:
                _set(connection, lease.job, wish=Wish.NOTHING)
            if state is not found.record.state:
                _become(connection, lease.job, state)
            note(connection, lease.job, "process died", why)

    def held(self) -> list[ServiceJob]:
        """All jobs that have a holder, whether or not it has let its lease run out."""
        with self._store.reading() as connection:
            rows = connection.execute(_shown().where(_service_jobs.c.holder != "")).all()
        return [_service_job(row) for row in rows]

    def forget(self, name: str, owner: str | None = None) -> None:
        """Take a job out of the service, to be removed with `Store.remove_job` after it.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: it is worked on.
        """
        with self._store.writing() as connection:
            found = _find(connection, name, owner, for_update=True)
            if found.is_held:
                raise ConflictError(f"job {name!r} is worked on; cancel it first")
            connection.execute(_service_jobs.delete().where(_service_jobs.c.job == name))


def _usage(connection: Connection, owner: str) -> Usage:
    running = _service_jobs.c.lease_until_s > time.time()
    waits = JOBS.c.state.in_(TAKEN_UP) & ~running
    of = (
        select(
            func.count().filter(waits).label("queued"),
            func.count().filter(running).label("running"),
            func.coalesce(func.sum(_service_jobs.c.worked_s), 0).label("worked_s"),
        )
        .select_from(JOBS.join(_service_jobs))
        .where(_service_jobs.c.owner == owner)
    )
    row = connection.execute(of).one()
    return Usage(queued=row.queued, running=row.running, worked_s=row.worked_s)


def _asked_before(connection: Connection, owner: str, key: str | None, fingerprint: str) -> ServiceJob | None:
    """The job that a request with this key gave before, if there was one."""
    same = and_(_service_jobs.c.owner == owner, _service_jobs.c.key == key)
    row = connection.execute(_shown().where(same)).one_or_none() if key else None
    if row is not None and row.fingerprint != fingerprint:
        raise ConflictError(
            f"the key {key!r} came with another job before, {row.name!r}; send this one with a new "
            "Idempotency-Key"
        )
    return None if row is None else _service_job(row)


def _add(
    connection: Connection,
    owner: str,
    name: str,
    spec: Mapping[str, Any],
    fingerprint: str,
    key: str | None,
) -> ServiceJob:
    free = _free_name(connection, name, [member["name"] for member in spec.get("models", ())])
    job = {"name": free, "state": JobState.QUEUED, "spec": {**spec, "name": free}, "plan": {}}
    connection.execute(insert(JOBS), {**job, "created_s": time.time()})
    connection.execute(insert(_service_jobs), _fresh(free, owner, fingerprint, key))
    return _find(connection, free)


def _fresh(job: str, owner: str, fingerprint: str, key: str | None) -> dict[str, Any]:
    """The row of a job of which nothing was asked and on which nobody has worked."""
    asked = {"job": job, "owner": owner, "key": key, "fingerprint": fingerprint}
    said = {"wish": Wish.NOTHING, "exports": "", "reason": "", "progress": {}}
    held = {"holder": "", "lease_until_s": 0, "taken_s": 0, "fence": 0, "deaths": 0, "worked_s": 0}
    return {**asked, **said, **held}


def _shown() -> Select[Any]:
    return select(JOBS, _service_jobs).select_from(JOBS.join(_service_jobs))


def _find(
    connection: Connection, name: str, owner: str | None = None, *, for_update: bool = False
) -> ServiceJob:
    wanted = _shown().where(JOBS.c.name == name)
    row = connection.execute(wanted.with_for_update() if for_update else wanted).one_or_none()
    if row is None or owner not in (None, row.owner):
        theirs = select(_service_jobs.c.job)
        names: Sequence[str] = list(
            connection.scalars(theirs if owner is None else theirs.where(_service_jobs.c.owner == owner))
        )
        raise unknown_job(name, names)
    return _service_job(row)


def _set(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(update(_service_jobs).where(_service_jobs.c.job == name).values(**values))


def _become(connection: Connection, name: str, state: JobState) -> None:
    connection.execute(update(JOBS).where(JOBS.c.name == name).values(state=state))
    note(connection, name, STATE_EVENT, state)


def _require_held(connection: Connection, lease: Lease) -> None:
    held = select(_service_jobs.c.fence, _service_jobs.c.holder).where(_service_jobs.c.job == lease.job)
    row = connection.execute(held.with_for_update()).one_or_none()
    if row is None or (row.fence, row.holder) != (lease.fence, lease.holder):
        raise LostLeaseError(
            f"job {lease.job!r} was taken by another process at fence {row.fence if row else 'none'}, after "
            f"{lease.fence}; this one has nothing more to do with it"
        )


def _free_name(connection: Connection, name: str, members: Sequence[str]) -> str:
    """The first of `name`, `name-2`, … of at most 64 characters that no job has, nor will have.

    Args:
        members: of a set of models, each of which becomes a job called after both.
    """
    if "." in name and _known(connection, [name.rpartition(".")[0]]):  # it might be a set's
        name = name.replace(".", "-")
    stem = name[: 58 - max((len(member) + 1 for member in members), default=0)]
    for number in count(1):
        wanted = name if number == 1 else f"{stem}-{number}"
        if not _known(connection, [wanted, *(f"{wanted}.{member}" for member in members)]):
            break
    return wanted


def _known(connection: Connection, names: Sequence[str]) -> bool:
    """Whether there is a job of one of the names."""
    return connection.execute(select(JOBS.c.name).where(JOBS.c.name.in_(names))).first() is not None


def _service_job(row: Row[Any]) -> ServiceJob:
    return ServiceJob(
        record=job_record(row),
        owner=row.owner,
        wish=Wish(row.wish),
        exports=tuple(map(int, row.exports.split())),
        reason=row.reason,
        progress=row.progress,
        holder=row.holder,
        lease_until_s=row.lease_until_s,
        taken_s=row.taken_s,
        fence=row.fence,
        deaths=row.deaths,
        worked_s=row.worked_s,
    )
