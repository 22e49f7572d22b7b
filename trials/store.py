"""The store: jobs, trials, results and events in one database.

Its companions for the service, such as `trials.tokens`, are the only others that know SQL.

Execution at least once, accounting exactly once: a finished trial is never lost and never counted twice.
Every call that changes something is one transaction, on disk when the call returns, and every transition
compares the stored state with the one it starts from: what does not fit raises, and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from hwprofiles.errors import InvariantError, NotFoundError, RequestError, nearest
from trials.candidate import Candidate, Facts, Trial, TrialState
from trials.database import Database
from trials.records import Event, JobRecord, JobState, Outline, Result
from trials.tables import EVENTS, JOBS, RESULTS, TRIALS

FACTS_VERSION = 2
STATE_EVENT, TRIAL_EVENT = "state", "trial"
"""Kinds of the lines that a job's log gets with each state of the job and with each trial that ends."""
READABLE_FACTS = (1, FACTS_VERSION)
"""Facts of version 1 lack what was not found out then."""

# What a stored trial must be to become the key.
_COMES_FROM = {
    TrialState.RUNNING: TrialState.QUEUED,
    TrialState.QUEUED: TrialState.RUNNING,
    TrialState.DONE: TrialState.RUNNING,
    TrialState.FAILED: TrialState.RUNNING,
}

_SAVE_TRIAL = (
    update(TRIALS)
    .where(
        TRIALS.c.job == bindparam("of_job"),
        TRIALS.c.number == bindparam("of_number"),
        TRIALS.c.state == bindparam("old_state"),
        TRIALS.c.attempts == bindparam("old_attempts"),
    )
    .values(
        state=bindparam("state"),
        attempts=bindparam("attempts"),
        facts=bindparam("facts"),
        reason=bindparam("reason"),
    )
)


class Store(Database):
    """All jobs of one database. One process writes to a job; any number of processes read."""

    def create_job(self, name: str, spec: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """Add a job in state QUEUED.

        Raises:
            RequestError: the name is taken.
        """
        row = {"name": name, "state": JobState.QUEUED, "spec": spec, "plan": plan, "created_s": time.time()}
        try:
            with self.writing() as connection:
                connection.execute(insert(JOBS), row)
        except IntegrityError:
            raise RequestError(
                f"a job named {name!r} is already in the store; resume it, or choose another name"
            ) from None

    def job(self, name: str) -> JobRecord:
        """Return one job.

        Raises:
            RequestError: no job has this name.
        """
        with self.reading() as connection:
            row = connection.execute(select(JOBS).where(JOBS.c.name == name)).one_or_none()
            if row is None:
                raise _unknown_job(connection, name)
        return job_record(row)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, oldest first."""
        with self.reading() as connection:
            return [job_record(row) for row in connection.execute(select(JOBS).order_by(JOBS.c.created_s))]

    def set_job_state(self, name: str, state: JobState) -> None:
        """Move a job to another state.

        Raises:
            RequestError: no job has this name.
            InvariantError: the job is done.
        """
        unfinished = (JOBS.c.name == name) & (JOBS.c.state != JobState.DONE)
        with self.writing() as connection:
            if connection.execute(update(JOBS).where(unfinished).values(state=state)).rowcount == 0:
                _require_job(connection, name)
                raise InvariantError(f"job {name!r} is done and cannot become {state}")
            note(connection, name, STATE_EVENT, state)

    def remove_job(self, name: str) -> None:
        """Forget a job with all of its trials, results and events.

        Raises:
            RequestError: no job of that name, or it is one of a service.
        """
        with self.removing(name):
            pass

    @contextmanager
    def removing(self, name: str, *models: str) -> Iterator[None]:
        """Forget a job, a set's with those of its models, once the block has put away their files: who dies
        before the end of the block has forgotten nothing.

        Raises:
            RequestError: no job of that name, or it is one of a service.
        """
        with self.writing() as connection:
            _require_job(connection, name)
            remove_jobs(connection, name, *models)
            yield

    @contextmanager
    def keeping(self, job: JobRecord) -> Iterator[None]:
        """Within this a job is not removed.

        Raises:
            NotFoundError: it was removed before.
        """
        this = (JOBS.c.name == job.name) & (JOBS.c.created_s == job.created_s)
        with self.writing() as connection:
            if connection.execute(select(JOBS.c.name).where(this).with_for_update()).first() is None:
                raise _unknown_job(connection, job.name)
            yield

    def set_plan(self, name: str, plan: Mapping[str, Any]) -> None:
        """Replace a job's plan.

        Raises:
            RequestError: no job has this name.
        """
        with self.writing() as connection:
            if connection.execute(update(JOBS).where(JOBS.c.name == name).values(plan=plan)).rowcount == 0:
                raise _unknown_job(connection, name)

    def save(self, job: str, *trials: Trial) -> None:
        """Record how trials stand, in this order and in one transaction, or none.

        One that was never attempted is new and queued. Any other has made one transition: start, requeue,
        finish or fail. What is stored must be in the state that it comes from, at the same attempt: the
        result of an attempt that was given up and started again is refused.

        Raises:
            RequestError: no such job.
            InvariantError: a number is taken, or a stored trial does not fit; nothing changes.
        """
        new = [{"job": job, **_trial_row(trial)} for trial in trials if trial.is_new]
        with self.writing() as connection:
            if new:
                _require_job(connection, job)
                try:
                    connection.execute(insert(TRIALS), new)
                except IntegrityError:
                    numbers = [row["number"] for row in new]
                    raise InvariantError(f"job {job!r} has one of the trials {numbers} already") from None
            for trial in trials:
                if not trial.is_new:
                    _move(connection, job, trial)

    def trials(self, job: str) -> list[Trial]:
        """Return a job's trials by number.

        Raises:
            RequestError: no such job.
        """
        with self.reading() as connection:
            _require_job(connection, job)
            rows = connection.execute(
                select(TRIALS).where(TRIALS.c.job == job).order_by(TRIALS.c.number)
            ).all()
        return [_trial(row) for row in rows]

    def outlines(self, job: str, *, first: int = 0) -> list[Outline]:
        """Return a job's trials by number, and of their facts two: in a fourth of the time of all.

        Args:
            first: the number of the first that is wanted.

        Raises:
            RequestError: no such job.
        """
        facts = TRIALS.c.facts
        columns = [TRIALS.c[name] for name in ("number", "kept", "state", "origin", "target", "reason")]
        found = [facts[name].as_float().label(name) for name in ("accuracy", "accuracy_error")]
        with self.reading() as connection:
            _require_job(connection, job)
            rows = connection.execute(
                select(*columns, *found)
                .where(TRIALS.c.job == job, TRIALS.c.number >= first)
                .order_by(TRIALS.c.number)
            ).all()
        return [
            Outline(
                number=row.number,
                candidate=Candidate(tuple(row.kept)),
                state=TrialState(row.state),
                origin=row.origin,
                target=row.target,
                reason=row.reason,
                accuracy=row.accuracy,
                accuracy_error=row.accuracy_error,
            )
            for row in rows
        ]

    def requeue_running(self, job: str) -> int:
        """Put the trials that a dead process left running back into the queue; return how many.

        Raises:
            RequestError: no such job.
        """
        running = (TRIALS.c.job == job) & (TRIALS.c.state == TrialState.RUNNING)
        with self.writing() as connection:
            _require_job(connection, job)
            return connection.execute(update(TRIALS).where(running).values(state=TrialState.QUEUED)).rowcount

    def add_result(self, job: str, trial: int, kind: str, data: Mapping[str, Any]) -> None:
        """Add what the final stage found out; once per job, trial and kind.

        Raises:
            RequestError: no such job.
            InvariantError: the job has no such trial, or this result is there already.
        """
        with self.writing() as connection:
            _require_job(connection, job)
            try:
                connection.execute(insert(RESULTS), {"job": job, "trial": trial, "kind": kind, "data": data})
            except IntegrityError:
                raise InvariantError(
                    f"result {kind!r} of trial {trial} of job {job!r} cannot be added: the trial is unknown, "
                    "or the result is there already"
                ) from None

    def remove_results(self, job: str, trial: int) -> None:
        """Forget what the final stage found out about a trial, so that it is done anew.

        Raises:
            RequestError: no such job.
        """
        with self.writing() as connection:
            _require_job(connection, job)
            connection.execute(delete(RESULTS).where(RESULTS.c.job == job, RESULTS.c.trial == trial))

    def results(self, job: str) -> list[Result]:
        """Return a job's results by trial and kind.

        Raises:
            RequestError: no such job.
        """
        columns = RESULTS.c.trial, RESULTS.c.kind, RESULTS.c.data
        with self.reading() as connection:
            _require_job(connection, job)
            rows = connection.execute(
                select(*columns).where(RESULTS.c.job == job).order_by(RESULTS.c.trial, RESULTS.c.kind)
            ).all()
        return [Result(trial=row.trial, kind=row.kind, data=row.data) for row in rows]

    def add_event(self, job: str, kind: str, message: str) -> None:
        """Append a line to a job's log.

        Raises:
            RequestError: no such job.
        """
        with self.writing() as connection:
            _require_job(connection, job)
            note(connection, job, kind, message)

    def events(
        self, job: str, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> list[Event]:
        """Return a job's log, oldest first.

        Args:
            after: only those of larger numbers,
            limit: and not more of them than this,
            newest: which are the last of them, and not the first.

        Raises:
            RequestError: no such job.
        """
        wanted = select(EVENTS).where(EVENTS.c.job == job, EVENTS.c.number > after)
        with self.reading() as connection:
            _require_job(connection, job)
            order = EVENTS.c.number.desc() if newest else EVENTS.c.number
            rows = connection.execute(wanted.order_by(order).limit(limit)).all()
        if newest:
            rows = rows[::-1]
        return [
            Event(number=row.number, time_s=row.time_s, kind=row.kind, message=row.message) for row in rows
        ]


def note(connection: Connection, job: str, kind: str, message: str) -> None:
    """Append a line to the log of a job that is there."""
    row = {"job": job, "time_s": time.time(), "kind": kind, "message": message}
    connection.execute(insert(EVENTS), row)


def remove_jobs(connection: Connection, *names: str) -> None:
    """Forget all that the store has of jobs.

    Raises:
        RequestError: one of them is a service's.
    """
    for table in (EVENTS, RESULTS, TRIALS):
        connection.execute(delete(table).where(table.c.job.in_(names)))
    try:
        connection.execute(delete(JOBS).where(JOBS.c.name.in_(names)))
    except IntegrityError:
        raise RequestError(
            f"job {names[0]!r} is one of a service, which alone can forget it: DELETE /api/v1/jobs/{names[0]}"
        ) from None


def _move(connection: Connection, job: str, trial: Trial) -> None:
    """Record one transition.

    Raises:
        RequestError: no such job.
        InvariantError: the stored trial is not where it starts from.
    """
    old_state = _COMES_FROM[trial.state]
    old_attempts = trial.attempts - (trial.state is TrialState.RUNNING)
    change = {
        "of_job": job,
        "of_number": trial.number,
        "old_state": old_state,
        "old_attempts": old_attempts,
        "state": trial.state,
        "attempts": trial.attempts,
        "facts": _facts_json(trial.facts),
        "reason": trial.reason,
    }
    if connection.execute(_SAVE_TRIAL, change).rowcount == 0:
        _require_job(connection, job)
        stored = connection.execute(
            select(TRIALS.c.state, TRIALS.c.attempts).where(
                TRIALS.c.job == job, TRIALS.c.number == trial.number
            )
        ).one_or_none()
        found = f"{stored.state} at attempt {stored.attempts}" if stored else "unknown"
        raise InvariantError(
            f"trial {trial.number} of job {job!r} cannot become {trial.state}: it is {found}, not "
            f"{old_state} at attempt {old_attempts}"
        )
    if trial.state.finished:
        note(connection, job, TRIAL_EVENT, f"{trial.number} {trial.state}")


def _require_job(connection: Connection, name: str) -> None:
    if connection.execute(select(JOBS.c.name).where(JOBS.c.name == name)).one_or_none() is None:
        raise _unknown_job(connection, name)


def _unknown_job(connection: Connection, name: str) -> NotFoundError:
    return unknown_job(name, connection.scalars(select(JOBS.c.name)).all())


def unknown_job(name: str, names: Sequence[str]) -> NotFoundError:
    """What to raise where a job is asked for that is none of `names`."""
    return NotFoundError(
        f"the store has no job {name!r}; {nearest(name, names) if names else 'it has none at all'}"
    )


def job_record(row: Row[Any]) -> JobRecord:
    return JobRecord(
        name=row.name, state=JobState(row.state), spec=row.spec, plan=row.plan, created_s=row.created_s
    )


def _trial_row(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "kept": list(trial.candidate.kept),
        "seed": trial.seed,
        "target": trial.target,
        "origin": trial.origin,
        "state": trial.state,
        "attempts": trial.attempts,
        "facts": _facts_json(trial.facts),
        "reason": trial.reason,
    }


def _trial(row: Row[Any]) -> Trial:
    return Trial(
        number=row.number,
        candidate=Candidate(tuple(row.kept)),
        seed=row.seed,
        target=row.target,
        origin=row.origin,
        state=TrialState(row.state),
        attempts=row.attempts,
        facts=_facts(row.facts),
        reason=row.reason,
    )


def _facts_json(facts: Facts | None) -> dict[str, Any] | None:
    return None if facts is None else {"version": FACTS_VERSION, **facts.to_json()}


def _facts(data: dict[str, Any] | None) -> Facts | None:
    if data is None:
        return None
    if data.get("version") not in READABLE_FACTS:
        allowed = " or ".join(map(str, READABLE_FACTS))
        raise RequestError(
            f"the store holds facts of version {data.get('version')!r}; allowed: {allowed}; run the "
            "job again under another name"
        )
    return Facts.from_json({key: value for key, value in data.items() if key != "version"})
