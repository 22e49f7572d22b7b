"""Who calls, and may they: a token or a session in every call, and a role for every route."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import HTTPException, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from hwprofiles.wire import API
from search.service.doors import SAFE
from search.service.errors import problem
from trials.store import Store
from trials.tokens import Role, Sessions, Token, Tokens

COOKIE = "prunefront"
CSRF = "X-CSRF-Token"
"""The header by which a call with our cookie shows that it was made by a page that may read the session."""
OPEN = frozenset({("GET", f"{API}/openapi.json"), ("POST", f"{API}/session")})
"""What of the API is for everybody."""

STATIC = "/static/"
"""What pages are made of begins so: it is for everybody, and nobody is looked up for it."""

# These describe the API; `Identified` has looked at what they would find.
_bearer = HTTPBearer(auto_error=False)
_cookie = APIKeyCookie(name=COOKIE, auto_error=False)


def needs(*roles: Role) -> Callable[..., Awaitable[Token]]:
    """A dependency that lets a call pass if its token has one of `roles`, or is an admin's."""

    async def check(
        request: Request, _: Annotated[object, Security(_bearer)], __: Annotated[object, Security(_cookie)]
    ) -> Token:
        token: Token = request.state.caller
        if token.role not in (*roles, Role.ADMIN):
            wanted = " or ".join((*roles, Role.ADMIN))
            raise HTTPException(403, f"token {token.id} has the role {token.role}; this call needs {wanted}")
        return token

    return check


def csrf_token(session: str) -> str:
    """What the header `CSRF` of a session's calls holds; the session cannot be told from it."""
    return hmac.digest(session.encode(), b"csrf", "sha256").hex()


class Identified:
    """Finds out who calls, and turns away from the API whom it does not know, before any body is read.

    A route finds the token in `request.state.caller`; outside of the API that may be None.
    """

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._tokens, self._sessions = app, Tokens(store), Sessions(store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) in OPEN:
            return await self._app(scope, receive, send)
        call = Request(scope)
        if scope["path"].startswith(STATIC):
            call.state.caller = None
            return await self._app(scope, receive, send)
        header, session = call.headers.get("authorization"), call.cookies.get(COOKIE)
        if header is not None:
            caller = await run_in_threadpool(self._tokens.check, header.removeprefix("Bearer "))
        elif session is not None:
            caller = await run_in_threadpool(self._sessions.check, session)
        else:
            caller = None
        call.state.caller = caller
        if caller is None and scope["path"].startswith(f"{API}/"):
            sentence = (
                "this call needs a token, and comes without one"
                if header is None and session is None
                else "the token of this call is not known, has expired or was revoked"
            )
            refusal = problem(401, sentence, {"WWW-Authenticate": "Bearer"})
            return await refusal(scope, receive, send)
        if caller and header is None and session and call.method not in SAFE:
            shown = call.headers.get(CSRF, "")
            if not hmac.compare_digest(shown.encode(), csrf_token(session).encode()):
                sentence = f"a call with a session changes something only with the session's {CSRF}"
                return await problem(403, sentence)(scope, receive, send)
        await self._app(scope, receive, send)
