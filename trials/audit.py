"""The audit log in the store: who did what, when, from where, and how it ended. It only ever grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Column, Float, Integer, String, Table, insert, select

from trials.database import Database, metadata

_audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("time_s", Float, nullable=False),
    Column("token", String, nullable=False),
    Column("user", String, nullable=False),
    Column("action", String, nullable=False),
    Column("object", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("address", String, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One call that may have changed something. Times in seconds since the epoch.

    `token` and `user` are empty where nobody known called; `action` is the verb and the kind of path, such as
    "DELETE /tokens/{id}", and `object` the path that was called.
    """

    time_s: float
    token: str
    user: str
    action: str
    object: str
    status: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry(AuditEntry):
    """An entry of the log; `number` grows with each."""

    number: int


class Audit:
    """The log of a store. Nothing changes an entry, or takes one away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries, all or none."""
        with self._database.writing() as connection:
            connection.execute(insert(_audit), [asdict(entry) for entry in entries])

    def newest(self, count: int, before: int | None = None) -> list[StoredEntry]:
        """At most `count` entries, newest first; all of them older than the one numbered `before`."""
        wanted = select(_audit).order_by(_audit.c.number.desc()).limit(count)
        if before is not None:
            wanted = wanted.where(_audit.c.number < before)
        with self._database.reading() as connection:
            return [StoredEntry(**row) for row in connection.execute(wanted).mappings()]
