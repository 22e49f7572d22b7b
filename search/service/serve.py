"""Run the service as a process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from hwprofiles.errors import RequestError
from search.place import Place
from search.service.access import DAY_S
from search.service.app import create_app
from search.service.copying import Copying
from search.service.supervisor import Supervisor
from search.settings import Settings
from trials.quotas import Quotas
from trials.store import Store
from trials.tokens import Role, Tokens

FIRST_TOKEN_DAYS = 365
GRACE_S = 3
"""For calls that are being answered; streams of events go on elsewhere."""
OWN_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})
"""By which this machine calls itself."""
FOLDER = ".service"
"""Of a runs folder, for networks and profiles; no job can be called so."""


def serve(
    runs: Path,
    *,
    host: str,
    port: int,
    names: Sequence[str],
    new_token: bool,
    jobs: int,
    say: Callable[[str], None],
) -> None:
    """Serve the store of a runs folder until the process is ended.

    Args:
        port: 0 takes a free one.
        names: by which the service may be called, beside `host` and this machine's own.
        new_token: make an admin's token; without, only where the store has none that holds.
        jobs: how many are worked on at once.
        say: told the address, and the token where one was made: this once.

    Raises:
        RequestError: nothing can listen at host and port.
    """
    runs = runs.resolve()
    database = Settings().database or Place(runs, "").store
    with listen(host, port) as listener, Store.open(database) as store:
        shown = f"[{host}]" if ":" in host else host
        say(f"serving  http://{shown}:{listener.getsockname()[1]}")
        if new_token or not _has_admin(Tokens(store)):
            _, text = Tokens(store).make("admin", Role.ADMIN, FIRST_TOKEN_DAYS * DAY_S)
            say(f"token    {text}  (admin, {FIRST_TOKEN_DAYS} days; shown this once)")
        app = create_app(store, runs / FOLDER, {host, *OWN_NAMES, *names})
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE_S
        )
        quotas: Quotas = app.state.quotas
        supervisor = Supervisor(store, runs, app.state.logs, jobs, quotas.running_limits)
        app.state.supervisor = supervisor
        copying = Copying(store, runs, app.state.copies)
        supervisor.start()
        if app.state.settings.artifacts:
            copying.start()
        try:
            with suppress(KeyboardInterrupt):  # Ctrl-C is how a server is ended
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            if supervisor.is_busy:
                say("ending    waiting for trials that run; what is finished is kept")
            copying.stop()
            supervisor.stop()


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address.

    Raises:
        RequestError: nothing can.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise RequestError(
            f"nothing can listen at {host}:{port}: {error.strerror}; choose another --port or --host"
        ) from None
    # Connections inherit it. asyncio sets it by itself only on sockets that were made otherwise, and without
    # it the second half of an answer waits 40 ms for the caller to acknowledge the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _has_admin(tokens: Tokens) -> bool:
    return any(token.role is Role.ADMIN and token.holds() for token in tokens.all())
