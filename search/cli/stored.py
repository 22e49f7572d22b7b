"""Finding a job that is there, by its name or by the folder of its run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwprofiles.errors import NotFoundError, RequestError
from search.cli.terminal import runs_folder
from search.place import Place

if TYPE_CHECKING:
    from search.plan import Prepared
    from trials.store import Store

JobName = Annotated[str, typer.Argument(help="A job's name, or the folder of its run.")]


def run_at(path: Path) -> Place | None:
    """The run whose folder this is: one that lies beside a store."""
    folder = path.resolve()
    place = Place(folder.parent, folder.name)
    return place if folder.is_dir() and place.store.exists() else None


def place_of(job: str, runs: Path | None) -> Place:
    """Where a job keeps its files; its name may be given as the folder of its run."""
    named = None if runs else run_at(Path(job))
    return named or Place(runs_folder(runs), Path(job).name)


@contextmanager
def open_store(place: Place) -> Iterator[Store]:
    """The store of a runs folder that is there."""
    from trials.store import Store

    if not place.store.exists():
        raise RequestError(
            f"there are no runs in {place.runs}; start one with `prunefront run job.toml`, or name their "
            f"folder with --runs{_elsewhere()}"
        )
    with Store.open(place.store) as store:
        if place.job:
            _check_here(store, place.job)
        yield store


def _check_here(store: Store, job: str) -> None:
    try:
        store.job(job)
    except NotFoundError as error:
        raise NotFoundError(f"{error}{_elsewhere()}") from None


def _elsewhere() -> str:
    """How a job is named that is not here but at a server, to those who have logged in to one."""
    from search.servers import Servers

    server = Servers.read().default
    return f"; a job of a server is meant with -s {shlex.quote(server)}" if server else ""


def is_set(job: str, runs: Path | None) -> bool:
    """Whether that is the name of a set of models."""
    from search.status import jobs_of

    place = place_of(job, runs)
    with open_store(place) as store:
        return bool(jobs_of(store.job(place.job)))


@contextmanager
def open_planned(job: str, runs: Path | None) -> Iterator[tuple[Prepared, Store]]:
    """A job that has been planned, ready to be asked about."""
    from search.job import Job
    from search.plan import prepare
    from search.progress import Silent

    place = place_of(job, runs)
    with open_store(place) as store:
        record = store.job(place.job)
        if not record.plan:
            raise RequestError(
                f"job {place.job!r} has not been planned yet; run `prunefront resume {place.folder}` first"
            )
        yield prepare(Job.from_json(record.spec), place, record.plan, Silent()), store
