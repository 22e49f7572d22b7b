"""The store: jobs, trials, results and events in one database.

Its companions for the service, such as `trials.tokens`, are the only others that know SQL.

Execution at least once, accounting exactly once: a finished trial is never lost and never counted twice.
Every call that changes something is one transaction, on disk when the call returns, and every transition
compares the stored state with the one it starts from: what does not fit raises, and changes nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
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

from hwprofiles.errors import (
    InvariantError,
    NoRoomError,
    NotFoundError,
    RequestError,
    TransientError,
    nearest,
    one_line,
)
from trials.candidate import Candidate, Facts, Trial, TrialState

FACTS_VERSION = 2
STATE_EVENT, TRIAL_EVENT = "state", "trial"
"""Kinds of the lines that a job's log gets with each state of the job and with each trial that ends."""
READABLE_FACTS = (1, FACTS_VERSION)
"""Facts of version 1 lack what was not found out then."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

JOBS = Table(
    "jobs",
    metadata,
    Column("name", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("plan", JSON, nullable=False),
    Column("created_s", Float, nullable=False),
)

TRIALS = Table(
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


Guard = Callable[[Connection], None]


class JobState(StrEnum):
    """Where a job stands; DONE is final, every other state can be resumed.

    A job whose process was killed keeps the state it was killed in. INTERRUPTED is one whose process was
    asked to end; PAUSED one that its owner lets wait, CANCELLED one that its owner gave up.
    """

    QUEUED = "queued"
    PLANNING = "planning"
    SEARCHING = "searching"
    FINISHING = "finishing"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"
    CANCELLED = "cancelled"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a front shows of a trial; its accuracy and the error of that are None unless it is done."""

    number: int
    candidate: Candidate
    state: TrialState
    origin: str
    target: float
    reason: str
    accuracy: float | None
    accuracy_error: float | None


class Store:
    """All jobs of one database. One process writes to a job; any number of processes read.

    An SQLite file that `open` created and that holds nothing when it is closed is gone with it: a job that
    was refused leaves nothing behind.
    """

    def __init__(
        self, engine: Engine, file: _File | None = None, guard: Guard = lambda connection: None
    ) -> None:
        self._engine, self._file, self._guard = engine, file, guard
        self._reader = engine.execution_options(reads_only=True)
        # Whoever waits for the one writer of an SQLite file looks again and again, at last every 100 ms, and
        # whoever comes later may be lucky before. So the threads of a process queue up for it here.
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

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

    def under(self, guard: Guard) -> Self:
        """The same store for someone who may lose the right to change it: who holds a lease, say.

        Args:
            guard: called in each transaction that may change something, before anything is; what it raises
                ends the transaction.
        """
        guarded = copy(self)
        guarded._file, guarded._guard = None, guard
        return guarded

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that may change something, for the store's companions, too."""
        with self._turn, self._engine.begin() as connection:
            self._guard(connection)
            yield connection

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
        with self.writing() as connection:
            _require_job(connection, name)
            for table in (_events, _results, TRIALS):
                connection.execute(delete(table).where(table.c.job == name))
            try:
                connection.execute(delete(JOBS).where(JOBS.c.name == name))
            except IntegrityError:
                raise RequestError(
                    f"job {name!r} is one of a service, which alone can forget it: DELETE /api/v1/jobs/{name}"
                ) from None

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

    def outlines(self, job: str) -> list[Outline]:
        """Return a job's trials by number, and of their facts two: in a fourth of the time of all.

        Raises:
            RequestError: no such job.
        """
        facts = TRIALS.c.facts
        columns = [TRIALS.c[name] for name in ("number", "kept", "state", "origin", "target", "reason")]
        found = [facts[name].as_float().label(name) for name in ("accuracy", "accuracy_error")]
        with self.reading() as connection:
            _require_job(connection, job)
            rows = connection.execute(
                select(*columns, *found).where(TRIALS.c.job == job).order_by(TRIALS.c.number)
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
        with self.writing() as connection:
            _require_job(connection, job)
            connection.execute(delete(_results).where(_results.c.job == job, _results.c.trial == trial))

    def results(self, job: str) -> list[Result]:
        """Return a job's results by trial and kind.

        Raises:
            RequestError: no such job.
        """
        columns = _results.c.trial, _results.c.kind, _results.c.data
        with self.reading() as connection:
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
        wanted = select(_events).where(_events.c.job == job, _events.c.number > after)
        with self.reading() as connection:
            _require_job(connection, job)
            order = _events.c.number.desc() if newest else _events.c.number
            rows = connection.execute(wanted.order_by(order).limit(limit)).all()
        if newest:
            rows = rows[::-1]
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


def note(connection: Connection, job: str, kind: str, message: str) -> None:
    """Append a line to the log of a job that is there."""
    row = {"job": job, "time_s": time.time(), "kind": kind, "message": message}
    connection.execute(insert(_events), row)


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
    if error is None and isinstance(original, ValueError):  # drivers that write JSON themselves
        raise InvariantError(f"{where} was given what it cannot hold: {original}") from original
    match error:
        case IntegrityError():
            return
        case OperationalError() if "locked" in str(original):
            raise TransientError(f"{where} is locked by another process; try again") from original
        case OperationalError() if _is_full(original):
            raise NoRoomError(f"{where} is on a disk that is full; make room there") from original
        case OperationalError() if context.dialect.name != "sqlite":
            raise TransientError(
                f"{where} cannot be reached now: {one_line(str(original))}; check that its server runs"
            ) from original
        case DatabaseError():
            raise RequestError(
                f"{where} cannot be used: {original}; check the path, its permissions and the free space"
            ) from original
        case StatementError():
            raise InvariantError(f"{where} was given what it cannot hold: {original}") from original


def _is_full(error: BaseException | None) -> bool:
    """Whether a database says that its disk is full, for a file of its own as well."""
    sqlite_code, sqlstate = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlstate", None)
    return sqlite_code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE) or sqlstate == "53100"
