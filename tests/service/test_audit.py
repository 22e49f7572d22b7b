"""The audit log: what changes something is in it, whoever asked, before the answer is given."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from hwprofiles.wire import HOLDER
from tests.serving import client, token
from trials.store import Store
from trials.tokens import Role

HOLDS = {HOLDER: "0" * 32}


def told(admin: httpx.Client) -> list[tuple[Any, ...]]:
    """Who, what, and how it ended, oldest first."""
    items = admin.get("/audit").json()["items"]
    return [
        tuple(item[key] for key in ("user", "action", "object", "status", "address"))
        for item in reversed(items)
    ]


def test_every_call_that_may_change_something_is_logged_and_no_other(
    store: Store, address: str, admin: httpx.Client
) -> None:
    with client(address, token(store, Role.VIEWER, "ann")) as ann, client(address, "wrong") as nobody:
        admin.put(
            "/quotas/ann", json={"queued_jobs": 1, "running_jobs": 1, "worker_minutes": 1, "stored_bytes": 1}
        )
        ann.delete("/quotas/ann")
        ann.delete("/quotas/ann", headers={"Host": "evil.example"})
        nobody.post("/tokens", json={})
        nobody.request("PURGE", "/%00%1b[31mred")
        nobody.post("/session", json={"token": token(store, Role.VIEWER, "bob")})
        for caller in (admin, ann, nobody):
            caller.get("/quotas")
    here = "127.0.0.1"
    assert told(admin) == [
        ("test", "PUT /quotas/{user}", "/quotas/ann", 204, here),
        ("ann", "DELETE /quotas/{user}", "/quotas/ann", 403, here),
        ("", "DELETE", "/quotas/ann", 403, here),
        ("", "POST", "/tokens", 401, here),
        ("", "PURGE", "/\ufffd\ufffd[31mred", 401, here),
        ("bob", "POST /session", "/session", 201, here),
    ]
    assert [item["token"] != "" for item in admin.get("/audit").json()["items"]] == [
        True,
        *[False] * 3,
        *[True] * 2,
    ]


def test_an_agent_that_finds_no_work_is_no_news(store: Store, address: str, admin: httpx.Client) -> None:
    announced = {"board": {}, "devices": []}
    with client(address, token(store, Role.AGENT)) as agent:
        assert agent.post("/agents/board/claim", json=announced, headers=HOLDS).status_code == 204
        assert agent.post("/agents/board/claim", json={}, headers=HOLDS).status_code == 422
    assert [entry[3] for entry in told(admin)] == [422]


def test_calls_at_the_same_time_are_all_logged(admin: httpx.Client) -> None:
    def revoke(number: int) -> int:
        return admin.delete(f"/tokens/t{number}").status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(revoke, range(40))) == {404}
    assert {entry[2] for entry in told(admin)} == {f"/tokens/t{number}" for number in range(40)}


def test_the_log_is_read_page_by_page(admin: httpx.Client) -> None:
    for number in range(5):
        admin.delete(f"/tokens/t{number}")
    read, cursor = [], ""
    while cursor is not None:
        page = admin.get(f"/audit?limit=2{cursor and f'&cursor={cursor}'}").json()
        read += [item["object"] for item in page["items"]]
        cursor = page["next"]
    assert read == [f"/tokens/t{number}" for number in reversed(range(5))]


def test_what_cannot_be_logged_is_not_answered(store: Store, admin: httpx.Client) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE audit RENAME TO elsewhere")
    answer = admin.post("/tokens", json={"user": "ann", "role": "admin"})
    with store.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO audit")
    assert (answer.status_code, "token" in answer.json()) == (503, False)
