"""The routes to what jobs have found and made: trials, fronts and widths, reports and exports."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse

from hwprofiles.errors import ConflictError, NotFoundError
from hwprofiles.wire import API
from search.job.table import NAME
from search.place import Place
from search.service.archive import zipped
from search.service.copies import artifacts
from search.service.given import TheStore
from search.service.limits import BYTES
from search.service.told import Told
from search.service.which import TheBoard, TheBoards, TheCopies, TheJob, TheRuns
from search.sets.board import show_set
from search.status import trial_rows

router = APIRouter(prefix=f"{API}/jobs", route_class=Told, tags=["jobs"])

Number = Annotated[int, InPath(ge=0, le=10**9)]
Device = Annotated[str, Query(pattern=f"^$|{NAME}", description="the job's first, or any with a profile")]


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


@router.get("/{job}/artifacts")
def list_artifacts(found: TheJob, runs: TheRuns, copies: TheCopies, store: TheStore) -> list[dict[str, Any]]:
    """The files that the job has made, its report and its export among them."""
    copies.bring_back(found.record, store)
    place = Place(runs, found.record.name)
    found_files = []
    for path in sorted(artifacts(place)):
        with suppress(FileNotFoundError):  # it was removed at this moment
            size = path.stat().st_size
            found_files.append({"path": path.relative_to(place.folder).as_posix(), "bytes": size})
    return found_files


@router.get("/{job}/artifacts/{path:path}", response_class=FileResponse, responses=BYTES)
def get_artifact(found: TheJob, path: str, runs: TheRuns, copies: TheCopies, store: TheStore) -> FileResponse:
    """One of them; parts of it by Range."""
    copies.bring_back(found.record, store)
    place = Place(runs, found.record.name)
    if (wanted := place.folder / path) in artifacts(place):
        return FileResponse(wanted, headers={"Content-Security-Policy": "sandbox allow-scripts"})
    raise NotFoundError(f"job {found.record.name!r} has no artifact {path!r}; see its list of artifacts")


@router.get("/{job}/archives/{folder:path}", response_class=StreamingResponse, responses=BYTES)
def get_archive(
    found: TheJob, folder: str, runs: TheRuns, copies: TheCopies, store: TheStore
) -> StreamingResponse:
    """A folder among the artifacts, such as `export`, as one zip whose files lie in a folder of its name."""
    name, place = found.record.name, Place(runs, found.record.name)
    copies.bring_back(found.record, store)
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
