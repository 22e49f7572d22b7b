"""The store: jobs, trials, results and events in one database.

Its companions for the service, `trials.tokens` and `trials.measurements`, are the only others that know SQL.

Execution at least once, accounting exactly once: a finished trial is never lost and never counted twice.
Every call that changes something is one transaction, on disk when the call returns, and every transition
compares the stored state with the one it starts from: what does not fit raises, and changes nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.engine import URL, ExceptionContext, Row
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, StatementError

from hwprofiles.errors import InvariantError, RequestError, TransientError, nearest
from trials.candidate import Candidate, Facts, Trial, TrialState

FACTS_VERSION = 2
READABLE_FACTS = (1, FACTS_VERSION)
"""Facts of version 1 lack what was not found out then."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

_jobs = Table(
    "jobs",
    metadata,
    Column("name", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("plan", JSON, nullable=False),
    Column("created_s", Float, nullable=False),
)

_trials = Table(
    "trials",
    metadata,
    Column("job", ForeignKey("jobs.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kept", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("target", Float, nullable=False),
    Column("origin", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("facts", JSON(none_as_null=True)),
    Column("reason", String, nullable=False),
)

_results = Table(
    "results",
    metadata,
    Column("job", String, primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("data", JSON, nullable=False),
    ForeignKeyConstraint(["job", "trial"], ["trials.job", "trials.number"]),
)

_events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("job", ForeignKey("jobs.name"), nullable=False, index=True),
    Column("time_s", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("message", String, nullable=False),
)

# What a stored trial must be to become the key.
_COMES_FROM = {
    TrialState.RUNNING: TrialState.QUEUED,
    TrialState.QUEUED: TrialState.RUNNING,
    TrialState.DONE: TrialState.RUNNING,
    TrialState.FAILED: TrialState.RUNNING,
}

_SAVE_TRIAL = (
    update(_trials)
    .where(
        _trials.c.job == bindparam("of_job"),
        _trials.c.number == bindparam("of_number"),
        _trials.c.state == bindparam("old_state"),
        _trials.c.attempts == bindparam("old_attempts"),
    )
    .values(
        state=bindparam("state"),
        attempts=bindparam("attempts"),
        facts=bindparam("facts"),
        reason=bindparam("reason"),
    )
)


class JobState(StrEnum):
    """Where a job stands; DONE is final, every other state can be resumed.

    A job whose process was killed keeps the state it was killed in; INTERRUPTED is a job stopped on request.
    """

    QUEUED = "queued"
    PLANNING = "planning"
    SEARCHING = "searching"
    FINISHING = "finishing"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as the store knows it: `spec` is what the user asked for, `plan` what was worked out from it."""

    name: str
    state: JobState
    spec: Mapping[str, Any]
    plan: Mapping[str, Any]
    created_s: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the final stage found out about one trial, such as kind "finetuned", "measured" or "test"."""

    trial: int
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a job's log; `number` grows with every event of the store."""

    number: int
    time_s: float
    """Seconds since the epoch."""
    kind: str
    message: str


class Store:
    """All jobs of one database. One process writes to a job; any number of processes read.

    An SQLite file that `open` created and that holds nothing when it is closed is gone with it: a job that
    was refused leaves nothing behind.
    """

    def __init__(self, engine: Engine, file: _File | None = None) -> None:
        self._engine, self._file = engine, file
        self._reader = engine.execution_options(reads_only=True)

    @classmethod
    def open(cls, path_or_url: str | Path) -> Self:
        """Open a database, creating it and bringing its tables up to date where needed.

        Args:
            path_or_url: the path of an SQLite file, or a database URL.

        Raises:
            RequestError: it cannot be opened, or a newer prunefront wrote it.
            TransientError: another process keeps it locked.
        """
        text = str(path_or_url)
        url = make_url(text) if "://" in text else URL.create("sqlite", database=text)
        engine = create_engine(url, json_serializer=partial(json.dumps, allow_nan=False))
        event.listen(engine, "handle_error", _translate_error)
        file = None
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            file = _File.of(url)
        try:
            _migrate(engine)
        except BaseException:
            engine.dispose()
            if file:
                file.let_go()
            raise
        return cls(engine, file)

    def close(self) -> None:
        file, self._file = self._file, None
        unused = file is not None and file.is_new and file.is_ours_alone() and self._is_empty()
        self._engine.dispose()
        if file:
            if unused:
                file.remove()
            file.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction that may change something; for the store's companions, such as `trials.tokens`."""
        return self._engine.begin()

    def reading(self) -> AbstractContextManager[Connection]:
        """One transaction that changes nothing, and waits for no writer."""
        return self._reader.begin()

    def _is_empty(self) -> bool:
        with self.reading() as connection:
            first = (connection.execute(select(table).limit(1)).first() for table in metadata.sorted_tables)
            return all(row is None for row in first)

    def create_job(self, name: str, spec: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """Add a job in state QUEUED.

        Raises:
            RequestError: the name is taken.
        """
        row = {"name": name, "state": JobState.QUEUED, "spec": spec, "plan": plan, "created_s": time.time()}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_jobs), row)
        except IntegrityError:
            raise RequestError(
                f"a job named {name!r} is already in the store; resume it, or choose another name"
            ) from None

    def job(self, name: str) -> JobRecord:
        """Return one job.

        Raises:
            RequestError: no job has this name.
        """
        with self._reader.begin() as connection:
            row = connection.execute(select(_jobs).where(_jobs.c.name == name)).one_or_none()
            if row is None:
                raise _unknown_job(connection, name)
        return _job_record(row)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, oldest first."""
        with self._reader.begin() as connection:
            return [_job_record(row) for row in connection.execute(select(_jobs).order_by(_jobs.c.created_s))]

    def set_job_state(self, name: str, state: JobState) -> None:
        """Move a job to another state.

        Raises:
            RequestError: no job has this name.
            InvariantError: the job is done.
        """
        unfinished = (_jobs.c.name == name) & (_jobs.c.state != JobState.DONE)
        with self._engine.begin() as connection:
            if connection.execute(update(_jobs).where(unfinished).values(state=state)).rowcount == 0:
                _require_job(connection, name)
                raise InvariantError(f"job {name!r} is done and cannot become {state}")

    def remove_job(self, name: str) -> None:
        """Forget a job with all of its trials, results and events.

        Raises:
            RequestError: no job of that name.
        """
        with self._engine.begin() as connection:
            _require_job(connection, name)
            for table in (_events, _results, _trials):
                connection.execute(delete(table).where(table.c.job == name))
            connection.execute(delete(_jobs).where(_jobs.c.name == name))

    def set_plan(self, name: str, plan: Mapping[str, Any]) -> None:
        """Replace a job's plan.

        Raises:
            RequestError: no job has this name.
        """
        with self._engine.begin() as connection:
            if connection.execute(update(_jobs).where(_jobs.c.name == name).values(plan=plan)).rowcount == 0:
                raise _unknown_job(connection, name)

    def add_trials(self, job: str, trials: Sequence[Trial]) -> None:
        """Add queued trials, all or none.

        Raises:
            RequestError: no such job.
            InvariantError: a trial is not QUEUED, or its number is taken.
        """
        started = [trial.number for trial in trials if trial.state is not TrialState.QUEUED]
        if started:
            raise InvariantError(f"trials {started} cannot be added to job {job!r}: they are not queued")
        if not trials:
            return
        rows = [{"job": job, **_trial_row(trial)} for trial in trials]
        with self._engine.begin() as connection:
            _require_job(connection, job)
            try:
                connection.execute(insert(_trials), rows)
            except IntegrityError:
                numbers = [trial.number for trial in trials]
                raise InvariantError(f"job {job!r} has one of the trials {numbers} already") from None

    def save(self, job: str, trial: Trial) -> None:
        """Record one transition: start, requeue, finish or fail.

        The stored trial must be in the state that this one comes from, at the same attempt: the result of an
        attempt that was given up and started again is refused.

        Raises:
            RequestError: no such job.
            InvariantError: the stored trial does not fit; nothing changes.
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
        with self._engine.begin() as connection:
            if connection.execute(_SAVE_TRIAL, change).rowcount == 0:
                _require_job(connection, job)
                stored = connection.execute(
                    select(_trials.c.state, _trials.c.attempts).where(
                        _trials.c.job == job, _trials.c.number == trial.number
                    )
                ).one_or_none()
                found = f"{stored.state} at attempt {stored.attempts}" if stored else "unknown"
                raise InvariantError(
                    f"trial {trial.number} of job {job!r} cannot become {trial.state}: it is {found}, not "
                    f"{old_state} at attempt {old_attempts}"
                )

    def trials(self, job: str) -> list[Trial]:
        """Return a job's trials by number.

        Raises:
            RequestError: no such job.
        """
        with self._reader.begin() as connection:
            _require_job(connection, job)
            rows = connection.execute(
                select(_trials).where(_trials.c.job == job).order_by(_trials.c.number)
            ).all()
        return [_trial(row) for row in rows]

    def requeue_running(self, job: str) -> int:
        """Put the trials that a dead process left running back into the queue; return how many.

        Raises:
            RequestError: no such job.
        """
        running = (_trials.c.job == job) & (_trials.c.state == TrialState.RUNNING)
        with self._engine.begin() as connection:
            _require_job(connection, job)
            return connection.execute(update(_trials).where(running).values(state=TrialState.QUEUED)).rowcount

    def add_result(self, job: str, trial: int, kind: str, data: Mapping[str, Any]) -> None:
        """Add what the final stage found out; once per job, trial and kind.

        Raises:
            RequestError: no such job.
            InvariantError: the job has no such trial, or this result is there already.
        """
        with self._engine.begin() as connection:
            _require_job(connection, job)
            try:
                connection.execute(insert(_results), {"job": job, "trial": trial, "kind": kind, "data": data})
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
        with self._engine.begin() as connection:
            _require_job(connection, job)
            connection.execute(delete(_results).where(_results.c.job == job, _results.c.trial == trial))

    def results(self, job: str) -> list[Result]:
        """Return a job's results by trial and kind.

        Raises:
            RequestError: no such job.
        """
        columns = _results.c.trial, _results.c.kind, _results.c.data
        with self._reader.begin() as connection:
            _require_job(connection, job)
            rows = connection.execute(
                select(*columns).where(_results.c.job == job).order_by(_results.c.trial, _results.c.kind)
            ).all()
        return [Result(trial=row.trial, kind=row.kind, data=row.data) for row in rows]

    def add_event(self, job: str, kind: str, message: str) -> None:
        """Append a line to a job's log.

        Raises:
            RequestError: no such job.
        """
        with self._engine.begin() as connection:
            _require_job(connection, job)
            connection.execute(
                insert(_events), {"job": job, "time_s": time.time(), "kind": kind, "message": message}
            )

    def events(self, job: str) -> list[Event]:
        """Return a job's log, oldest first.

        Raises:
            RequestError: no such job.
        """
        with self._reader.begin() as connection:
            _require_job(connection, job)
            rows = connection.execute(
                select(_events).where(_events.c.job == job).order_by(_events.c.number)
            ).all()
        return [
            Event(number=row.number, time_s=row.time_s, kind=row.kind, message=row.message) for row in rows
        ]


class _File:
    """An SQLite file, and a shared lock on its folder for as long as a store has it open.

    Only who holds that lock alone may remove the file, and then nobody is about to put a job into it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._folder)
            raise TransientError(
                f"the folder {path.parent} is locked by another process; try again"
            ) from None
        self.is_new = not path.exists()

    @classmethod
    def of(cls, url: URL) -> Self | None:
        """None for a database in memory, and where SQLite itself will say what is wrong with the folder."""
        try:
            return cls(Path(url.database)) if url.database else None
        except OSError:
            return None

    def is_ours_alone(self) -> bool:
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def let_go(self) -> None:
        os.close(self._folder)


def _require_job(connection: Connection, name: str) -> None:
    if connection.execute(select(_jobs.c.name).where(_jobs.c.name == name)).one_or_none() is None:
        raise _unknown_job(connection, name)


def _unknown_job(connection: Connection, name: str) -> RequestError:
    names = list(connection.scalars(select(_jobs.c.name)))
    return RequestError(
        f"the store has no job {name!r}; {nearest(name, names) if names else 'it has none at all'}"
    )


def _job_record(row: Row[Any]) -> JobRecord:
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


def _migrate(engine: Engine) -> None:
    """Bring the tables up to the last revision in `trials/migrations`, in one transaction."""
    config = Config()
    config.set_main_option("script_location", "trials:migrations")
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    with engine.begin() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision == known[0]:
            return
        if revision is not None and revision not in known:
            raise RequestError(
                f"the store {engine.url} is of revision {revision!r}, and this prunefront knows none after "
                f"{known[0]!r}; upgrade prunefront, or choose another runs folder"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # The driver begins no transaction for reads and table changes; None leaves that to _begin_sqlite.
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that turns from reading to writing fails at once where another process has written in
    # between; one that announces its writing waits for its turn.
    reads_only = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _translate_error(context: ExceptionContext) -> None:
    """Raise our own error for a database error, except for a broken constraint, which each call explains."""
    error, original = context.sqlalchemy_exception, context.original_exception
    where = f"the store {context.engine.url if context.engine else ''}"
    match error:
        case IntegrityError():
            return
        case OperationalError() if "locked" in str(original):
            raise TransientError(f"{where} is locked by another process; try again") from original
        case DatabaseError():
            raise RequestError(
                f"{where} cannot be used: {original}; check the path, its permissions and the free space"
            ) from original
        case StatementError():
            raise InvariantError(f"{where} was given what it cannot hold: {original}") from original
