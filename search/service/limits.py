"""No call may be larger than what it can be for."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
