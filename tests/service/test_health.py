"""How the service says, to anybody, that it is alive and ready, and what it did."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from search.service import health
from search.service import supervisor as supervisor_module
from search.service.supervisor import Supervisor
from tests.serving import client, served, token
from trials import database
from trials.store import Store
from trials.tokens import Role


def test_it_is_alive_and_ready(address: str) -> None:
    for path in ("/healthz", "/readyz"):
        assert httpx.get(f"{address}{path}").json() == {"status": "ok"}


def test_without_room_on_the_disk_it_is_alive_but_not_ready(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ROOM_BYTES", 2**62)
    answer = httpx.get(f"{address}/readyz")
    assert (answer.status_code, "make room" in answer.json()["detail"]) == (503, True)
    assert httpx.get(f"{address}/healthz").status_code == 200


def test_without_its_database_it_is_alive_but_not_ready(address: str, store: Store, tmp_path: Path) -> None:
    store.close()
    (tmp_path / "prunefront.db").write_bytes(b"no database" * 99)
    answer = httpx.get(f"{address}/readyz")
    assert (answer.status_code, "database" in answer.json()["detail"]) == (503, True)
    assert str(tmp_path) not in answer.text
    assert httpx.get(f"{address}/healthz").status_code == 200


def test_without_a_supervisor_that_looks_it_is_not_ready(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(store, tmp_path, tmp_path / "logs", most=1)
    with served(store, tmp_path / "service", supervisor=supervisor) as address:
        supervisor.start()
        assert httpx.get(f"{address}/readyz").status_code == 200
        monkeypatch.setattr(supervisor_module, "STUCK_S", -1.0)
        assert "the supervisor has stopped" in httpx.get(f"{address}/readyz").json()["detail"]
        monkeypatch.undo()
        assert httpx.get(f"{address}/readyz").status_code == 200
        supervisor.stop()
        assert httpx.get(f"{address}/readyz").status_code == 503


def test_who_calls_while_the_database_is_locked_or_broken_is_told_so_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    with Store.open(tmp_path / "prunefront.db") as store, served(store, tmp_path / "service") as address:
        text = token(store, Role.ADMIN)
        calls = [(caller, path) for caller in ("", "wrong", text) for path in ("/tokens", "/session")]

        def answers() -> list[httpx.Response]:
            found = []
            for caller, path in calls:
                with client(address, caller) as each:
                    found += [each.post(path, json={"token": "wrong"}), each.delete(f"{path}/x")]
            return found

        with closing(sqlite3.connect(tmp_path / "prunefront.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = answers()
        assert {(a.status_code, a.headers["content-type"]) for a in locked} == {
            (503, "application/problem+json")
        }
        assert "does not answer as it should; try again later" in locked[0].json()["detail"]
        store.close()
        (tmp_path / "prunefront.db").write_bytes(b"no database" * 99)
        broken = answers()
        assert {answer.status_code for answer in broken} == {503}
        assert not [answer.text for answer in (*locked, *broken) if str(tmp_path) in answer.text]


def test_metrics_count_calls_by_kind_and_tell_no_path_and_no_name(store: Store, address: str) -> None:
    with client(address, token(store, Role.ADMIN, "ann")) as ann:
        ann.get("/tokens")
        for number in range(3):
            ann.delete(f"/quotas/secret-{number}")
            ann.get(f"/none-{number}")
            ann.request(f"VERB{number}", "/tokens")
    text = httpx.get(f"{address}/metrics").text
    counts = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "prunefront_answers_total"
    }
    assert counts == {
        ("GET", "/api/v1/tokens", "200"): 1,
        ("DELETE", "/api/v1/quotas/{user}", "204"): 3,
        ("GET", "none", "404"): 3,
        ("other", "/api/v1/tokens", "405"): 3,
    }
    assert 'prunefront_answer_seconds_bucket{le="+Inf",method="GET",route="/api/v1/tokens"} 1.0' in text
    assert not [word for word in ("ann", "secret", "none-", str(address)) if word in text]
