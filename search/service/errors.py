"""Every error that the service answers with is problem+json (RFC 9457): a status, and our one sentence."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hwprofiles.errors import (
    ConflictError,
    NoRoomError,
    NotFoundError,
    PrunefrontError,
    RequestError,
    TransientError,
)
from hwprofiles.foreign import first_fault

_STATUS = {
    NotFoundError: 404,
    ConflictError: 409,
    RequestError: 422,
    NoRoomError: 507,
    TransientError: 503,
    PrunefrontError: 500,
}
"""By kind of error, the first that fits."""


def problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": sentence}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    @app.exception_handler(PrunefrontError)
    @app.exception_handler(RequestValidationError)
    def ours(request: Request, error: PrunefrontError | RequestValidationError) -> JSONResponse:
        return problem(*status_and_sentence(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        return problem(*status_and_sentence(error), dict(error.headers or {}))

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "prunefront's service failed at this; its own output says how")


def status_and_sentence(error: PrunefrontError | HTTPException | RequestValidationError) -> tuple[int, str]:
    """What an error is answered with."""
    match error:
        case HTTPException():
            return error.status_code, str(error.detail)
        case RequestValidationError():
            return 422, first_fault(error.errors())
        case PrunefrontError():
            return next(status for kind, status in _STATUS.items() if isinstance(error, kind)), str(error)
