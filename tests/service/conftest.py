"""A service on a store of its own, and a PostgreSQL that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.postgres import postgres
from tests.search.conftest import finished, finished_runs, planned_runs, prunefront, small_job
from tests.serving import client, served, token
from trials.store import Store
from trials.tokens import Role

__all__ = ["finished", "finished_runs", "planned_runs", "prunefront", "small_job"]
"""What the tests of the search share with those here: a small job that is planned, and one that is done; and
the command line."""


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "prunefront.db") as store:
        yield store


@pytest.fixture
def address(store: Store, tmp_path: Path) -> Iterator[str]:
    with served(store, tmp_path / "service") as address:
        yield address


@pytest.fixture
def admin(store: Store, address: str) -> Iterator[httpx.Client]:
    with client(address, token(store, Role.ADMIN)) as admin:
        yield admin
