"""Quotas in the store: how much of the service each user may take, where an admin has said so."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table, delete, insert, select

from hwprofiles.errors import ConflictError, NoRoomError
from trials.database import Database, metadata

_quotas = Table(
    "quotas",
    metadata,
    Column("user", String, primary_key=True),
    Column("queued_jobs", Integer, nullable=False),
    Column("running_jobs", Integer, nullable=False),
    Column("worker_minutes", Float, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How many jobs a user may have at a time, how many minutes of workers, or of GPUs, in all, and how many
    bytes of models and data."""

    queued_jobs: int
    running_jobs: int
    worker_minutes: float
    stored_bytes: int

    def check(self, user: str, *, queued_jobs: int, worked_s: float) -> None:
        """Refuse what would put one more job of a user into the queue. Running jobs are limited by waiting.

        Args:
            queued_jobs: how many wait there already.
            worked_s: seconds of workers that all of the user's jobs have taken.

        Raises:
            ConflictError: the quota is used up; says which part of it.
        """
        if queued_jobs >= self.queued_jobs:
            raise ConflictError(
                f"{user!r} has {queued_jobs} queued jobs of at most {self.queued_jobs}; wait until one runs, "
                "or cancel one"
            )
        if worked_s >= self.worker_minutes * 60:
            raise ConflictError(
                f"jobs of {user!r} took {worked_s / 60:.0f} minutes of workers of at most "
                f"{self.worker_minutes:.0f}; ask an admin for more"
            )

    def check_stored(self, user: str, stored_bytes: int) -> None:
        """Refuse what a user would keep too much by.

        Raises:
            NoRoomError: it is more than the quota.
        """
        if stored_bytes > self.stored_bytes:
            raise NoRoomError(
                f"{user!r} would keep {stored_bytes} bytes of at most {self.stored_bytes}; remove a model or "
                "data with DELETE /inputs/{sha256}, or ask an admin for more"
            )


class Quotas:
    """The quotas of a store's users; `default` is that of everybody else."""

    def __init__(self, database: Database, default: Quota) -> None:
        self._database, self.default = database, default

    def of(self, user: str) -> Quota:
        return self.all().get(user, self.default)

    def all(self) -> dict[str, Quota]:
        """Those that an admin has set, by user."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_quotas).order_by(_quotas.c.user)).mappings().all()
        return {row["user"]: Quota(**{key: row[key] for key in Quota.__slots__}) for row in rows}

    def running_limits(self) -> dict[str, int]:
        """How many jobs may run at once, by user; "" for everybody else."""
        return {"": self.default.running_jobs} | {
            user: quota.running_jobs for user, quota in self.all().items()
        }

    def set(self, user: str, quota: Quota | None) -> None:
        """Give a user a quota; None gives them that of everybody else."""
        with self._database.writing() as connection:
            connection.execute(delete(_quotas).where(_quotas.c.user == user))
            if quota:
                connection.execute(insert(_quotas), {"user": user, **asdict(quota)})
