"""The routes of jobs: submit them, list them, steer them, forget them."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from hwprofiles.errors import ConflictError, RequestError, TransientError
from hwprofiles.wire import API, Message
from search.job.table import NAME
from search.place import Place
from search.removal import remove_held
from search.service.asked import read_asked, shown_asked
from search.service.given import Submitter, TheQuotas, TheStore, Viewer
from search.service.limits import links
from search.service.shown import job_shown
from search.service.told import Told
from search.service.which import (
    JobName,
    TheCopies,
    TheJob,
    TheJobs,
    TheJobToChange,
    TheRuns,
    finished_trials,
    log_of,
    whose,
)
from search.status import jobs_of
from trials.quotas import Quotas
from trials.records import JobState
from trials.steering import Verb
from trials.usage import Admit, Usage

router = APIRouter(prefix=f"{API}/jobs", route_class=Told, tags=["jobs"])

Key = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=128, pattern=r"^[!-~]+$")
]


_CURSOR = re.compile(rf"([0-9]+\.[0-9]+):({NAME})")
"""When the last job of a page was submitted, and what it is called."""
_NEXT = (
    "show_job", "asked_for", "steer", "export", "remove_job", "list_trials", "show_trial", "front", "widths",
    "groups", "log", "events", "list_artifacts", "get_artifact", "known_devices", "shares", "get_archive",
)  # fmt: skip
_SUBMITTED = {"description": "The job", **links("job", "$response.body#/name", *_NEXT)}
_LISTED = links("job", "$response.body#/jobs/0/name", *_NEXT)


@router.post("", status_code=201, responses={200: _SUBMITTED, 201: _SUBMITTED})
def submit(
    caller: Submitter,
    tables: Annotated[dict[str, Any], Body(description="a job file as JSON; see docs/service.md")],
    request: Request,
    jobs: TheJobs,
    key: Key = None,
) -> JSONResponse:
    """Queue a job. Sent again with the same Idempotency-Key, it is the same job."""
    state, brought = request.app.state, request.app.state.brought
    references: set[str] = set()

    def located(reference: str) -> Path:
        references.add(reference)
        found: Path = brought.located(caller.user, reference)
        return found

    asked = read_asked(tables, state.runs, located)
    fingerprint = hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
    admit, hold = _admit(state.quotas, caller.user), brought.holding(caller.user, references)
    found, new = jobs.submit(caller.user, asked.name, asked.to_json(), fingerprint, key, admit, hold)
    headers = {"Location": f"{API}/jobs/{found.record.name}"}
    return JSONResponse(job_shown(found, 0), 201 if new else 200, headers)


def _admit(quotas: Quotas, user: str) -> Admit:
    """Refuses one more job in the queue of a user who may have no more."""
    quota = quotas.of(user)

    def admit(usage: Usage) -> None:
        quota.check(user, queued_jobs=usage.queued, worked_s=usage.worked_s)

    return admit


@router.get("", responses={200: {"description": "A page of jobs", **_LISTED}})
def list_jobs(
    caller: Viewer,
    jobs: TheJobs,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[list[JobState] | None, Query()] = None,
) -> dict[str, Any]:
    """The caller's jobs, the newest first; `next` is the cursor of the page behind this one."""
    found = jobs.page(whose(caller), limit=limit, after=_after(cursor), states=state or ())
    shown = [
        job_shown(job, finished_trials(jobs, job) if jobs_of(job.record) else finished)
        for job, finished in found
    ]
    last = found[-1][0].record if len(found) == limit else None
    return {"jobs": shown, "next": f"{last.created_s!r}:{last.name}" if last else None}


def _after(cursor: str) -> tuple[float, str] | None:
    if not cursor:
        return None
    if found := _CURSOR.fullmatch(cursor):
        return float(found[1]), found[2]
    raise RequestError(f"the cursor {cursor!r} is none; take `next` of the page before")


@router.get("/{job}")
def show_job(found: TheJob, jobs: TheJobs) -> dict[str, Any]:
    """Where a job stands."""
    return job_shown(found, finished_trials(jobs, found))


@router.get("/{job}/asked")
def asked_for(found: TheJob, request: Request) -> dict[str, Any]:
    """What was asked for, with all that it left out."""
    return shown_asked(found.record.spec, request.app.state.brought.named)


class ExportRequest(Message):
    """Which trial."""

    trial: Annotated[int, Field(ge=0, le=10**9)]


@router.post("/{job}/exports", status_code=202)
def export(
    caller: Submitter, before: TheJobToChange, job: JobName, wanted: ExportRequest, jobs: TheJobs
) -> dict[str, Any]:
    """Ask for a trial as a folder to deploy: an event tells when it is among the artifacts."""
    if models := jobs_of(before.record):
        raise ConflictError(
            f"{job!r} is a set of models and has no trials; fetch what was exported of its jobs: "
            f"{', '.join(models)}"
        )
    found = jobs.want_export(job, wanted.trial, whose(caller))
    return {"exports": list(found.exports), "artifacts": f"exports/trial-{wanted.trial}"}


@router.post("/{job}/{verb}")
def steer(
    caller: Submitter,
    before: TheJobToChange,
    job: JobName,
    verb: Verb,
    jobs: TheJobs,
    store: TheStore,
    quotas: TheQuotas,
) -> dict[str, Any]:
    """Pause, resume, stop, cancel or retry; 409 where that does not fit the state of the job."""
    found = jobs.steer(job, verb, whose(caller), _admit(quotas, before.owner))
    store.add_event(job, verb, f"asked by {caller.user}")
    return job_shown(found, finished_trials(jobs, found))


@router.delete("/{job}", status_code=204)
def remove_job(
    caller: Submitter,
    before: TheJobToChange,
    job: JobName,
    jobs: TheJobs,
    runs: TheRuns,
    copies: TheCopies,
    request: Request,
) -> None:
    """Forget a job with all that it has found; it must not be worked on."""
    place, models = Place(runs, job), jobs_of(before.record)
    with ExitStack() as held:
        try:
            held.enter_context(place.lock())
        except TransientError:
            raise ConflictError(
                f"job {job!r} is worked on; cancel it first, or wait until it is done and copied"
            ) from None
        if copies:
            jobs.set_uncopied(job, True)  # a job that stays, whatever goes wrong from here on, has none
        for name in (job, *models):  # first, for it may fail
            copies.forget(name)
        removing = jobs.removing(job, *models, owner=whose(caller))
        remove_held(place, models, removing, log_of(request, job))
