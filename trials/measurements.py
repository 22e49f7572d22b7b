"""Measurement jobs of the service in the store: who shall measure what, and the raw times of each pass.

A job is claimed with a lease by one holder, and given to another once the lease has run out. Each pass is
kept once: whoever sends one again is told so, and nothing changes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Row

from hwprofiles.errors import ConflictError
from trials.database import Database, metadata

MAX_CLAIMS = 10
"""How often a job may be begun without a pass being finished: one that kills its agents ends by this."""

_agents = Table(
    "agents",
    metadata,
    Column("name", String, primary_key=True),
    Column("seen_s", Float, nullable=False),
    Column("report", JSON, nullable=False),
)

_measurements = Table(
    "measurements",
    metadata,
    Column("id", String, primary_key=True),
    Column("agent", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("reason", String, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("holder", String, nullable=False),
    Column("lease_until_s", Float, nullable=False),
    Column("claims", Integer, nullable=False),
)

_passes = Table(
    "measurement_passes",
    metadata,
    Column("measurement", ForeignKey("measurements.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("created_s", Float, nullable=False),
    Column("data", JSON, nullable=False),
)


class MeasurementState(StrEnum):
    """Where a measurement stands; FAILED is left by asking for the same once more."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class NotHeldError(ConflictError):
    """Whoever wants to change a job does not hold it, or no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementRecord:
    """A measurement as the store knows it; `done` are the numbers of the passes that are there."""

    id: str
    agent: str
    state: MeasurementState
    spec: Mapping[str, Any]
    reason: str
    created_s: float
    done: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPass:
    """One pass as it was sent, and when, in seconds since the epoch."""

    created_s: float
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """An agent: when it asked for work last, in seconds since the epoch, and what it said of its board."""

    name: str
    seen_s: float
    report: Mapping[str, Any]


class Measurements:
    """All measurements of a store, and the agents that do them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, id_: str, agent: str, spec: Mapping[str, Any]) -> bool:
        """Queue a measurement; False where the same is there already. One that failed starts over."""
        fresh = {
            "state": MeasurementState.QUEUED,
            "reason": "",
            "holder": "",
            "lease_until_s": 0,
            "claims": 0,
        }
        with self._database.writing() as connection:
            known = connection.execute(select(_measurements).where(_measurements.c.id == id_)).one_or_none()
            if known is None:
                row = {"id": id_, "agent": agent, "spec": spec, "created_s": time.time(), **fresh}
                connection.execute(insert(_measurements), row)
            elif known.state == MeasurementState.FAILED:
                connection.execute(delete(_passes).where(_passes.c.measurement == id_))
                connection.execute(update(_measurements).where(_measurements.c.id == id_).values(fresh))
            return known is None

    def claim(self, agent: str, holder: str, lease_s: float) -> MeasurementRecord | None:
        """Give `holder` the job of this agent that it holds already, or else the oldest that nobody does."""
        now_s = time.time()
        free = (_measurements.c.holder == holder) | (_measurements.c.lease_until_s < now_s)
        open_ = _measurements.c.state.in_([MeasurementState.QUEUED, MeasurementState.RUNNING])
        wanted = (
            select(_measurements)
            .where(_measurements.c.agent == agent, open_, free)
            .order_by(_measurements.c.holder != holder, _measurements.c.created_s)
        )
        with self._database.writing() as connection:
            for row in connection.execute(wanted).all():
                this = update(_measurements).where(_measurements.c.id == row.id)
                if row.claims < MAX_CLAIMS:
                    change = {"holder": holder, "lease_until_s": now_s + lease_s, "claims": row.claims + 1}
                    connection.execute(this.values(state=MeasurementState.RUNNING, **change))
                    return self._read(connection, row.id)
                reason = f"it was begun {MAX_CLAIMS} times and no pass came of it; see the agent's own output"
                connection.execute(this.values(state=MeasurementState.FAILED, reason=reason))
        return None

    def renew(self, id_: str, holder: str, lease_s: float) -> None:
        """Keep a job for `holder` for `lease_s` from now.

        Raises:
            NotHeldError: it is not this holder's.
        """
        with self._database.writing() as connection:
            self._hear(connection, self._require_held(connection, id_, holder))
            until = update(_measurements).where(_measurements.c.id == id_)
            connection.execute(until.values(lease_until_s=time.time() + lease_s))

    def add_pass(self, id_: str, number: int, holder: str, data: Mapping[str, Any], *, passes: int) -> bool:
        """Keep a pass; False where it is there already, and then nothing changes. The last ends the job.

        Raises:
            NotHeldError: the job is not this holder's.
        """
        with self._database.writing() as connection:
            of_job = select(_passes.c.number).where(_passes.c.measurement == id_)
            done = set(connection.scalars(of_job))
            if number in done:
                return False
            self._hear(connection, self._require_held(connection, id_, holder))
            row = {"measurement": id_, "number": number, "created_s": time.time(), "data": data}
            connection.execute(insert(_passes), row)
            change: dict[str, Any] = {"claims": 0}
            if len(done) + 1 == passes:
                change["state"] = MeasurementState.DONE
            connection.execute(update(_measurements).where(_measurements.c.id == id_).values(change))
            return True

    def fail(self, id_: str, holder: str, reason: str) -> None:
        """End a job that cannot be done.

        Raises:
            NotHeldError: it is not this holder's.
        """
        with self._database.writing() as connection:
            self._require_held(connection, id_, holder)
            this = update(_measurements).where(_measurements.c.id == id_)
            connection.execute(this.values(state=MeasurementState.FAILED, reason=reason))

    def get(self, id_: str) -> MeasurementRecord | None:
        with self._database.reading() as connection:
            return self._read(connection, id_)

    def all(self) -> list[MeasurementRecord]:
        """Return every measurement, oldest first."""
        with self._database.reading() as connection:
            ids = connection.scalars(select(_measurements.c.id).order_by(_measurements.c.created_s)).all()
            found = [self._read(connection, id_) for id_ in ids]
        return [record for record in found if record]

    def passes(self, id_: str) -> list[StoredPass]:
        """Return the passes of a job that are there, by number."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(_passes).where(_passes.c.measurement == id_).order_by(_passes.c.number)
            ).all()
        return [StoredPass(created_s=row.created_s, data=row.data) for row in rows]

    def see_agent(self, name: str, report: Mapping[str, Any]) -> None:
        """Note that an agent is there, and what it says of itself."""
        row = {"seen_s": time.time(), "report": report}
        with self._database.writing() as connection:
            if not connection.execute(update(_agents).where(_agents.c.name == name).values(row)).rowcount:
                connection.execute(insert(_agents), {"name": name, **row})

    def agents(self) -> list[AgentRecord]:
        """Return every agent that ever asked for work, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_agents).order_by(_agents.c.name)).all()
        return [AgentRecord(name=row.name, seen_s=row.seen_s, report=row.report) for row in rows]

    @staticmethod
    def _hear(connection: Connection, agent: str) -> None:
        """Note that an agent is there; while it measures it asks for no work."""
        seen = update(_agents).where(_agents.c.name == agent)
        connection.execute(seen.values(seen_s=time.time()))

    @staticmethod
    def _require_held(connection: Connection, id_: str, holder: str) -> str:
        """The agent of a measurement that `holder` works on."""
        row = connection.execute(select(_measurements).where(_measurements.c.id == id_)).one_or_none()
        if row is None or row.state != MeasurementState.RUNNING or row.holder != holder:
            state = f"is {row.state}" if row and row.state != MeasurementState.RUNNING else "is another's"
            raise NotHeldError(f"measurement {id_!r} {state}; claim work again")
        return str(row.agent)

    @staticmethod
    def _read(connection: Connection, id_: str) -> MeasurementRecord | None:
        row = connection.execute(select(_measurements).where(_measurements.c.id == id_)).one_or_none()
        numbers = select(_passes.c.number).where(_passes.c.measurement == id_).order_by(_passes.c.number)
        return _record(row, tuple(connection.scalars(numbers))) if row else None


def _record(row: Row[Any], done: tuple[int, ...]) -> MeasurementRecord:
    return MeasurementRecord(
        id=row.id,
        agent=row.agent,
        state=MeasurementState(row.state),
        spec=row.spec,
        reason=row.reason,
        created_s=row.created_s,
        done=done,
    )
