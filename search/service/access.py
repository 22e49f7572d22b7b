"""The routes of access: who may call, and how much; sessions of browsers; who did what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import Field

from hwprofiles.errors import NotFoundError
from hwprofiles.wire import API, Message, Name
from search.service.auth import COOKIE, csrf_token
from search.service.given import Admin, Anybody, NameInPath, TheQuotas, TheStore
from search.service.limits import PlainJson, links
from trials.audit import Audit, StoredEntry
from trials.quotas import Quota, Quotas
from trials.tokens import SESSION_S, Role, Sessions, Token, Tokens

DAY_S = 86_400


async def _tokens(store: TheStore) -> Tokens:
    return Tokens(store)


TheTokens = Annotated[Tokens, Depends(_tokens)]

router = APIRouter(prefix=API, route_class=PlainJson)


class TokenRequest(Message):
    """A token to be made: for whom, what for, and how long it holds."""

    user: Name
    role: Role
    days: Annotated[float, Field(gt=0, le=3650)] = 90


class Login(Message):
    """The text of a token, with which a browser begins a session."""

    token: Annotated[str, Field(max_length=100)]


class Caller(Message):
    """Who calls. What a session changes, it does with `csrf` as the header X-CSRF-Token."""

    user: str
    role: Role
    expires_s: float
    quota: Quota
    csrf: str | None


class QuotaRequest(Message):
    """A quota to be set; see `Quota`."""

    queued_jobs: Annotated[int, Field(ge=0, le=10**6)]
    running_jobs: Annotated[int, Field(ge=0, le=10**4)]
    worker_minutes: Annotated[float, Field(ge=0, le=1e9)]
    stored_bytes: Annotated[int, Field(ge=0, le=10**18)]


class QuotaList(Message):
    """The quotas that an admin has set, by user, and that of everybody else."""

    default: Quota
    users: dict[str, Quota]


class AuditPage(Message):
    """Entries, newest first, and the cursor of those before them, where there are any."""

    items: list[StoredEntry]
    next: int | None


@router.post("/session", status_code=201)
def begin_session(login: Login, request: Request, response: Response, store: TheStore) -> Caller:
    """Begin a session: its cookie stands for the token, for at most twelve hours."""
    token = Tokens(store).check(login.token)
    if token is None:
        raise HTTPException(401, "this token is not known, has expired or was revoked")
    session = Sessions(store).begin(token)
    request.state.caller = token
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(SESSION_S),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return _shown(token, request, session)


@router.get("/session")
def show_caller(caller: Anybody, request: Request) -> Caller:
    """Who calls, by a session or a token, and what they may have."""
    by_header = "authorization" in request.headers
    return _shown(caller, request, None if by_header else request.cookies[COOKIE])


@router.delete("/session", status_code=204)
def end_session(caller: Anybody, request: Request, response: Response, store: TheStore) -> None:
    """End the session of this browser; its token holds on."""
    Sessions(store).end(request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE)


_MADE = {"description": "The token", **links("id", "$response.body#/id", "revoke_token")}


@router.post("/tokens", status_code=201, responses={201: _MADE})
def make_token(caller: Admin, wanted: TokenRequest, tokens: TheTokens) -> dict[str, Any]:
    """Make a token. Its text is in this answer and nowhere else."""
    token, text = tokens.make(wanted.user, wanted.role, wanted.days * DAY_S)
    return {**asdict(token), "token": text}


@router.get("/tokens")
def list_tokens(caller: Admin, tokens: TheTokens) -> list[Token]:
    return tokens.all()


@router.delete("/tokens/{id}", status_code=204)
def revoke_token(caller: Admin, id: NameInPath, tokens: TheTokens) -> None:
    if not tokens.revoke(id):
        raise NotFoundError(f"there is no token {id!r}")


@router.get("/quotas")
def list_quotas(caller: Admin, quotas: TheQuotas) -> QuotaList:
    return QuotaList(default=quotas.default, users=quotas.all())


@router.put("/quotas/{user}", status_code=204)
def set_quota(caller: Admin, user: NameInPath, wanted: QuotaRequest, quotas: TheQuotas) -> None:
    quotas.set(user, Quota(**wanted.model_dump()))


@router.delete("/quotas/{user}", status_code=204)
def reset_quota(caller: Admin, user: NameInPath, quotas: TheQuotas) -> None:
    """Give a user everybody's quota again."""
    quotas.set(user, None)


@router.get("/audit")
def read_audit(
    caller: Admin,
    store: TheStore,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditPage:
    """Every call that could have changed something: who made it, and how it ended."""
    items = Audit(store).newest(limit, cursor)
    return AuditPage(items=items, next=items[-1].number if len(items) == limit else None)


def _shown(token: Token, request: Request, session: str | None) -> Caller:
    quotas: Quotas = request.app.state.quotas
    return Caller(
        user=token.user,
        role=token.role,
        expires_s=token.expires_s,
        quota=quotas.of(token.user),
        csrf=csrf_token(session) if session else None,
    )
