"""The store on PostgreSQL keeps the promises that it keeps on SQLite."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from hwprofiles.errors import TransientError
from tests.contracts.store import StoreContract
from trials.store import Store


class TestPostgresStore(StoreContract):
    @pytest.fixture(autouse=True)
    def server(self, postgres_url: str) -> None:
        self.url = postgres_url

    def make(self, folder: Path) -> Store:
        name = f"t{sha256(str(folder).encode()).hexdigest()[:16]}"
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            known = connection.scalars(text("select datname from pg_database")).all()
            if name not in known:
                connection.execute(text(f"create database {name}"))
        engine.dispose()
        return Store.open(make_url(self.url).set(database=name).render_as_string())


def test_a_server_that_is_not_there_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot be reached"):
        Store.open(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
