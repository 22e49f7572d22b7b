"""The routes of measurements: some ask for them, agents on boards make them.

Each names its caller first, as who may not call it shall learn nothing else, and hands over to the room.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from hwprofiles.wire import (
    API,
    HOLDER,
    LEASE_S,
    Announcement,
    Claim,
    Failure,
    Measurement,
    Pass,
    Sha256,
)
from search.service.given import Agent, AgentOrSubmitter, NameInPath, Submitter, Viewer
from search.service.limits import BYTES, FILE, PlainJson, links
from search.service.room import Room
from trials.measurements import MeasurementRecord


async def _room(request: Request) -> Room:
    room: Room = request.app.state.room
    return room


TheRoom = Annotated[Room, Depends(_room)]


def _measurement(id: NameInPath, room: TheRoom) -> MeasurementRecord:
    if record := room.measurements.get(id):
        return record
    raise HTTPException(404, f"there is no measurement {id!r}")


TheMeasurement = Annotated[MeasurementRecord, Depends(_measurement)]
Holder = Annotated[str, Header(alias=HOLDER, pattern=r"^[0-9a-f]{32}$")]

router = APIRouter(prefix=API, route_class=PlainJson)


@router.put("/files/{sha256}", status_code=201, openapi_extra=FILE)
async def put_file(caller: Submitter, sha256: Sha256, request: Request, room: TheRoom) -> None:
    """Keep an ONNX file, if it is the one that its sha256 says."""
    await room.keep_file(sha256, request.stream())


@router.head("/files/{sha256}", include_in_schema=False)
@router.get("/files/{sha256}", response_class=FileResponse, responses=BYTES)
def get_file(caller: AgentOrSubmitter, sha256: Sha256, room: TheRoom) -> FileResponse:
    path = room.file(sha256)
    if not path.exists():
        raise HTTPException(404, f"there is no file {sha256[:12]}…")
    return FileResponse(path, media_type="application/octet-stream")


_ASKED = {
    "description": "Its id",
    **links("id", "$response.body#/id", "show_measurement", "get_profile", "renew_lease", "put_pass", "fail"),
}


@router.post("/measurements", responses={200: _ASKED, 201: _ASKED})
def ask(caller: Submitter, wanted: Measurement, room: TheRoom) -> JSONResponse:
    """Queue a measurement, once: asked for again it is the same, and one that failed starts over."""
    id_, new = room.ask(wanted)
    return JSONResponse({"id": id_}, 201 if new else 200)


@router.get("/measurements")
def list_measurements(caller: Viewer, room: TheRoom) -> list[dict[str, Any]]:
    return [_shown(record) for record in room.measurements.all()]


@router.get("/measurements/{id}")
def show_measurement(caller: Viewer, record: TheMeasurement, room: TheRoom) -> dict[str, Any]:
    """Where it stands, and what the board said of itself before and after each pass."""
    stored = room.measurements.passes(record.id)
    boards = [{key: each.data[key] for key in ("before", "after", "energy_mj")} for each in stored]
    return {**_shown(record), "boards": boards}


@router.get("/measurements/{id}/profile", response_class=FileResponse, responses=BYTES)
def get_profile(caller: Viewer, record: TheMeasurement, room: TheRoom) -> FileResponse:
    """The profile as a Parquet file, once all passes are there."""
    return FileResponse(room.profile(record), media_type="application/vnd.apache.parquet")


@router.get("/agents")
def list_agents(caller: Viewer, room: TheRoom) -> list[dict[str, Any]]:
    """Every agent that ever asked for work: when it did so last, its board, its devices."""
    now_s = time.time()
    agents = room.measurements.agents()
    return [{"name": agent.name, "seen_s_ago": now_s - agent.seen_s, **agent.report} for agent in agents]


@router.post("/agents/{name}/claim", responses={204: {"description": "There is none"}})
def claim(caller: Agent, name: NameInPath, said: Announcement, holder: Holder, room: TheRoom) -> Response:
    """Give an agent its next job, or the one that it holds already; 204 where there is none."""
    room.measurements.see_agent(name, said.model_dump(mode="json"))
    record = room.measurements.claim(name, holder, LEASE_S)
    if record is None:
        return Response(status_code=204)
    job = Claim(id=record.id, measurement=Measurement.model_validate(record.spec), done=record.done)
    return Response(job.model_dump_json(), media_type="application/json")


@router.post("/measurements/{id}/lease", status_code=204)
def renew_lease(caller: Agent, record: TheMeasurement, holder: Holder, room: TheRoom) -> None:
    room.measurements.renew(record.id, holder, LEASE_S)


@router.put("/measurements/{id}/passes/{number}", responses={201: {"description": "It is new"}})
def put_pass(
    caller: Agent, record: TheMeasurement, number: int, sent: Pass, holder: Holder, room: TheRoom
) -> Response:
    """Keep a pass: 201, or 200 where it is there already; then it stays as it is."""
    return Response(status_code=201 if room.keep_pass(record, number, holder, sent) else 200)


@router.post("/measurements/{id}/failure", status_code=204)
def fail(caller: Agent, record: TheMeasurement, why: Failure, holder: Holder, room: TheRoom) -> None:
    room.measurements.fail(record.id, holder, why.reason)


def _shown(record: MeasurementRecord) -> dict[str, Any]:
    """A measurement without all that it measures."""
    keys = ("runtime", "precision", "batch", "threads", "passes", "rounds", "series")
    return {
        "id": record.id,
        "agent": record.agent,
        "state": record.state,
        "reason": record.reason,
        "created_s": record.created_s,
        "passes_done": len(record.done),
        **{key: record.spec[key] for key in keys},
    }
