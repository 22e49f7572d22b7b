"""The routes to what is told of jobs: their events, as they happen, and what their processes print.

Whatever is told of jobs, here and elsewhere, names no place of this machine to users: `Told`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from hwprofiles.errors import NotFoundError
from hwprofiles.wire import API
from search.service.given import TheStore, Viewer
from search.service.limits import PlainJson
from search.service.places import hidden
from search.service.shown import job_shown
from search.service.which import TheJob, TheJobs, find_job, log_of, whose
from trials.records import Event, JobRecord, JobState
from trials.service_jobs import ServiceJob, ServiceJobs
from trials.store import Store
from trials.tokens import Role, Token, Tokens

POLL_S = 0.5
"""How often a stream of events looks for new ones."""
MOST_EVENTS = 500
"""Told at a time."""
LOG_BYTES = 256 * 2**10
OVER = (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED)
"""States in which nothing more happens until somebody asks for it."""
TEXTS = ("application/json", "text/plain", "text/event-stream")
"""Kinds of answers that tell something; others are files, which are as they were made."""


class Told(PlainJson):
    """A route of what lies in the folder of runs: to an admin alone it says where on this machine that is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_told(request: Request) -> Response:
            answer, runs = await handle(request), request.app.state.runs
            kind = answer.headers.get("content-type", "").partition(";")[0]
            if request.state.caller.role is Role.ADMIN or kind not in TEXTS:
                return answer
            if isinstance(answer, StreamingResponse):
                answer.body_iterator = _each_hidden(answer.body_iterator, runs)
            elif not isinstance(answer, FileResponse):
                text = hidden(bytes(answer.body).decode(errors="surrogateescape"), runs)
                answer.body = text.encode(errors="surrogateescape")
                answer.headers["content-length"] = str(len(answer.body))
            return answer

        return handle_told


async def _each_hidden(texts: AsyncIterable[Any], runs: Path) -> AsyncIterator[str]:
    async for text in texts:
        yield hidden(text, runs)


router = APIRouter(prefix=f"{API}/jobs", route_class=Told, tags=["jobs"])


@router.get("/{job}/log", response_class=PlainTextResponse)
def log(
    found: TheJob,
    request: Request,
    after: Annotated[int | None, Query(ge=0, description="how many bytes are known; else the end")] = None,
) -> Response:
    """What the job's processes have printed, a part at a time; X-Log-End is `after` of the next one.

    A part is whole lines, whatever `after` says, of a line that is longer than a part its beginning: half a
    path could not be told from other text.
    """
    begin, content, size = 0, b"", 0
    with suppress(FileNotFoundError), log_of(request, found.record.name).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if begin := max(0, size - LOG_BYTES) if after is None else min(after, size):
            file.seek(begin - 1)
            file.readline()
            begin = file.tell()
        else:
            file.seek(0)
        content = file.read(LOG_BYTES)
    if begin + len(content) < size or found.is_held:  # a line may still be written
        lines = content[: content.rfind(b"\n") + 1]
        content = lines or (content if len(content) == LOG_BYTES else b"")
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
            job = find_job(jobs, store, name, whose(caller))
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
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {_json(asdict(event))}\n\n"
        now = _json(job_shown(job, None))
        if now != before:
            before = now
            yield f"event: job\ndata: {now}\n\n"
        if not told and job.record.state in OVER and not job.is_held and not job.exports:
            yield "event: end\ndata: {}\n\n"
            return
        if len(told) < MOST_EVENTS:
            await asyncio.sleep(POLL_S)


def _json(content: Any) -> str:
    """With letters as they are, so that `hidden` finds all of a path."""
    return json.dumps(content, ensure_ascii=False)
