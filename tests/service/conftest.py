"""A service on a store of its own, and a PostgreSQL that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.postgres import postgres
from tests.serving import client, served, token
from trials.store import Store
from trials.tokens import Role


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


@pytest.fixture
def ann(store: Store, address: str) -> Iterator[httpx.Client]:
    with client(address, token(store, Role.SUBMITTER, "ann")) as ann:
        yield ann


@pytest.fixture
def bob(store: Store, address: str) -> Iterator[httpx.Client]:
    with client(address, token(store, Role.SUBMITTER, "bob")) as bob:
        yield bob
