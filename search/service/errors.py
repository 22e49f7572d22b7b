"""Every error that the service answers with is problem+json (RFC 9457): a status, and our one sentence."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hwprofiles.errors import PrunefrontError, RequestError, TransientError
from hwprofiles.foreign import first_fault
from trials.measurements import NotHeldError


def problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": sentence}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    @app.exception_handler(PrunefrontError)
    def ours(request: Request, error: PrunefrontError) -> JSONResponse:
        return problem(_status(error), str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, first_fault(error.errors()))

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "prunefront's service failed at this; its own output says how")


def _status(error: PrunefrontError) -> int:
    if isinstance(error, NotHeldError):
        return 409
    if isinstance(error, RequestError):
        return 422
    return 503 if isinstance(error, TransientError) else 500
