"""Each call that may change something is in the audit log before it is answered, refused ones as well."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwprofiles.errors import PrunefrontError, one_line
from hwprofiles.wire import API
from search.service.doors import SAFE
from search.service.errors import problem, status_and_sentence
from trials.audit import Audit, AuditEntry
from trials.store import Store

NOTHING_DONE = ("POST /agents/{name}/claim", 204)
"""An agent asks for work every other second; that there was none is no news."""


class Audited:
    """Writes down who called, what for, and how it ended; where that cannot be, the caller is told why."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._ledger = app, _Ledger(Audit(store))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE:
            return await self._app(scope, receive, send)
        answered = unwritten = False

        async def write_and_send(message: Message) -> None:
            nonlocal answered, unwritten
            if message["type"] == "http.response.start":
                answered = True
                try:
                    await self._write(scope, message["status"])
                except PrunefrontError as error:
                    unwritten = True
                    await problem(*status_and_sentence(error))(scope, receive, send)
            if not unwritten:
                await send(message)

        try:
            await self._app(scope, receive, write_and_send)
        except Exception:
            if not answered:
                with suppress(PrunefrontError):  # the bug is what is to be told of
                    await self._write(scope, 500)
            raise

    async def _write(self, scope: Scope, status: int) -> None:
        entry = _entry(Request(scope), status)
        if (entry.action, status) != NOTHING_DONE:
            await self._ledger.write(entry)


class _Ledger:
    """Writes entries that come at the same time in one transaction: of those a disk does few a second."""

    def __init__(self, audit: Audit) -> None:
        self._audit, self._turn = audit, asyncio.Lock()
        self._waiting: list[tuple[AuditEntry, asyncio.Future[None]]] = []

    async def write(self, entry: AuditEntry) -> None:
        """Return when the entry is on the disk."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        async with self._turn:
            if not written.done():  # by whoever had the turn before
                batch, self._waiting = self._waiting, []
                try:
                    await run_in_threadpool(self._audit.add, [entry for entry, _ in batch])
                except Exception as error:
                    for _, each in batch:
                        each.set_exception(error)
                else:
                    for _, each in batch:
                        each.set_result(None)
        await written


def _entry(call: Request, status: int) -> AuditEntry:
    caller, route = getattr(call.state, "caller", None), call.scope.get("route")
    kind = route.path.removeprefix(API) if route else ""
    return AuditEntry(
        time_s=time.time(),
        token=caller.id if caller else "",
        user=caller.user if caller else "",
        action=f"{call.method} {kind}".strip(),
        object=one_line(call.scope["path"].removeprefix(API))[:300],
        status=status,
        address=call.client.host if call.client else "",
    )
