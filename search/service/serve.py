"""Run the service as a process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from hwprofiles.errors import RequestError
from search.place import Place
from search.service.app import DAY_S, create_app
from trials.store import Store
from trials.tokens import Role, Tokens

FIRST_TOKEN_DAYS = 365
FOLDER = ".service"
"""Of a runs folder, for networks and profiles; no job can be called so."""


def serve(
    runs: Path,
    *,
    host: str,
    port: int,
    names: Sequence[str],
    new_token: bool,
    say: Callable[[str], None],
) -> None:
    """Serve the store of a runs folder until the process is ended.

    Args:
        port: 0 takes a free one.
        names: by which the service may be called, beside `host` and this machine's own.
        new_token: make an admin's token; without, only where the store has none that holds.
        say: told the address, and the token where one was made: this once.

    Raises:
        RequestError: nothing can listen at host and port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise RequestError(
            f"nothing can listen at {host}:{port}: {error.strerror}; choose another --port or --host"
        ) from None
    with listener, Store.open(Place(runs, "").store) as store:
        shown = f"[{host}]" if ":" in host else host
        say(f"serving  http://{shown}:{listener.getsockname()[1]}")
        if new_token or not _has_admin(Tokens(store)):
            _, text = Tokens(store).make("first", Role.ADMIN, FIRST_TOKEN_DAYS * DAY_S)
            say(f"token    {text}  (admin, {FIRST_TOKEN_DAYS} days; shown this once)")
        app = create_app(store, runs / FOLDER, {host, "127.0.0.1", "::1", "localhost", *names})
        config = uvicorn.Config(app, log_level="warning", server_header=False)
        with suppress(KeyboardInterrupt):  # Ctrl-C is how a server is ended
            uvicorn.Server(config).run(sockets=[listener])


def _has_admin(tokens: Tokens) -> bool:
    return any(token.role is Role.ADMIN and token.holds() for token in tokens.all())
