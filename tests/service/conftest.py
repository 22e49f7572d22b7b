"""Users of a service, a PostgreSQL that tests share, and a job that takes longer."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from search.place import Place
from tests.commands import finish, start
from tests.postgres import postgres
from tests.serving import client, token
from trials.store import Store
from trials.tokens import Role

LONGER = {"search": {"trials": 40}, "finetune": {"brief_steps": 60}}
"""What the small job is made by, so that most kills find it searching."""


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgres() as url:
        yield url


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


@pytest.fixture(scope="session")
def longer(planned_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = Path(shutil.copytree(planned_runs, tmp_path_factory.mktemp("longer") / "runs"))
    with closing(sqlite3.connect(Place(runs, "").store)) as connection, connection:
        connection.execute("update jobs set spec = json_patch(spec, ?)", [json.dumps(LONGER)])
    return runs


@pytest.fixture(scope="session")
def undisturbed(longer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = Path(shutil.copytree(longer, tmp_path_factory.mktemp("undisturbed") / "runs"))
    ended = finish(start("resume", runs / "small"))
    assert ended.code == 0, ended.err
    return runs
