"""A store on SQLite and on PostgreSQL, with what the service keeps in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from trials.candidate import Candidate, Trial
from trials.leases import Lease, Leases
from trials.service_jobs import ServiceJobs
from trials.store import Store


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    found: str = request.getfixturevalue("postgres_url")
    engine = create_engine(found)
    with engine.begin() as connection:
        connection.execute(text("drop schema public cascade"))
        connection.execute(text("create schema public"))
    engine.dispose()
    return found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as store:
        yield store


@pytest.fixture
def jobs(store: Store) -> ServiceJobs:
    return ServiceJobs(store)


@pytest.fixture
def leases(store: Store) -> Leases:
    return Leases(store)


def submit(jobs: ServiceJobs, owner: str, name: str = "mine", key: str | None = None, what: str = "a") -> str:
    return jobs.submit(owner, name, {"search": {"trials": 4}, "what": what}, what, key)[0].record.name


def take(leases: Leases, holder: str = "h", most: int = 99) -> Lease:
    lease = leases.take(holder, most=most)
    assert lease
    return lease


def queued(number: int) -> Trial:
    return Trial(number=number, candidate=Candidate((4,)), seed=number, target=0.5, origin="random")
