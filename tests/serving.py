"""A service for tests, really served, and what calls it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from hwprofiles.wire import API
from search.service import create_app
from search.service.asked import Located
from search.service.serve import listen
from search.service.supervisor import Supervisor
from trials.store import Store
from trials.tokens import Role, Tokens


@contextmanager
def served(
    store: Store, folder: Path, located: Located | None = None, supervisor: Supervisor | None = None
) -> Iterator[str]:
    """A server of the store, on a thread of its own; one that has ended when the context does.

    Args:
        located: where what jobs name is found, in place of what was sent.
        supervisor: who works on jobs, where somebody does.
    """
    app = create_app(store, folder, ["127.0.0.1"])
    app.state.supervisor = supervisor
    if located:
        app.state.brought.located = lambda user, reference: located(reference)
        app.state.brought.holding = lambda user, references: lambda connection: None
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def token(store: Store, role: Role, user: str = "test") -> str:
    return Tokens(store).make(user, role, lifetime_s=600)[1]


def client(address: str, token: str = "") -> httpx.Client:
    """Calls the API, with a token unless that is empty."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return httpx.Client(base_url=f"{address}{API}", headers=headers, timeout=30)
