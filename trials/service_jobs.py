"""Jobs of the service in the store: whose they are, and what is asked of them.

Who works on them is `trials.leases`' matter.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    String,
    and_,
    cast,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from hwprofiles.errors import ConflictError, NotFoundError, TransientError
from trials.candidate import TrialState
from trials.records import TAKEN_UP, JobRecord, JobState
from trials.steering import Verb, Wish, steered
from trials.store import STATE_EVENT, Store, job_record, note, remove_jobs, unknown_job
from trials.tables import FORGOTTEN, JOBS, SERVICE_JOBS, TRIALS
from trials.usage import Admit, Usage, admit_all, usage_of

MAX_RACES = 5
"""Services on one store that may add a job for the same key or name at once, each of which gets its turn;"""
_ADDING = threading.Lock()
"""of one service it is one request after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceJob:
    """A job as its owner sees it.

    `exports` are the trials that are still to be exported; `reason` says why it is paused, cancelled or
    failed; `progress` is what the process that works on it said last; `worked_s` are seconds of its workers;
    `uncopied` says that it has made, or is making, what was not copied since.
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
    uncopied: bool

    @property
    def is_held(self) -> bool:
        return self.lease_until_s > time.time()

    @property
    def is_to_be_copied(self) -> bool:
        """Whether nobody works on it any more, and what it has made is still to be copied."""
        return self.uncopied and self.record.state is JobState.DONE and not self.is_held


Hold = Callable[[Connection], None]
"""Locks what a job is made of until it is added; raises where that is gone."""


def _hold_nothing(connection: Connection) -> None:
    """Of those whose jobs are made of nothing that could be taken back."""


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
        admit: Admit = admit_all,
        hold: Hold = _hold_nothing,
    ) -> tuple[ServiceJob, bool]:
        """Queue a job, under the first of `name`, `name-2`, … that is free; gives it, and whether it is new.

        A set of models takes the names of its models' jobs, too.

        Args:
            spec: but for its "name", which becomes the job's.
            fingerprint: of what was asked for.
            key: of the request: sent again with the same key, it gives the job that it gave before.

        Raises:
            ConflictError: another job was asked for with this key.
        """
        for _ in range(MAX_RACES):
            try:
                with _ADDING, self._store.writing() as connection:
                    if found := _asked_before(connection, owner, key, fingerprint):
                        return found, False
                    admit(usage_of(connection, owner))
                    hold(connection)
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
                connection.execute(insert(SERVICE_JOBS), _fresh(name, owner, fingerprint, key=None))
        except IntegrityError:
            raise ConflictError(f"job {name!r} is one of the service already") from None

    def get(self, name: str, owner: str | None = None) -> ServiceJob:
        """One job; with an `owner`, if it is theirs.

        Raises:
            NotFoundError: there is none.
        """
        with self._store.reading() as connection:
            return find(connection, name, owner)

    def taken(self) -> list[ServiceJob]:
        """Those that somebody has taken and not let go, though the lease may be over."""
        with self._store.reading() as connection:
            rows = connection.execute(_shown().where(SERVICE_JOBS.c.holder != "")).all()
        return [_service_job(row) for row in rows]

    def to_be_copied(self) -> list[ServiceJob]:
        """Those on which nobody works any more and of which what they have made is still to be copied."""
        with self._store.reading() as connection:
            rows = connection.execute(_shown().where(SERVICE_JOBS.c.uncopied)).all()
        return [job for job in map(_service_job, rows) if job.is_to_be_copied]

    def set_uncopied(self, name: str, uncopied: bool) -> None:
        """Note that a job is about to make files, or that all that it has made are copied."""
        with self._store.writing() as connection:
            change(connection, name, uncopied=uncopied)
            if not uncopied:
                note(connection, name, "copied", "what it has made")

    def is_one(self, name: str) -> bool:
        """Whether anybody has a job of that name here."""
        with self._store.reading() as connection:
            this = select(SERVICE_JOBS.c.job).where(SERVICE_JOBS.c.job == name)
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
            wanted = wanted.where(SERVICE_JOBS.c.owner == owner)
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
            return usage_of(connection, owner)

    def steer(self, name: str, verb: Verb, owner: str | None = None, admit: Admit = admit_all) -> ServiceJob:
        """Ask something of a job: at once where nobody works on it, else of who does.

        Args:
            admit: asked where the job comes into the queue by that.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: the verb does not fit the state that the job is in.
        """
        with self._store.writing() as connection:
            found = find(connection, name, owner, for_update=True)
            state = found.record.state
            if verb is Verb.CANCEL and found.exports:
                change(connection, name, exports="")
                if state is JobState.DONE:  # there is nothing more to cancel
                    change(connection, name, wish=Wish.CANCEL if found.is_held else Wish.NOTHING)
                    return find(connection, name)
            state, wish = steered(name, verb, state, found.wish, at_work=found.is_held)
            if state in TAKEN_UP and found.record.state not in TAKEN_UP:
                admit(usage_of(connection, found.owner))
            change(connection, name, wish=wish)
            if state is not found.record.state:
                again = {"deaths": 0} if verb is Verb.RETRY else {}
                change(connection, name, reason="", **again)
                become(connection, name, state)
            return find(connection, name)

    def want_export(self, name: str, trial: int, owner: str | None = None) -> ServiceJob:
        """Ask for one of a job's trials as a folder to deploy, made once nothing else is done for the job.

        Raises:
            NotFoundError: there is no such job, or it has no such trial.
            ConflictError: the trial was not tried to its end.
        """
        of_trial = select(TRIALS.c.state).where(TRIALS.c.job == name, TRIALS.c.number == trial)
        with self._store.writing() as connection:
            found = find(connection, name, owner, for_update=True)
            state = connection.execute(of_trial).scalar_one_or_none()
            if state is None:
                raise NotFoundError(f"job {name!r} has no trial {trial}")
            if state != TrialState.DONE:
                raise ConflictError(
                    f"trial {trial} of job {name!r} is {state}, and only what is done can be exported"
                )
            change(connection, name, exports=" ".join(map(str, sorted({*found.exports, trial}))))
            return find(connection, name)

    @contextmanager
    def removing(self, name: str, *models: str, owner: str | None = None) -> Iterator[None]:
        """Forget a job, a set's with those of its models, as `Store.removing` does.

        What it took of its owner's quota stays taken.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: it is worked on.
        """
        with self._store.writing() as connection:
            found = find(connection, name, owner, for_update=True)
            if found.is_held:
                raise ConflictError(f"job {name!r} is worked on; cancel it first")
            connection.execute(SERVICE_JOBS.delete().where(SERVICE_JOBS.c.job == name))
            if found.worked_s:
                taken = {"owner": found.owner, "worked_s": found.worked_s}
                connection.execute(insert(FORGOTTEN), taken)
            remove_jobs(connection, name, *models)
            yield


def made_of(connection: Connection, sha256: str, owner: str | None = None) -> list[str]:
    """The jobs, of a user or of everybody, that need a model or data of this sha256."""
    named = cast(JOBS.c.spec, String).contains(sha256, autoescape=True)
    wanted = select(JOBS.c.name).select_from(JOBS.join(SERVICE_JOBS)).order_by(JOBS.c.created_s).where(named)
    return list(connection.scalars(wanted if owner is None else wanted.where(SERVICE_JOBS.c.owner == owner)))


def _asked_before(connection: Connection, owner: str, key: str | None, fingerprint: str) -> ServiceJob | None:
    """The job that a request with this key gave before, if there was one."""
    same = and_(SERVICE_JOBS.c.owner == owner, SERVICE_JOBS.c.key == key)
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
    connection.execute(insert(SERVICE_JOBS), _fresh(free, owner, fingerprint, key))
    return find(connection, free)


def _fresh(job: str, owner: str, fingerprint: str, key: str | None) -> dict[str, Any]:
    """The row of a job of which nothing was asked and on which nobody has worked."""
    asked = {"job": job, "owner": owner, "key": key, "fingerprint": fingerprint}
    said = {"wish": Wish.NOTHING, "exports": "", "reason": "", "progress": {}}
    held = {"holder": "", "lease_until_s": 0, "taken_s": 0, "fence": 0, "deaths": 0, "worked_s": 0}
    return {**asked, **said, **held}


def _shown() -> Select[Any]:
    return select(JOBS, SERVICE_JOBS).select_from(JOBS.join(SERVICE_JOBS))


def find(
    connection: Connection, name: str, owner: str | None = None, *, for_update: bool = False
) -> ServiceJob:
    """One job, locked against other transactions where it is to be changed in this one."""
    wanted = _shown().where(JOBS.c.name == name)
    row = connection.execute(wanted.with_for_update() if for_update else wanted).one_or_none()
    if row is None or owner not in (None, row.owner):
        theirs = select(SERVICE_JOBS.c.job)
        names: Sequence[str] = list(
            connection.scalars(theirs if owner is None else theirs.where(SERVICE_JOBS.c.owner == owner))
        )
        raise unknown_job(name, names)
    return _service_job(row)


def change(connection: Connection, name: str, **values: Any) -> None:
    """Set columns of a job in `SERVICE_JOBS`."""
    connection.execute(update(SERVICE_JOBS).where(SERVICE_JOBS.c.job == name).values(**values))


def become(connection: Connection, name: str, state: JobState) -> None:
    """Move a job to another state, and say so in its log."""
    connection.execute(update(JOBS).where(JOBS.c.name == name).values(state=state))
    note(connection, name, STATE_EVENT, state)


def _free_name(connection: Connection, name: str, members: Sequence[str]) -> str:
    """The first of `name`, `name-2`, … of at most 64 characters that no job has, nor will have.

    Args:
        members: of a set of models, each of which becomes a job called after both.
    """
    stems = [name[:end] for end, sign in enumerate(name) if sign == "."]
    if connection.execute(select(JOBS.c.name).where(JOBS.c.name.in_(stems))).first():  # it might be a set's
        name = name.replace(".", "-")
    stem = name[: 58 - max((len(member) + 1 for member in members), default=0)]
    known = _called(connection, stem)  # at once, for a thousand jobs may be called alike
    for number in count(1):
        wanted = name if number == 1 else f"{stem}-{number}"
        if known.isdisjoint([wanted, *(f"{wanted}.{member}" for member in members)]):
            break
    return wanted


def _called(connection: Connection, beginning: str) -> set[str]:
    """The names of all jobs that begin so."""
    names = select(JOBS.c.name).where(JOBS.c.name.startswith(beginning, autoescape=True))
    return set(connection.scalars(names))


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
        uncopied=row.uncopied,
    )
