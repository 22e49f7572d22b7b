"""What a call may bring: no more than what it can be for, and JSON that says one thing only."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwprofiles.foreign import parse_json
from hwprofiles.wire import API

MAX_JSON_BYTES = 2**20
MAX_MEASURED_BYTES = 256 * 2**20
"""Of what is measured: times of thousands of kernels."""
MEASURED = (f"{API}/measurements", f"{API}/agents")
SESSION, MAX_SESSION_BYTES = f"{API}/session", 4096
"""Everybody may send that."""
FILE = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}
"""How a route describes that it takes bytes."""
BYTES: dict[int | str, dict[str, Any]] = {200: {"description": "The file", "content": {"*/*": {}}}}
"""How one describes that it gives a file."""


def links(parameter: str, found: str, *operations: str) -> dict[str, Any]:
    """How a route describes what can be called next with something of its answer.

    Args:
        parameter: of the path of those operations.
        found: where it is, as an OpenAPI runtime expression.
    """
    return {"links": {name: {"operationId": name, "parameters": {parameter: found}} for name in operations}}


class AtMost:
    """Ends a call with 413 as soon as more of it has arrived than a file, or JSON, can be."""

    def __init__(self, app: ASGIApp, files: Mapping[str, int]) -> None:
        """Args:
        files: how many bytes a file can have that is sent to a path that begins so.
        """
        self._app, self._files = app, files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        sizes = {**self._files, **dict.fromkeys(MEASURED, MAX_MEASURED_BYTES), SESSION: MAX_SESSION_BYTES}
        left = next((n for start, n in sizes.items() if path.startswith(start)), MAX_JSON_BYTES)

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
