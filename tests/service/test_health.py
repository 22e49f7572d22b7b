"""How the service says, to anybody, that it is alive and ready, and what it did."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from search.service import health
from tests.serving import client, token
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
