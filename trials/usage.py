"""What the jobs of each user come to, which quotas are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select, union_all

from trials.records import TAKEN_UP
from trials.tables import FORGOTTEN, JOBS, SERVICE_JOBS


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a user's jobs come to."""

    queued: int
    running: int
    worked_s: float


Admit = Callable[[Usage], None]
"""Raises where one more job in the queue, of a user who has so much, is too many."""


def admit_all(usage: Usage) -> None:
    """Of those who ask for nobody's quota."""


def worked_s_by_owner() -> Select[Any]:
    """Seconds of workers that all jobs of each user took, those that are forgotten as well."""
    columns = [(table.c.owner, table.c.worked_s) for table in (SERVICE_JOBS, FORGOTTEN)]
    took = union_all(*(select(*each) for each in columns)).subquery()
    return select(took.c.owner, func.sum(took.c.worked_s).label("worked_s")).group_by(took.c.owner)


def usage_of(connection: Connection, owner: str) -> Usage:
    running = SERVICE_JOBS.c.lease_until_s > time.time()
    waits = JOBS.c.state.in_(TAKEN_UP) & ~running
    of = (
        select(
            func.count().filter(waits).label("queued"),
            func.count().filter(running).label("running"),
        )
        .select_from(JOBS.join(SERVICE_JOBS))
        .where(SERVICE_JOBS.c.owner == owner)
    )
    row = connection.execute(of).one()
    took = worked_s_by_owner().subquery()
    worked_s = connection.scalar(select(took.c.worked_s).where(took.c.owner == owner))
    return Usage(queued=row.queued, running=row.running, worked_s=worked_s or 0.0)
