"""What jobs of the service are made of, in the store: what users brought, and what admins registered."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Float, String, Table, delete, func, insert, select
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from hwprofiles.errors import ConflictError, NotFoundError
from trials.checking import InputKind
from trials.database import Database, metadata
from trials.service_jobs import Hold, made_of

_inputs = Table(
    "inputs",
    metadata,
    Column("user", String, primary_key=True),
    Column("sha256", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
)

_sources = Table(
    "sources",
    metadata,
    Column("name", String, primary_key=True),
    Column("location", String, nullable=False),
    Column("path", String, nullable=False),
    Column("created_s", Float, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A bundle, named by the sha256 of its manifest, or a file of data, by its own. Each user has theirs."""

    user: str
    sha256: str
    kind: InputKind
    size_bytes: int
    created_s: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Data that every user may name: the `location` that an admin gave, the `path` where they lie here."""

    name: str
    location: str
    path: str
    created_s: float
    """Seconds since the epoch."""


class Inputs:
    """All that was brought to a store's service, and is whole and checked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, user: str, sha256: str, kind: InputKind, size_bytes: int) -> Input:
        """Note that a user has brought something; that they had already changes nothing."""
        found = Input(user=user, sha256=sha256, kind=kind, size_bytes=size_bytes, created_s=time.time())
        row = {key: getattr(found, key) for key in Input.__slots__}
        try:
            with self._database.writing() as connection:
                connection.execute(insert(_inputs), row)
        except IntegrityError:
            pass
        return self.get(user, sha256) or found

    def get(self, user: str, sha256: str) -> Input | None:
        this = (_inputs.c.user == user) & (_inputs.c.sha256 == sha256)
        with self._database.reading() as connection:
            row = connection.execute(select(_inputs).where(this)).one_or_none()
        return _input(row) if row else None

    def holding(self, user: str, sha256s: Collection[str]) -> Hold:
        """For `ServiceJobs.submit`: until the job is there, nothing that it is made of can be removed.

        It raises NotFoundError where something was removed since the user named it.
        """
        these = (_inputs.c.user == user) & _inputs.c.sha256.in_(sha256s)
        held = select(_inputs.c.sha256).where(these).order_by(_inputs.c.sha256).with_for_update(read=True)

        def hold(connection: Connection) -> None:
            if gone := set(sha256s) - set(connection.scalars(held)):
                raise NotFoundError(f"'sha256:{min(gone)}' was removed just now; send it again")

        return hold

    def remove(self, user: str, sha256: str) -> bool:
        """Forget that a user has brought something; says whether anybody else has, or has a job made of it.

        Raises:
            NotFoundError: the user has brought no such thing.
            ConflictError: a job of theirs needs it.
        """
        same = _inputs.c.sha256 == sha256
        this = same & (_inputs.c.user == user)
        with self._database.writing() as connection:
            # Locked before it is asked who needs it: a job that is being added is there by then, or refused.
            found = connection.execute(select(_inputs.c.kind).where(this).with_for_update()).one_or_none()
            if found is None:
                raise NotFoundError(f"you have brought nothing of sha256 {sha256[:12]}…")
            if jobs := made_of(connection, sha256, user):
                raise ConflictError(
                    f"{found.kind} {sha256[:12]}… is needed by {len(jobs)} of your jobs, such as "
                    f"{jobs[0]!r}; remove those first"
                )
            connection.execute(delete(_inputs).where(this))
            others = connection.execute(select(_inputs.c.user).where(same)).first()
            return others is not None or bool(made_of(connection, sha256))

    def size_bytes(self, user: str) -> int:
        """Of all that a user brought."""
        total = select(func.coalesce(func.sum(_inputs.c.size_bytes), 0)).where(_inputs.c.user == user)
        with self._database.reading() as connection:
            return int(connection.scalar(total) or 0)

    def all(self, user: str | None) -> list[Input]:
        """What a user brought, or everybody, oldest first."""
        wanted = select(_inputs).order_by(_inputs.c.created_s)
        if user is not None:
            wanted = wanted.where(_inputs.c.user == user)
        with self._database.reading() as connection:
            return [_input(row) for row in connection.execute(wanted)]


class Sources:
    """All sources of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, name: str, location: str, path: str) -> None:
        """Register a source, in place of one of the same name."""
        row = {"name": name, "location": location, "path": path, "created_s": time.time()}
        with self._database.writing() as connection:
            connection.execute(delete(_sources).where(_sources.c.name == name))
            connection.execute(insert(_sources), row)

    def remove(self, name: str) -> bool:
        """Forget a source; False where there is none of that name."""
        with self._database.writing() as connection:
            return bool(connection.execute(delete(_sources).where(_sources.c.name == name)).rowcount)

    def all(self) -> dict[str, Source]:
        """By name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_sources).order_by(_sources.c.name)).all()
        return {row.name: Source(**{key: getattr(row, key) for key in Source.__slots__}) for row in rows}


def _input(row: Row[Any]) -> Input:
    fields = {key: getattr(row, key) for key in Input.__slots__}
    return Input(**{**fields, "kind": InputKind(row.kind)})
