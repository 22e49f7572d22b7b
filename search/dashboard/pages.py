"""The pages of the dashboard. They hold no data but jobs' states: scripts fetch that from the API.

Each needs the session of somebody who may look, and says to the browser that it may load, run and call
nothing but what this service has.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from hwprofiles.errors import PrunefrontError
from search.dashboard.form import CONTROLLERS, LIMITS
from search.service import jobs as jobs_api
from search.service.auth import COOKIE, csrf_token
from search.service.errors import status_and_sentence
from search.service.places import hidden
from search.service.which import TheJob, TheJobs
from trials.records import JobState
from trials.service_jobs import ServiceJob
from trials.tokens import Role, Token

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
LOOKERS = (Role.VIEWER, Role.SUBMITTER, Role.ADMIN)
JOBS_SHOWN = 50
"""On one page of the list."""


def _with_imports(*modules: str) -> list[str]:
    """Scripts and all that they import, so that a browser can ask for everything at once."""
    found = list(modules)
    for module in found:
        imported = re.findall(r'from "\./([\w-]+\.js)"', (STATIC / module).read_text(encoding="utf-8"))
        found += [each for each in dict.fromkeys(imported) if each not in found]
    return found


JOB_MODULES = _with_imports("job.js")

_templates = Environment(
    loader=PackageLoader("search.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

AGES = ((60, "s"), (3600, "min"), (86_400, "h"), (float("inf"), "d"))
"""Up to how many seconds something is so many of which unit old."""


def _ago(time_s: float) -> str:
    """Such as "5 min ago"."""
    age_s, least = max(0.0, time.time() - time_s), 1
    for most, unit in AGES:
        if age_s < most:
            return f"{int(age_s // least)} {unit} ago"
        least = int(most)
    raise AssertionError(age_s)


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def _sentence(text: str) -> str:
    """With a capital at its beginning and one mark at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


_templates.filters.update(ago=_ago, iso=_iso, sentence=_sentence)


class NeedsLoginError(Exception):
    """Nobody is known to call."""


class Page(APIRoute):
    """A route that answers with a page also where it cannot show what was asked for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await handle(request)
            except NeedsLoginError:
                wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                login = f"/login?next={quote(wanted, safe='')}"
                if "HX-Request" in request.headers:  # a page that was shown before asks for what is new of it
                    return Response(status_code=204, headers={**HEADERS, "HX-Redirect": f"{login}&over=1"})
                return RedirectResponse(login, 303, HEADERS)
            except (HTTPException, RequestValidationError, PrunefrontError) as error:
                status, sentence = status_and_sentence(error)
                return _render("error.html", request, status, sentence=sentence)

        return shown


router = APIRouter(route_class=Page, include_in_schema=False, default_response_class=HTMLResponse)
_static = StaticFiles(directory=STATIC)


def _looker(request: Request) -> Token:
    """Whose browser it is."""
    caller: Token | None = request.state.caller
    if caller is None:
        raise NeedsLoginError
    if caller.role not in LOOKERS:
        raise HTTPException(403, f"token {caller.id} has the role {caller.role}, which looks at nothing")
    return caller


Looker = Annotated[Token, Depends(_looker)]


@router.get("/static/{path:path}")
async def show_file(path: str, request: Request) -> Response:
    """What pages are made of: scripts, a style sheet, a picture."""
    return await _static.get_response(path, request.scope)


@router.get("/login")
def show_login(request: Request) -> Response:
    """Where a browser gives a token for a session."""
    return _render("login.html", request, is_over="over" in request.query_params)


@router.get("/")
def show_jobs(
    caller: Looker,
    request: Request,
    jobs: TheJobs,
    cursor: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[list[JobState] | None, Query()] = None,
) -> Response:
    """The jobs of the browser's user, or everybody's."""
    chosen = [str(each) for each in state or ()]
    listed = jobs_api.list_jobs(caller, jobs, JOBS_SHOWN, cursor, state)
    of_states = [("state", each) for each in chosen]
    return _render(
        "jobs.html",
        request,
        **_told(listed, caller, request),
        cursor=cursor,
        chosen=chosen,
        states=[str(each) for each in JobState],
        query=urlencode([*of_states, *([("cursor", cursor)] if cursor else [])]),
        further=urlencode([*of_states, ("cursor", listed["next"] or "")]),
    )


@router.get("/jobs/{job}")
def show_job(caller: Looker, request: Request, found: TheJob, jobs: TheJobs) -> Response:
    """One job: what it has found so far."""
    return _render("job.html", request, job=_shown(found, jobs, caller, request), modules=JOB_MODULES)


@router.get("/jobs/{job}/compare")
def compare_trials(caller: Looker, request: Request, found: TheJob, jobs: TheJobs) -> Response:
    """A few of its trials side by side."""
    return _render("compare.html", request, job=_shown(found, jobs, caller, request))


@router.get("/devices")
def show_devices(caller: Looker, request: Request) -> Response:
    """What is measured: profiles, stairs, agents."""
    return _render("devices.html", request)


@router.get("/submit")
def show_form(caller: Looker, request: Request) -> Response:
    """A form for a job."""
    if caller.role is Role.VIEWER:
        raise HTTPException(403, f"token {caller.id} has the role viewer, which looks and submits nothing")
    return _render("submit.html", request, controllers=CONTROLLERS, limits=LIMITS)


def _shown(found: ServiceJob, jobs: TheJobs, caller: Token, request: Request) -> dict[str, Any]:
    return _told(jobs_api.show_job(found, jobs), caller, request)


def _told(answer: dict[str, Any], caller: Token, request: Request) -> dict[str, Any]:
    """An answer of the API as the caller gets it."""
    if caller.role is Role.ADMIN:
        return answer
    told: dict[str, Any] = json.loads(hidden(json.dumps(answer, ensure_ascii=False), request.app.state.runs))
    return told


def _render(template: str, request: Request, status: int = 200, **values: Any) -> Response:
    caller: Token | None = request.state.caller
    session = request.cookies.get(COOKIE)
    page = _templates.get_template(template).render(
        caller=caller,
        csrf=csrf_token(session) if session else "",
        path=request.url.path,
        may_change=caller is not None and caller.role in (Role.SUBMITTER, Role.ADMIN),
        status=status,
        **values,
    )
    return HTMLResponse(page, status, HEADERS)
