"""Which job a call is about: one of the caller's, with what is known of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as InPath

from hwprofiles.errors import ConflictError, NotFoundError
from search.board import Board, Boards
from search.job.table import NAME
from search.service.copies import Copies
from search.service.given import Submitter, TheStore, Viewer, of_app
from search.status import jobs_of
from trials.service_jobs import ServiceJob, ServiceJobs
from trials.store import Store
from trials.tokens import Role, Token

JobName = Annotated[str, InPath(pattern=NAME)]


async def _jobs(store: TheStore) -> ServiceJobs:
    return ServiceJobs(store)


TheJobs = Annotated[ServiceJobs, Depends(_jobs)]
TheRuns = Annotated[Path, of_app("runs")]
TheCopies = Annotated[Copies, of_app("copies")]


def whose(caller: Token) -> str | None:
    """Whose jobs the caller may know of: None are everybody's."""
    return None if caller.role is Role.ADMIN else caller.user


def _job(caller: Viewer, job: JobName, jobs: TheJobs, store: TheStore) -> ServiceJob:
    """A job of the caller's; those of others are not there."""
    return find_job(jobs, store, job, whose(caller))


def find_job(jobs: ServiceJobs, store: Store, job: str, whose: str | None) -> ServiceJob:
    """A job of somebody, or of everybody where `whose` is None; one of a set's with the set's rights.

    Raises:
        NotFoundError: there is none.
    """
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
    found = find_job(jobs, store, job, whose(caller))
    if not jobs.is_one(job):
        of_set, _, model = job.rpartition(".")
        raise ConflictError(
            f"job {job!r} is that of {model!r} in the set {of_set!r}, which is steered and removed as a "
            f"whole; ask it of {of_set!r}"
        )
    return found


TheJobToChange = Annotated[ServiceJob, Depends(_job_to_change)]


async def _boards(request: Request) -> Boards:
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


def finished_trials(jobs: ServiceJobs, job: ServiceJob) -> int:
    """How many trials have ended, those of a set's models together."""
    return sum(jobs.finished(jobs_of(job.record) or [job.record.name]).values())


def log_of(request: Request, job: str) -> Path:
    logs: Path = request.app.state.logs
    return logs / f"{job}.log"
