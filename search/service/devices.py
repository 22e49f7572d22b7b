"""The routes of devices: what was measured of each, how good that is, and its stairs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from hwprofiles import read_profile
from hwprofiles.errors import NotFoundError, RequestError
from hwprofiles.wire import API
from latency_models.stairs import Stairs, operators, stairs
from search.devices import find_profile, known_profiles, list_devices
from search.place import DEVICES
from search.service.given import NameInPath, Viewer
from search.service.measuring import TheRoom, list_agents
from search.service.told import Told
from search.service.which import TheRuns

router = APIRouter(prefix=f"{API}/devices", route_class=Told, tags=["devices"])


@router.get("")
def list_all_devices(caller: Viewer, runs: TheRuns, room: TheRoom) -> list[dict[str, Any]]:
    """This machine, profiles with their age and their error, and each way in which an agent runs networks."""
    found = list_devices(runs / DEVICES, list_agents(caller, room))
    # A file's path is this machine's business.
    return [{**facts, "profile": facts.get("profile") is not None} for facts in found]


@router.get("/{name}/stairs")
def show_stairs(
    caller: Viewer, name: NameInPath, runs: TheRuns, operator: Annotated[int, Query(ge=0, le=10**6)] = 0
) -> dict[str, Any]:
    """What an operator of a profile takes over its width, and the names of all that it has."""
    if name not in dict(known_profiles(runs / DEVICES)):
        raise NotFoundError(f"device {name!r} has no profile here; see the list of devices")
    profile = read_profile(find_profile(runs / DEVICES, name))
    known = operators(profile)
    if operator >= len(known):
        raise RequestError(f"device {name!r} has no operator {operator}; allowed: 0 to {len(known) - 1}")
    return {
        "operators": [str(each) for each in known],
        "stairs": [_shown(each) for each in stairs(profile, known[operator])],
    }


def _shown(found: Stairs) -> dict[str, Any]:
    """Columns over `widths`; in `cliffs` a wider one costs less."""
    return {
        "axis": found.axis,
        "modelled": found.modelled,
        "widths": found.widths.tolist(),
        "latency_ms": found.latency_ms.tolist(),
        "measured": found.measured.tolist(),
        "cliffs": found.cliffs.tolist(),
    }
