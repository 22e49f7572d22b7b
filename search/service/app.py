"""The routes. Each checks who calls, then hands over to the store or to the measuring room."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field

from hwprofiles.wire import (
    API,
    HOLDER,
    LEASE_S,
    NAME,
    Announcement,
    Claim,
    Failure,
    Measurement,
    Message,
    Name,
    Pass,
    Sha256,
)
from search.service.auth import OnlyToHosts, needs
from search.service.errors import answer_with_problems
from search.service.limits import AtMost, PlainJson
from search.service.room import Room
from trials.measurements import MeasurementRecord
from trials.store import Store
from trials.tokens import Role, Token, Tokens

DAY_S = 86_400
NameInPath = Annotated[str, InPath(pattern=NAME)]


def _room(request: Request) -> Room:
    room: Room = request.app.state.room
    return room


def _tokens(request: Request) -> Tokens:
    tokens: Tokens = request.app.state.tokens
    return tokens


def _measurement(id: NameInPath, room: Annotated[Room, Depends(_room)]) -> MeasurementRecord:
    if record := room.measurements.get(id):
        return record
    raise HTTPException(404, f"there is no measurement {id!r}")


# What a route asks for: who may call it, and what it works with.
FOR_AGENTS = Depends(needs(Role.AGENT))
FOR_SUBMITTERS = Depends(needs(Role.SUBMITTER))
FOR_BOTH = Depends(needs(Role.AGENT, Role.SUBMITTER))
FOR_ADMINS = Depends(needs())
TheRoom = Annotated[Room, Depends(_room)]
TheTokens = Annotated[Tokens, Depends(_tokens)]
TheMeasurement = Annotated[MeasurementRecord, Depends(_measurement)]
Holder = Annotated[str, Header(alias=HOLDER, pattern=r"^[0-9a-f]{32}$")]

router = APIRouter(prefix=API, route_class=PlainJson)


class TokenRequest(Message):
    """A token to be made: for whom, what for, and how long it holds."""

    name: Name
    role: Role
    days: Annotated[float, Field(gt=0, le=3650)] = 90


def create_app(store: Store, folder: Path, hosts: Iterable[str]) -> FastAPI:
    """The service on one store.

    Args:
        folder: where networks and finished profiles are kept.
        hosts: names by which it may be called; a call to any other is refused.
    """
    app = FastAPI(title="prunefront", openapi_url=f"{API}/openapi.json", docs_url=None, redoc_url=None)
    app.add_middleware(AtMost)
    app.add_middleware(OnlyToHosts, hosts=frozenset(name.lower() for name in hosts))
    app.state.tokens, app.state.room = Tokens(store), Room(store, folder)
    app.include_router(router)
    answer_with_problems(app)
    return app


@router.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@router.post("/tokens", status_code=201, dependencies=[FOR_ADMINS])
def make_token(wanted: TokenRequest, tokens: TheTokens) -> dict[str, Any]:
    """Make a token. Its text is in this answer and nowhere else."""
    token, text = tokens.make(wanted.name, wanted.role, wanted.days * DAY_S)
    return {**asdict(token), "token": text}


@router.get("/tokens", dependencies=[FOR_ADMINS])
def list_tokens(tokens: TheTokens) -> list[Token]:
    return tokens.all()


@router.delete("/tokens/{id}", status_code=204, dependencies=[FOR_ADMINS])
def revoke_token(id: NameInPath, tokens: TheTokens) -> None:
    if not tokens.revoke(id):
        raise HTTPException(404, f"there is no token {id!r}")


@router.put("/files/{sha256}", status_code=201, dependencies=[FOR_SUBMITTERS])
async def put_file(sha256: Sha256, request: Request, room: TheRoom) -> None:
    """Keep an ONNX file, if it is the one that its sha256 says."""
    await room.keep_file(sha256, request.stream())


@router.head("/files/{sha256}", dependencies=[FOR_BOTH], include_in_schema=False)
@router.get("/files/{sha256}", dependencies=[FOR_BOTH])
def get_file(sha256: Sha256, room: TheRoom) -> FileResponse:
    path = room.file(sha256)
    if not path.exists():
        raise HTTPException(404, f"there is no file {sha256[:12]}…")
    return FileResponse(path, media_type="application/octet-stream")


@router.post("/measurements", dependencies=[FOR_SUBMITTERS])
def ask(wanted: Measurement, room: TheRoom) -> JSONResponse:
    """Queue a measurement, once: asked for again it is the same, and one that failed starts over."""
    id_, new = room.ask(wanted)
    return JSONResponse({"id": id_}, 201 if new else 200)


@router.get("/measurements", dependencies=[FOR_SUBMITTERS])
def list_measurements(room: TheRoom) -> list[dict[str, Any]]:
    return [_shown(record) for record in room.measurements.all()]


@router.get("/measurements/{id}", dependencies=[FOR_SUBMITTERS])
def show_measurement(record: TheMeasurement, room: TheRoom) -> dict[str, Any]:
    """Where it stands, and what the board said of itself before and after each pass."""
    stored = room.measurements.passes(record.id)
    boards = [{key: each.data[key] for key in ("before", "after", "energy_mj")} for each in stored]
    return {**_shown(record), "boards": boards}


@router.get("/measurements/{id}/profile", dependencies=[FOR_SUBMITTERS])
def get_profile(record: TheMeasurement, room: TheRoom) -> FileResponse:
    """The profile as a Parquet file, once all passes are there."""
    return FileResponse(room.profile(record), media_type="application/vnd.apache.parquet")


@router.get("/agents", dependencies=[FOR_SUBMITTERS])
def list_agents(room: TheRoom) -> list[dict[str, Any]]:
    """Every agent that ever asked for work: when it did so last, its board, its devices."""
    now_s = time.time()
    agents = room.measurements.agents()
    return [{"name": agent.name, "seen_s_ago": now_s - agent.seen_s, **agent.report} for agent in agents]


@router.post("/agents/{name}/claim", dependencies=[FOR_AGENTS])
def claim(name: NameInPath, said: Announcement, holder: Holder, room: TheRoom) -> Response:
    """Give an agent its next job, or the one that it holds already; 204 where there is none."""
    room.measurements.see_agent(name, said.model_dump(mode="json"))
    record = room.measurements.claim(name, holder, LEASE_S)
    if record is None:
        return Response(status_code=204)
    job = Claim(id=record.id, measurement=Measurement.model_validate(record.spec), done=record.done)
    return Response(job.model_dump_json(), media_type="application/json")


@router.post("/measurements/{id}/lease", status_code=204, dependencies=[FOR_AGENTS])
def renew_lease(record: TheMeasurement, holder: Holder, room: TheRoom) -> None:
    room.measurements.renew(record.id, holder, LEASE_S)


@router.put("/measurements/{id}/passes/{number}", dependencies=[FOR_AGENTS])
def put_pass(record: TheMeasurement, number: int, sent: Pass, holder: Holder, room: TheRoom) -> Response:
    """Keep a pass: 201, or 200 where it is there already; then it stays as it is."""
    return Response(status_code=201 if room.keep_pass(record, number, holder, sent) else 200)


@router.post("/measurements/{id}/failure", status_code=204, dependencies=[FOR_AGENTS])
def fail(record: TheMeasurement, why: Failure, holder: Holder, room: TheRoom) -> None:
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
