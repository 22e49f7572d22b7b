"""A database of the store: opened and brought up to date, in transactions, with our errors for its own."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from functools import partial
from pathlib import Path
from typing import Self

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, make_url, select
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, StatementError

from hwprofiles.errors import (
    InvariantError,
    NoRoomError,
    PrunefrontError,
    RequestError,
    TransientError,
    one_line,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

Guard = Callable[[Connection], None]


BUSY_MS = 10_000
"""For how long a transaction waits for that of another process, on SQLite."""


class StoreError(PrunefrontError):
    """A database fails at its work. The sentence names where it lies, which is its machine's business."""


class StoreAwayError(StoreError, TransientError):
    """It is locked, or does not answer."""


class StoreFullError(StoreError, NoRoomError):
    """There is no room where it lies."""


class StoreUnusableError(StoreError, RequestError):
    """It cannot be read or written as it is."""


class Database:
    """A database, whose tables are those in `metadata`.

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
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    _keep_log_ahead(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _keep_log_ahead(connection: sqlite3.Connection) -> None:
    """Write ahead of the file. A new file turns to that for one process alone, and SQLite has the others wait
    for no busy_timeout."""
    end_s = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end_s:
                raise
            time.sleep(0.01)


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
            raise StoreAwayError(f"{where} is locked by another process; try again") from original
        case OperationalError() if _is_full(original):
            raise StoreFullError(f"{where} is on a disk that is full; make room there") from original
        case OperationalError() if context.dialect.name != "sqlite":
            raise StoreAwayError(
                f"{where} cannot be reached now: {one_line(str(original))}; check that its server runs"
            ) from original
        case DatabaseError():
            raise StoreUnusableError(
                f"{where} cannot be used: {original}; check the path, its permissions and the free space"
            ) from original
        case StatementError():
            raise InvariantError(f"{where} was given what it cannot hold: {original}") from original


def _is_full(error: BaseException | None) -> bool:
    """Whether a database says that its disk is full, for a file of its own as well."""
    sqlite_code, sqlstate = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlstate", None)
    return sqlite_code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE) or sqlstate == "53100"
