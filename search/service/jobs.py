"""The routes of jobs: submit them, steer them, and look at what they have found."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from hwprofiles.errors import ConflictError, NotFoundError, RequestError, TransientError
from hwprofiles.wire import API, Message
from search.board import Board, Boards
from search.job.table import NAME
from search.place import Place
from search.removal import remove_held
from search.service.archive import zipped
from search.service.asked import read_asked, shown_asked
from search.service.copies import Copies, artifacts
from search.service.given import Submitter, TheQuotas, TheStore, Viewer
from search.service.limits import BYTES, PlainJson, links
from search.service.shown import job_shown
from search.sets.board import show_set
from search.status import jobs_of, trial_rows
from trials.quotas import Quotas
from trials.service_jobs import Admit, ServiceJob, ServiceJobs, Usage
from trials.steering import Verb
from trials.store import Event, JobRecord, JobState, Store
from trials.tokens import Role, Token, Tokens

POLL_S = 0.5
"""How often a stream of events looks for new ones."""
MOST_EVENTS = 500
"""Told at a time."""
LOG_BYTES = 256 * 2**10
OVER = (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED)
"""States in which nothing more happens until somebody asks for it."""

router = APIRouter(prefix=f"{API}/jobs", route_class=PlainJson, tags=["jobs"])

Number = Annotated[int, InPath(ge=0, le=10**9)]
JobName = Annotated[str, InPath(pattern=NAME)]
Key = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=128, pattern=r"^[!-~]+$")
]


async def _jobs(store: TheStore) -> ServiceJobs:
    return ServiceJobs(store)


async def _runs(request: Request) -> Path:
    runs: Path = request.app.state.runs
    return runs


async def _copies(request: Request) -> Copies:
    copies: Copies = request.app.state.copies
    return copies


TheJobs = Annotated[ServiceJobs, Depends(_jobs)]
TheRuns = Annotated[Path, Depends(_runs)]
TheCopies = Annotated[Copies, Depends(_copies)]


def _whose(caller: Token) -> str | None:
    """Whose jobs the caller may know of: None are everybody's."""
    return None if caller.role is Role.ADMIN else caller.user


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
    state = request.app.state
    asked = read_asked(tables, state.runs, partial(state.located, caller.user))
    fingerprint = hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
    admit = _admit(state.quotas, caller.user)
    found, new = jobs.submit(caller.user, asked.name, asked.to_json(), fingerprint, key, admit)
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
    found = jobs.page(_whose(caller), limit=limit, after=_after(cursor), states=state or ())
    shown = [
        job_shown(job, _finished(jobs, job) if jobs_of(job.record) else finished) for job, finished in found
    ]
    last = found[-1][0].record if len(found) == limit else None
    return {"jobs": shown, "next": f"{last.created_s!r}:{last.name}" if last else None}


def _after(cursor: str) -> tuple[float, str] | None:
    try:
        created_s, _, name = cursor.partition(":")
        return (float(created_s), name) if cursor else None
    except ValueError:
        raise RequestError(f"the cursor {cursor!r} is none; take `next` of the page before") from None


def _job(caller: Viewer, job: JobName, jobs: TheJobs, store: TheStore) -> ServiceJob:
    """A job of the caller's; those of others are not there.

    The jobs of a set's models are shown with the set's rights.
    """
    return _found(jobs, store, job, _whose(caller))


def _found(jobs: ServiceJobs, store: Store, job: str, whose: str | None) -> ServiceJob:
    try:
        return jobs.get(job, whose)
    except NotFoundError:
        of_set, _, _ = job.rpartition(".")
        if not of_set or job not in jobs_of((found := jobs.get(of_set, whose)).record):
            raise
        if jobs.is_one(job):  # of somebody, and not of this set
            raise
        try:
            return replace(found, record=store.job(job))
        except NotFoundError:
            raise NotFoundError(f"job {job!r} of the set {of_set!r} has not begun yet") from None


TheJob = Annotated[ServiceJob, Depends(_job)]


def _job_to_change(caller: Submitter, job: JobName, jobs: TheJobs, store: TheStore) -> ServiceJob:
    """A job of the caller's that is changed by itself: none of a set's."""
    found = _found(jobs, store, job, _whose(caller))
    if not jobs.is_one(job):
        of_set, _, model = job.rpartition(".")
        raise ConflictError(
            f"job {job!r} is that of {model!r} in the set {of_set!r}, which is steered and removed as a "
            f"whole; ask it of {of_set!r}"
        )
    return found


TheJobToChange = Annotated[ServiceJob, Depends(_job_to_change)]


def _boards(request: Request) -> Boards:
    boards: Boards = request.app.state.boards
    return boards


TheBoards = Annotated[Boards, Depends(_boards)]


def _board(boards: TheBoards, job: TheJob) -> Board:
    if models := jobs_of(job.record):
        raise NotFoundError(
            f"job {job.record.name!r} is a set of models; look at its shares, or at {', '.join(models)}"
        )
    return boards.of(job.record)


TheBoard = Annotated[Board, Depends(_board)]
Device = Annotated[str, Query(pattern=f"^$|{NAME}", description="the job's first, or any with a profile")]


def _finished(jobs: ServiceJobs, job: ServiceJob) -> int:
    """How many trials have ended, those of a set's models together."""
    return sum(jobs.finished(jobs_of(job.record) or [job.record.name]).values())


@router.get("/{job}")
def show_job(found: TheJob, jobs: TheJobs) -> dict[str, Any]:
    """Where a job stands."""
    return job_shown(found, _finished(jobs, found))


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
    found = jobs.want_export(job, wanted.trial, _whose(caller))
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
    found = jobs.steer(job, verb, _whose(caller), _admit(quotas, before.owner))
    store.add_event(job, verb, f"asked by {caller.user}")
    return job_shown(found, _finished(jobs, found))


@router.delete("/{job}", status_code=204)
def remove_job(
    caller: Submitter,
    before: TheJobToChange,
    job: JobName,
    jobs: TheJobs,
    store: TheStore,
    runs: TheRuns,
    copies: TheCopies,
    request: Request,
) -> None:
    """Forget a job with all that it has found; it must not be worked on."""
    place = Place(runs, job)
    with ExitStack() as held:
        try:
            held.enter_context(place.lock())
        except TransientError:
            raise ConflictError(f"job {job!r} is worked on; cancel it first, and wait for its end") from None
        jobs.forget(job, _whose(caller))
        remove_held(place, store)
    _log_of(request, job).unlink(missing_ok=True)
    for name in (job, *jobs_of(before.record)):
        copies.forget(name)


@router.get("/{job}/trials")
def list_trials(
    found: TheJob,
    store: TheStore,
    after: Annotated[int, Query(ge=-1, description="the number of the last one that is known")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    rows = [row for row in trial_rows(store, found.record.name) if row["trial"] > after]
    return {"trials": rows[:limit], "next": rows[limit - 1]["trial"] if len(rows) > limit else None}


@router.get("/{job}/trials/{number}")
def show_trial(board: TheBoard, store: TheStore, number: Number, device: Device = "") -> dict[str, Any]:
    """All that is known of a trial, with what each layer is predicted to take."""
    return board.trial(store, number, device)


@router.get("/{job}/front")
def front(board: TheBoard, store: TheStore, device: Device = "") -> dict[str, Any]:
    """All trials in columns, those on the front among them, on any device that has a profile."""
    return board.front(store, device)


@router.get("/{job}/devices")
def known_devices(board: TheBoard) -> list[str]:
    """The devices that a front can be drawn for: the job's own, and those whose profile knows its model."""
    return board.known_devices()


@router.get("/{job}/shares")
def shares(found: TheJob, store: TheStore, boards: TheBoards) -> dict[str, Any]:
    """Of a set of models: who is pruned how much at which total budget, and what that comes to."""
    return show_set(found.record, store, boards)


@router.get("/{job}/widths")
def widths(board: TheBoard, store: TheStore) -> dict[str, Any]:
    """What each trial keeps of each group."""
    return board.widths(store)


@router.get("/{job}/groups")
def groups(board: TheBoard, device: Device = "") -> list[dict[str, Any]]:
    """Each group: size, shares of MACs and latency, and what it alone costs the model."""
    return board.groups(device)


def _log_of(request: Request, job: str) -> Path:
    logs: Path = request.app.state.logs
    return logs / f"{job}.log"


@router.get("/{job}/log", response_class=PlainTextResponse)
def log(
    found: TheJob,
    request: Request,
    after: Annotated[int | None, Query(ge=0, description="how many bytes are known; else the end")] = None,
) -> Response:
    """What the job's processes have printed, a part at a time; X-Log-End is `after` of the next one."""
    begin, content = 0, b""
    with suppress(FileNotFoundError), _log_of(request, found.record.name).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        begin = file.seek(max(0, size - LOG_BYTES) if after is None else min(after, size))
        content = file.read(LOG_BYTES)
    headers = {"X-Log-End": str(begin + len(content))}
    return Response(content, media_type="text/plain; charset=utf-8", headers=headers)


@router.get(
    "/{job}/events",
    responses={200: {"description": "Events", "content": {"text/event-stream": {}, "application/json": {}}}},
)
async def events(
    caller: Viewer,
    found: TheJob,
    store: TheStore,
    jobs: TheJobs,
    request: Request,
    after: Annotated[int, Query(ge=0, le=10**18)] = 0,
    newest: Annotated[bool, Query(description="the last 500 of them, not the first")] = False,
    last: Annotated[str | None, Header(alias="Last-Event-ID", pattern=r"^[0-9]{1,18}$")] = None,
    accept: Annotated[str, Header()] = "",
) -> Any:
    """What has happened, as JSON; as a stream of server-sent events where the caller accepts one.

    The stream goes on behind Last-Event-ID, tells each event once, and how far the job is in between, and
    ends with the job.
    """
    after = int(last) if last else after
    if "text/event-stream" in accept:
        stream = _stream(store, jobs, found.record, caller, after, request)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )
    told = await run_in_threadpool(
        store.events, found.record.name, after=after, limit=MOST_EVENTS, newest=newest
    )
    return {"events": [asdict(event) for event in told]}


async def _stream(
    store: Store, jobs: ServiceJobs, record: JobRecord, caller: Token, after: int, request: Request
) -> AsyncIterator[str]:
    """Events as they come, with their numbers as ids; how far the job is comes without one.

    It ends where the job is gone, or the caller's token.
    """
    before, name, tokens = "", record.name, Tokens(store)

    def look() -> tuple[ServiceJob, list[Event]] | None:
        with suppress(NotFoundError):
            job = _found(jobs, store, name, _whose(caller))
            if tokens.hold(caller) and job.record.created_s == record.created_s:
                return job, store.events(name, after=after, limit=MOST_EVENTS)
        return None

    yield "retry: 1000\n\n"
    while not await request.is_disconnected():
        seen = await run_in_threadpool(look)
        if seen is None:
            yield "event: end\ndata: {}\n\n"
            return
        job, told = seen
        for event in told:
            after = event.number
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(asdict(event))}\n\n"
        now = json.dumps(job_shown(job, None))
        if now != before:
            before = now
            yield f"event: job\ndata: {now}\n\n"
        if not told and job.record.state in OVER and not job.is_held and not job.exports:
            yield "event: end\ndata: {}\n\n"
            return
        if len(told) < MOST_EVENTS:
            await asyncio.sleep(POLL_S)


@router.get("/{job}/artifacts")
def list_artifacts(found: TheJob, runs: TheRuns, copies: TheCopies) -> list[dict[str, Any]]:
    """The files that the job has made, its report and its export among them."""
    copies.bring_back(found.record)
    place = Place(runs, found.record.name)
    found_files = []
    for path in sorted(artifacts(place)):
        with suppress(FileNotFoundError):  # it was removed at this moment
            size = path.stat().st_size
            found_files.append({"path": path.relative_to(place.folder).as_posix(), "bytes": size})
    return found_files


@router.get("/{job}/artifacts/{path:path}", response_class=FileResponse, responses=BYTES)
def get_artifact(found: TheJob, path: str, runs: TheRuns, copies: TheCopies) -> FileResponse:
    """One of them; parts of it by Range."""
    copies.bring_back(found.record)
    place = Place(runs, found.record.name)
    if (wanted := place.folder / path) in artifacts(place):
        return FileResponse(wanted, headers={"Content-Security-Policy": "sandbox allow-scripts"})
    raise NotFoundError(f"job {found.record.name!r} has no artifact {path!r}; see its list of artifacts")


@router.get("/{job}/archives/{folder:path}", response_class=StreamingResponse, responses=BYTES)
def get_archive(found: TheJob, folder: str, runs: TheRuns, copies: TheCopies) -> StreamingResponse:
    """A folder among the artifacts, such as `export`, as one zip whose files lie in a folder of its name."""
    name, place = found.record.name, Place(runs, found.record.name)
    copies.bring_back(found.record)
    within = place.folder / folder
    files = sorted(path for path in artifacts(place) if within != place.folder and within in path.parents)
    if not files:
        raise NotFoundError(f"job {name!r} has no folder {folder!r} of artifacts; see its list of them")
    top = name if within == place.export else f"{name}-{within.name}"
    try:
        pieces = zipped({f"{top}/{path.relative_to(within).as_posix()}": path for path in files})
    except FileNotFoundError:
        raise ConflictError(f"{folder!r} of job {name!r} is being written anew; ask again") from None
    headers = {"Content-Disposition": f'attachment; filename="{top}.zip"'}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)
