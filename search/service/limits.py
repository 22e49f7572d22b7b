"""What a call may bring: no more than what it can be for, and JSON that says one thing only."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwprofiles.foreign import parse_json
from hwprofiles.wire import API, MAX_FILE_BYTES

MAX_JSON_BYTES = 256 * 2**20


class AtMost:
    """Ends a call with 413 as soon as more of it has arrived than a file, or JSON, can be."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_file = scope["type"] == "http" and scope["path"].startswith(f"{API}/files/")
        left = MAX_FILE_BYTES if is_file else MAX_JSON_BYTES

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, "this is larger than anything that can be sent here")
            return message

        await self._app(scope, counted, send)


class PlainJson(APIRoute):
    """A route that reads JSON as `parse_json` does, so that no handler meets a text that cannot be stored."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_plain(request: Request) -> Response:
            return await handle(_PlainRequest(request.scope, request.receive))

        return handle_plain


class _PlainRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_json(await self.body())
        except ValueError as error:
            raise HTTPException(422, f"body: it is no JSON that can be taken: {error}") from None
