"""Which calls are let in at all: those made to us, by nobody else's page."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from search.service.errors import problem

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Verbs that change nothing."""


class OnlyToUs:
    """Refuses calls whose Host header names another machine, such as those of a rebound DNS name.

    And those that change something and that a browser makes for a page from elsewhere: its Origin header says
    from where. So a proxy has to pass on the Host header that it was called by.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (said := self._refusal(Headers(scope=scope), scope["method"])):
            return await problem(403, said)(scope, receive, send)
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers, method: str) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.strip("[]").lower() not in self._hosts:
            return f"host {host!r} is none of {', '.join(sorted(self._hosts))}; allow it with --host-name"
        if method not in SAFE and origin is not None and origin.partition("://")[2] != host.lower():
            return f"a page from {origin!r} may change nothing at {host!r}"
        return ""
