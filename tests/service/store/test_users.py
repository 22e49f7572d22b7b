"""What the store knows of users, on SQLite and on PostgreSQL: tokens, sessions, quotas, the audit log."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from hwprofiles.errors import ConflictError
from trials import tokens as module
from trials.audit import Audit, AuditEntry
from trials.quotas import Quota, Quotas
from trials.store import Store
from trials.tokens import Role, Sessions, Tokens

QUOTA = Quota(queued_jobs=2, running_jobs=1, worker_minutes=10, stored_bytes=100)


def entry(number: int) -> AuditEntry:
    return AuditEntry(
        time_s=number,
        token="",
        user="ann",
        action="POST /jobs",
        object="/jobs",
        status=201,
        address="127.0.0.1",
    )


def test_a_session_stands_for_its_token_until_either_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, sessions = Tokens(store), Sessions(store)
    token, _ = tokens.make("ann", Role.VIEWER, lifetime_s=60)
    first, second, third = (sessions.begin(token) for _ in range(3))
    assert sessions.check(first) == token
    assert sessions.check(first + "x") is None
    sessions.end(first)
    assert [sessions.check(text) for text in (first, second)] == [None, token]
    monkeypatch.setattr(module, "SESSION_S", -1.0)
    assert sessions.check(sessions.begin(token)) is None
    tokens.revoke(token.id)
    assert [sessions.check(text) for text in (second, third)] == [None, None]


def test_a_quota_is_everybodys_until_an_admin_sets_one(store: Store) -> None:
    quotas, more = (
        Quotas(store, QUOTA),
        Quota(queued_jobs=9, running_jobs=3, worker_minutes=1e6, stored_bytes=1),
    )
    quotas.set("ann", QUOTA)
    quotas.set("ann", more)
    assert [quotas.of("ann"), quotas.of("bob")] == [more, QUOTA]
    assert (quotas.all(), quotas.running_limits()) == ({"ann": more}, {"ann": 3, "": 1})
    quotas.set("ann", None)
    assert quotas.of("ann") == QUOTA


def test_a_quota_that_is_used_up_is_refused_saying_which_part() -> None:
    QUOTA.check("ann", queued_jobs=1, worked_s=599)
    with pytest.raises(ConflictError, match="'ann' has 2 queued jobs of at most 2; wait"):
        QUOTA.check("ann", queued_jobs=2, worked_s=0)
    with pytest.raises(ConflictError, match="took 10 minutes of workers of at most 10; ask an admin"):
        QUOTA.check("ann", queued_jobs=0, worked_s=600)


def test_the_audit_log_is_read_in_pages_from_its_newest_entry(store: Store) -> None:
    audit = Audit(store)
    audit.add([entry(number) for number in range(3)])
    audit.add([entry(3)])
    first = audit.newest(3)
    assert [found.time_s for found in first] == [3, 2, 1]
    assert [found.time_s for found in audit.newest(3, before=first[-1].number)] == [0]


def test_tokens_of_an_older_store_are_those_of_users(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'store.sqlite'}")
    config = Config()
    config.set_main_option("script_location", "trials:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "002")
        connection.exec_driver_sql("INSERT INTO tokens VALUES ('0', 'ann', 'agent', '', 1.0, 2.0, NULL)")
    engine.dispose()
    with Store.open(tmp_path / "store.sqlite") as store:
        (token,) = Tokens(store).all()
    assert (token.user, token.role) == ("ann", Role.AGENT)
