"""Every error that the service answers with is problem+json (RFC 9457): a status, and our one sentence."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwprofiles.disk import is_full
from hwprofiles.errors import (
    ConflictError,
    NoRoomError,
    NotFoundError,
    PrunefrontError,
    RequestError,
    TransientError,
)
from hwprofiles.foreign import first_fault
from search.service.places import from_runs
from trials.database import StoreError

_STATUS = {
    NotFoundError: 404,
    ConflictError: 409,
    RequestError: 422,
    NoRoomError: 507,
    TransientError: 503,
    PrunefrontError: 500,
}
"""By kind of error, the first that fits."""


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Why it cannot be, in one sentence",
        "content": {
            "application/problem+json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                    },
                    "required": ["title", "status", "detail"],
                }
            }
        },
    }
}
"""How the API describes all of them."""


def problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": sentence}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    @app.exception_handler(PrunefrontError)
    @app.exception_handler(RequestValidationError)
    def ours(request: Request, error: PrunefrontError | RequestValidationError) -> JSONResponse:
        status, sentence = status_and_sentence(error)
        return problem(status, from_runs(sentence, app.state.runs))  # where that lies is ours to know

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        return problem(*status_and_sentence(error), dict(error.headers or {}))

    @app.exception_handler(OSError)
    def of_a_disk(request: Request, error: OSError) -> JSONResponse:
        if not is_full(error):
            raise error
        return problem(507, "a disk of the service has no room left; try again when there is some")

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "prunefront's service failed at this; its own output says how")


class Explained:
    """Makes problems of what fails around the routes, such as to find out who calls."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def note_and_send(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        except PrunefrontError as error:
            if answered:
                raise
            await problem(*status_and_sentence(error))(scope, receive, send)


def status_and_sentence(error: PrunefrontError | HTTPException | RequestValidationError) -> tuple[int, str]:
    """What an error is answered with."""
    match error:
        case StoreError() if is_full(error):
            return 507, "the database of the service has no room left; try again when there is some"
        case StoreError():
            return 503, "the database of the service does not answer as it should; try again later"
        case HTTPException():
            return error.status_code, str(error.detail)
        case RequestValidationError():
            return 422, first_fault(error.errors())
        case PrunefrontError():
            return next(status for kind, status in _STATUS.items() if isinstance(error, kind)), str(error)
