"""Ask a server for measurements of a device that one of its agents runs on."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from pydantic import ValidationError

from hwprofiles.device import Device
from hwprofiles.errors import RequestError, nearest
from hwprofiles.files import Profile, read_profile
from hwprofiles.foreign import said
from hwprofiles.ops import OpSpec
from hwprofiles.remote import RefusedError, Remote
from hwprofiles.runtimes import CALL
from hwprofiles.wire import LEASE_S, Announcement, Measurement, NetworkFile
from latency_models.profiling import NetworkModel
from search.bench import Bench

POLL_S = 1.0
_log = logging.getLogger(__name__)


def list_agents(remote: Remote) -> list[dict[str, Any]]:
    """Every agent that the server ever heard of, by name: "name", "seen_s_ago", "board" and "devices".

    Raises:
        RequestError: the server refuses the token.
        TransientError: the server cannot be reached now.
    """
    found: list[dict[str, Any]] = remote.call("GET", "/agents", patience_s=0).json()
    return found


def list_devices_at(remote: Remote) -> list[dict[str, Any]]:
    """What has a profile at a server, and each way in which its agents run networks.

    As `devices.list_devices` tells of those here, with the server's URL as "server".

    Raises:
        RequestError: the server refuses the token.
        TransientError: the server cannot be reached now.
    """
    return [
        {
            **facts,
            "this_machine": False,
            "profile": facts["device"] if facts["profile"] else None,
            "server": remote.url,
        }
        for facts in remote.call("GET", "/devices", patience_s=0).json()
        if facts["profile"] or "seen_s_ago" in facts or "wrong" in facts
    ]


def open_on_agent(
    remote: Remote,
    name: str,
    *,
    runtime: str,
    precision: str,
    batch: int,
    threads: int,
    anew: bool = False,
) -> Bench:
    """The board of the agent `name`, as it announced itself; with a remote an `OpenBench`.

    Args:
        anew: measure again what the server has measured of this very device.

    Raises:
        RequestError: the server knows no such agent, or its board does not run networks so.
        TransientError: the server cannot be reached now.
    """
    agents = {agent["name"]: agent for agent in list_agents(remote)}
    if name not in agents:
        named = nearest(name, agents) if agents else "it has heard of none yet; start `prunefront agent`"
        raise RequestError(f"{remote.url} knows no agent {name!r}; {named}")
    agent = agents[name]
    if agent["seen_s_ago"] > LEASE_S:
        _log.warning("agent %s was last heard of %.0f s ago; waiting for it", name, agent["seen_s_ago"])
    announced = Announcement.model_validate({key: agent[key] for key in Announcement.model_fields})
    devices = {f"{device.runtime} {device.precision}": device for device in announced.devices}
    wanted = f"{runtime} {precision}"
    if wanted not in devices:
        runs = nearest(wanted, devices) if devices else "it runs nothing; install a runtime there"
        raise RequestError(f"agent {name!r} does not run {wanted!r}; {runs}")
    device = replace(devices[wanted], batch=batch, threads=threads)
    series = f"{device.identity} {time.time_ns()}" if anew else device.identity
    return Bench(device, partial(request_profile, remote, device, series=series))


def request_profile(
    remote: Remote,
    device: Device,
    kernels: Sequence[OpSpec],
    networks: Sequence[NetworkModel],
    *,
    held_out: Sequence[NetworkModel] = (),
    passes: int,
    rounds: int,
    journal: Path,
    series: str = "",
    patience_s: float = math.inf,
    progress: Callable[[float], None] = lambda done: None,
) -> Profile:
    """Have an agent measure kernels and networks as `latency_models.build_profile` does here; waits for it.

    Whoever asks again for the same, such as after Ctrl-C, waits for the same measurement, or has its profile
    at once; another `series` is measured anew. One that failed starts over.

    Args:
        remote: the server, with a submitter's token.
        device: goes by the agent's name; how it runs networks is what counts of it.
        journal: where a measurement on this machine would keep its passes, and so must not be; the server
            keeps those of its agents.
        patience_s: for how long a server that cannot be reached is waited for, each time.
        progress: called with the share of passes that are done, up to 1.0.

    Raises:
        RequestError: the server refuses the request, or the agent could not do it, or there is a journal.
        TransientError: the server cannot be reached.
    """
    if journal.exists():
        raise RequestError(
            f"{journal} keeps finished passes of a measurement on this machine; repeat the command that "
            "began it, or remove the file"
        )

    def call(method: str, where: str, content: bytes = b"") -> httpx.Response:
        return remote.call(method, where, content, patience_s=patience_s)

    files = {network: _send(network, call) for network in (*networks, *held_out)}
    try:
        wanted = Measurement(
            agent=device.name,
            runtime=device.runtime,
            precision=device.precision,
            batch=device.batch,
            threads=device.threads,
            kernels=tuple(dict.fromkeys((CALL, *kernels))),
            networks=tuple(
                NetworkFile(name=net.name, sha256=sha256, graph=net.graph, held_out=net in held_out)
                for net, sha256 in files.items()
            ),
            passes=passes,
            rounds=rounds,
            series=series,
        )
    except ValidationError as error:
        raise RequestError(f"this cannot be measured by an agent: {said(error)}") from error
    id_ = call("POST", "/measurements", wanted.model_dump_json().encode()).json()["id"]
    while (found := call("GET", f"/measurements/{id_}").json())["state"] != "done":
        if found["state"] == "failed":
            raise RequestError(f"agent {device.name!r} could not measure this: {found['reason']}")
        progress(found["passes_done"] / passes)
        time.sleep(POLL_S)
    progress(1.0)
    with TemporaryDirectory() as folder:
        arrived = Path(folder) / "profile.parquet"
        arrived.write_bytes(call("GET", f"/measurements/{id_}/profile").content)
        return read_profile(arrived)


def _send(network: NetworkModel, call: Callable[..., httpx.Response]) -> str:
    """Have the server keep a network's file, unless it does; returns the file's sha256."""
    content = network.onnx_path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        call("HEAD", f"/files/{sha256}")
    except RefusedError as error:
        if error.status != 404:
            raise
        call("PUT", f"/files/{sha256}", content)
    return sha256
