"""Who is let in: by whom every route may be called, from where, and how a browser calls it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from hwprofiles.wire import API
from search import devices
from search.service import create_app
from tests.serving import client, served, token
from trials.store import Store
from trials.tokens import Role, Tokens

Call = tuple[str, str]
"""A verb, and a path as the service describes it."""

OPEN = {
    ("GET", f"{API}/openapi.json"),
    ("POST", f"{API}/session"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/login"),
    ("GET", "/static/{path:path}"),
}
PAGES = {
    ("GET", "/"),
    ("GET", "/jobs/{job}"),
    ("GET", "/jobs/{job}/compare"),
    ("GET", "/devices"),
    ("GET", "/submit"),
}
ALL = set(Role)
VIEWERS = {Role.VIEWER, Role.SUBMITTER, Role.ADMIN}
SUBMITTERS = {Role.SUBMITTER, Role.ADMIN}
AGENTS = {Role.AGENT, Role.ADMIN}
ADMINS = {Role.ADMIN}
MAY = {
    ("GET", "/session"): ALL,
    ("DELETE", "/session"): ALL,
    ("POST", "/tokens"): ADMINS,
    ("GET", "/tokens"): ADMINS,
    ("DELETE", "/tokens/{id}"): ADMINS,
    ("GET", "/quotas"): ADMINS,
    ("PUT", "/quotas/{user}"): ADMINS,
    ("DELETE", "/quotas/{user}"): ADMINS,
    ("GET", "/audit"): ADMINS,
    ("POST", "/jobs"): SUBMITTERS,
    ("GET", "/jobs"): VIEWERS,
    ("POST", "/jobs/{job}/{verb}"): SUBMITTERS,
    ("POST", "/jobs/{job}/exports"): SUBMITTERS,
    ("DELETE", "/jobs/{job}"): SUBMITTERS,
    ("GET", "/jobs/{job}"): VIEWERS,
    ("GET", "/jobs/{job}/asked"): VIEWERS,
    ("GET", "/jobs/{job}/trials"): VIEWERS,
    ("GET", "/jobs/{job}/trials/{number}"): VIEWERS,
    ("GET", "/jobs/{job}/front"): VIEWERS,
    ("GET", "/jobs/{job}/devices"): VIEWERS,
    ("GET", "/jobs/{job}/shares"): VIEWERS,
    ("GET", "/jobs/{job}/archives/{folder:path}"): VIEWERS,
    ("GET", "/jobs/{job}/widths"): VIEWERS,
    ("GET", "/jobs/{job}/groups"): VIEWERS,
    ("GET", "/jobs/{job}/log"): VIEWERS,
    ("GET", "/jobs/{job}/events"): VIEWERS,
    ("GET", "/jobs/{job}/artifacts"): VIEWERS,
    ("GET", "/jobs/{job}/artifacts/{path:path}"): VIEWERS,
    ("GET", "/uploads/{sha256}"): SUBMITTERS,
    ("PUT", "/uploads/{sha256}"): SUBMITTERS,
    ("DELETE", "/uploads/{sha256}"): SUBMITTERS,
    ("PUT", "/bundles/{sha256}"): SUBMITTERS,
    ("PUT", "/data/{sha256}"): SUBMITTERS,
    ("GET", "/inputs"): VIEWERS,
    ("GET", "/inputs/{sha256}"): VIEWERS,
    ("DELETE", "/inputs/{sha256}"): SUBMITTERS,
    ("GET", "/sources"): VIEWERS,
    ("PUT", "/sources/{name}"): ADMINS,
    ("DELETE", "/sources/{name}"): ADMINS,
    ("PUT", "/files/{sha256}"): SUBMITTERS,
    ("GET", "/files/{sha256}"): SUBMITTERS | AGENTS,
    ("HEAD", "/files/{sha256}"): SUBMITTERS | AGENTS,
    ("POST", "/measurements"): SUBMITTERS,
    ("GET", "/measurements"): VIEWERS,
    ("GET", "/measurements/{id}"): VIEWERS,
    ("GET", "/measurements/{id}/profile"): VIEWERS,
    ("GET", "/agents"): VIEWERS,
    ("GET", "/devices"): VIEWERS,
    ("GET", "/devices/{name}/stairs"): VIEWERS,
    ("POST", "/agents/{name}/claim"): AGENTS,
    ("POST", "/measurements/{id}/lease"): AGENTS,
    ("PUT", "/measurements/{id}/passes/{number}"): AGENTS,
    ("POST", "/measurements/{id}/failure"): AGENTS,
}
UNSAFE = [call for call in MAY if call[0] not in ("GET", "HEAD")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("access") / "prunefront.db") as store:
        yield store


@pytest.fixture(scope="module")
def address(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch, served(store, folder) as address:
        patch.setattr(devices, "SHIPPED", folder / "nothing-shipped")  # validating one takes seconds
        yield address


@pytest.fixture
def browser(store: Store, address: str) -> Iterator[httpx.Client]:
    """One with a session of an admin, that sends what a page of ours does."""
    with client(address) as browser:
        begun = browser.post("/session", json={"token": token(store, Role.ADMIN)}).json()
        browser.headers["X-CSRF-Token"] = begun["csrf"]
        yield browser


def make(caller: httpx.Client, call: Call, **headers: str) -> httpx.Response:
    verb, path = call
    filled = path.replace("{sha256}", "0" * 64).replace("{", "").replace("}", "")
    return caller.request(verb, filled, headers=headers)


def refused(answer: httpx.Response, status: int) -> bool:
    """With that status, and as a problem in one sentence."""
    if answer.request.method == "HEAD":
        return answer.status_code == status
    return answer.headers["content-type"] == "application/problem+json" and (
        answer.status_code == answer.json()["status"] == status and len(answer.json()["detail"]) > 20
    )


def test_every_route_is_known_here(store: Store, address: str, tmp_path: Any) -> None:
    app = create_app(store, tmp_path, [])
    found = {
        (verb, route.path)
        for route in (context.original_route for context in iter_route_contexts(app.routes))
        for verb in (route.methods or ())
        if isinstance(route, APIRoute) or verb == "GET"
    }
    assert found == {(verb, f"{API}{path}") for verb, path in MAY} | OPEN | PAGES


def test_nobody_is_let_in_without_a_token_that_is_good_now(store: Store, address: str) -> None:
    tokens = Tokens(store)
    gone, text = tokens.make("test", Role.ADMIN, lifetime_s=60)
    tokens.revoke(gone.id)
    good = token(store, Role.ADMIN)
    bad = {
        "none": "",
        "wrong": "wrong",
        "altered": good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "an id alone": good.partition(".")[0],
        "expired": tokens.make("test", Role.ADMIN, lifetime_s=-1)[1],
        "revoked": text,
    }
    let_in = []
    for kind, text in bad.items():
        with client(address, text) as caller:
            let_in += [(kind, call) for call in MAY if not refused(make(caller, call), 401)]
            caller.cookies["prunefront"] = text
            caller.headers.pop("authorization", None)
            let_in += [
                (f"{kind}, as a session", call) for call in MAY if not refused(make(caller, call), 401)
            ]
    assert let_in == []


def test_each_role_may_call_its_own_routes_and_no_other(store: Store, address: str) -> None:
    wrong = []
    for role in Role:
        with client(address, token(store, role)) as caller:
            for call, roles in MAY.items():
                answer = make(caller, call)
                if refused(answer, 403) != (role not in roles) or answer.status_code in (401, 500):
                    wrong.append((role, call, answer.status_code))
    assert wrong == []


def test_pages_are_for_who_may_look_and_send_others_to_log_in(store: Store, address: str) -> None:
    paths = [path.replace("{", "").replace("}", "") for _, path in PAGES]
    with httpx.Client(base_url=address) as browser:
        for path in paths:
            answer = browser.get(path, params={"a": "b&c"})
            assert answer.status_code == 303
            assert answer.headers["location"] == f"/login?next={quote(f'{path}?a=b%26c', safe='')}"
        assert browser.get("/login").status_code == 200
        browser.headers["Authorization"] = f"Bearer {token(store, Role.AGENT)}"
        assert {browser.get(path).status_code for path in paths} == {403}
        browser.headers["Authorization"] = f"Bearer {token(store, Role.VIEWER)}"
        assert {browser.get(path).status_code for path in paths} == {200, 403, 404}
        assert "looks and submits nothing" in browser.get("/submit").text


def test_a_page_loads_and_runs_only_what_is_here(store: Store, address: str) -> None:
    with httpx.Client(base_url=address) as browser:
        page = browser.get("/login")
        policy = page.headers["content-security-policy"].split("; ")
        assert {
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
        } <= set(policy)
        assert "unsafe" not in page.headers["content-security-policy"]
        asked = re.findall(r'(?:src|href)="([^"#]*)"', page.text)
        assert asked
        assert all(browser.get(each).status_code in (200, 303) for each in asked)
        assert browser.get("/static/../pages.py").status_code == 404
        assert browser.get("/static/%2e%2e/pages.py").status_code == 404


def test_a_call_to_another_host_is_refused(store: Store, address: str) -> None:
    with client(address, token(store, Role.ADMIN)) as caller:
        for host, call in product(["evil.example", "127.0.0.1.evil.example:80", ""], [*MAY, *OPEN]):
            assert refused(make(caller, call, host=host), 403), (host, call)
        said = make(caller, ("GET", "/tokens"), host="evil.example").json()["detail"]
    assert "'evil.example' is none of 127.0.0.1" in said


def test_a_page_from_elsewhere_can_change_nothing(store: Store, address: str, browser: httpx.Client) -> None:
    with client(address, token(store, Role.ADMIN)) as caller:
        for origin in ("https://evil.example", "http://127.0.0.1:9", "null", f"{address}.evil.example"):
            for call in [*UNSAFE, ("POST", "/session")]:
                for each in (caller, browser):
                    assert refused(make(each, call, origin=origin), 403), (origin, call)
        assert make(caller, ("GET", "/tokens"), origin="https://evil.example").status_code == 200
        assert make(caller, ("DELETE", "/quotas/me"), origin=address).status_code == 204


def test_a_session_changes_something_only_with_its_csrf_token(store: Store, address: str) -> None:
    with client(address) as browser, client(address) as other:
        begun, its = (
            each.post("/session", json={"token": token(store, Role.ADMIN)}).json()["csrf"]
            for each in (browser, other)
        )
        for call, csrf in product(UNSAFE, [None, "", "é", its, begun[:-1], begun.upper()]):
            headers = {} if csrf is None else {"X-CSRF-Token": csrf.encode()}
            verb, path = call
            answer = browser.request(verb, path.replace("{", "").replace("}", ""), headers=headers)
            assert refused(answer, 403), (call, csrf)
        assert browser.get("/tokens").status_code == 200
        assert browser.delete("/quotas/me", headers={"X-CSRF-Token": begun}).status_code == 204
        assert browser.get("/session").json()["csrf"] == begun


def test_a_session_stands_for_its_token_until_it_is_ended(store: Store, address: str) -> None:
    with client(address) as browser:
        answer = browser.post("/session", json={"token": token(store, Role.VIEWER, "ann")})
        assert (answer.json()["user"], answer.json()["role"]) == ("ann", "viewer")
        attributes = answer.headers["set-cookie"].lower().split("; ")
        assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= set(attributes)
        assert "secure" not in attributes
        assert (browser.get("/agents").status_code, browser.get("/tokens").status_code) == (200, 403)
        kept = browser.cookies["prunefront"]
        csrf = {"X-CSRF-Token": answer.json()["csrf"]}
        assert browser.delete("/session", headers=csrf).status_code == 204
        assert not browser.cookies
        browser.cookies["prunefront"] = kept
        assert refused(browser.get("/agents"), 401)


def test_a_session_by_https_never_travels_without(store: Store, address: str) -> None:
    with client(address) as browser:
        login = {"token": token(store, Role.VIEWER)}
        answer = browser.post("/session", json=login, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in answer.headers["set-cookie"].lower().split("; ")


def test_a_session_needs_a_good_token(address: str) -> None:
    with client(address) as browser:
        assert refused(browser.post("/session", json={"token": "wrong"}), 401)
        assert not browser.cookies


def test_an_admin_makes_lists_and_revokes_tokens(store: Store, address: str) -> None:
    with client(address, token(store, Role.ADMIN)) as admin:
        assert admin.post("/tokens", json={"user": "<b>ann</b>", "role": "agent"}).status_code == 422
        made = admin.post("/tokens", json={"user": "ann", "role": "submitter"}).json()
        assert made["id"] in [each["id"] for each in admin.get("/tokens").json()]
        assert made["token"] not in admin.get("/tokens").text
        with client(address, made["token"]) as ann:
            assert ann.get("/measurements").status_code == 200
            assert admin.delete(f"/tokens/{made['id']}").status_code == 204
            assert refused(ann.get("/measurements"), 401)
        assert refused(admin.delete("/tokens/none"), 404)


def test_the_store_keeps_hashes_of_tokens_and_sessions_and_neither_itself(store: Store, address: str) -> None:
    text = token(store, Role.AGENT)
    with client(address) as browser:
        browser.post("/session", json={"token": text})
        session = browser.cookies["prunefront"]
    secret = text.partition(".")[2]
    assert min(len(secret), len(session)) * 6 >= 256
    with store.reading() as connection:
        rows = [
            *connection.exec_driver_sql("SELECT * FROM tokens"),
            *connection.exec_driver_sql("SELECT * FROM sessions"),
        ]
    kept = [str(value) for row in rows for value in row]
    for each in (secret, session):
        assert hashlib.sha256(each.encode()).hexdigest() in kept
        assert not [value for value in kept if each in value]


def test_an_admin_sets_a_users_quota_and_the_user_sees_it(store: Store, address: str) -> None:
    quota = {"queued_jobs": 3, "running_jobs": 1, "worker_minutes": 60.0, "stored_bytes": 2**40}
    with (
        client(address, token(store, Role.ADMIN)) as admin,
        client(address, token(store, Role.SUBMITTER, "bob")) as bob,
    ):
        usual = bob.get("/session").json()["quota"]
        assert admin.put("/quotas/bob", json=quota | {"queued_jobs": -1}).status_code == 422
        assert admin.put("/quotas/bob", json=quota).status_code == 204
        assert bob.get("/session").json()["quota"] == quota
        assert admin.get("/quotas").json() == {"default": usual, "users": {"bob": quota}}
        assert admin.delete("/quotas/bob").status_code == 204
        assert bob.get("/session").json()["quota"] == usual
