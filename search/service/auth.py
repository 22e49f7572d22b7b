"""Who may do what: a token in every call, whose role allows it; and only calls made to a host of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from search.service.errors import problem
from trials.tokens import Role, Token, Tokens

_bearer = HTTPBearer(auto_error=False)


def needs(*roles: Role) -> Callable[..., Token]:
    """A dependency that lets a call pass if its token has one of `roles`, or is an admin's."""

    def check(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Token:
        tokens: Tokens = request.app.state.tokens
        token = tokens.check(credentials.credentials) if credentials else None
        if token is None:
            raise HTTPException(
                401,
                "the token of this call is not known, has expired or was revoked"
                if credentials
                else "this call needs a token, and comes without one",
                {"WWW-Authenticate": "Bearer"},
            )
        if token.role not in (*roles, Role.ADMIN):
            wanted = " or ".join((*roles, Role.ADMIN))
            raise HTTPException(403, f"token {token.id} is for an {token.role}; this call needs {wanted}")
        return token

    return check


class OnlyToHosts:
    """Refuses calls whose Host header names another machine, such as those of a rebound DNS name."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name.strip("[]").lower() not in self._hosts:
                said = f"host {host!r} is none of {', '.join(sorted(self._hosts))}; allow it with --host-name"
                return await problem(421, said)(scope, receive, send)
        await self._app(scope, receive, send)
