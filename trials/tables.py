"""The tables of jobs; what is theirs alone other companions of the store keep in tables of their own."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Table,
    UniqueConstraint,
    false,
)

from trials.database import metadata

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

RESULTS = Table(
    "results",
    metadata,
    Column("job", String, primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("data", JSON, nullable=False),
    ForeignKeyConstraint(["job", "trial"], ["trials.job", "trials.number"]),
)

EVENTS = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("job", ForeignKey("jobs.name"), nullable=False, index=True),
    Column("time_s", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("message", String, nullable=False),
)

SERVICE_JOBS = Table(
    "service_jobs",
    metadata,
    Column("job", ForeignKey("jobs.name"), primary_key=True),
    Column("owner", String, nullable=False, index=True),
    Column("key", String),
    Column("fingerprint", String, nullable=False),
    Column("wish", String, nullable=False),
    Column("exports", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("holder", String, nullable=False),
    Column("lease_until_s", Float, nullable=False, index=True),
    Column("taken_s", Float, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("worked_s", Float, nullable=False),
    Column("uncopied", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("owner", "key", name="uq_service_jobs_owner_key"),
)

FORGOTTEN = Table(
    "forgotten_jobs",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("owner", String, nullable=False, index=True),
    Column("worked_s", Float, nullable=False),
)
"""What jobs took that are not here any more: nobody gets that back."""
