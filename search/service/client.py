"""Ask a server for a profile of a device that one of its agents runs on."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from pydantic import ValidationError

from hwprofiles.errors import RequestError, nearest
from hwprofiles.files import Profile, read_profile
from hwprofiles.ops import OpSpec
from hwprofiles.remote import RefusedError, Remote
from hwprofiles.runtimes import CALL
from hwprofiles.wire import Measurement, NetworkFile
from latency_models.profiling import NetworkModel

POLL_S = 1.0


def request_profile(
    remote: Remote,
    agent: str,
    kernels: Sequence[OpSpec],
    networks: Sequence[NetworkModel],
    path: Path,
    *,
    held_out: Sequence[NetworkModel] = (),
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    passes: int,
    rounds: int,
    series: str = "",
    patience_s: float = math.inf,
    progress: Callable[[float], None] = lambda done: None,
) -> Profile:
    """Have `agent` measure kernels and networks as `latency_models.build_profile` does here; waits for it.

    Whoever asks again for the same, such as after Ctrl-C, waits for the same measurement, or has its profile
    at once; another `series` is measured anew. One that failed starts over.

    Args:
        remote: the server, with a submitter's token.
        path: where the profile is written, whole or not at all.
        patience_s: for how long a server that cannot be reached is waited for, each time.
        progress: called with the share of passes that are done, up to 1.0.

    Raises:
        RequestError: the server refuses the request, or the agent could not do it.
        TransientError: the server cannot be reached.
    """

    def call(method: str, where: str, content: bytes = b"") -> httpx.Response:
        return remote.call(method, where, content, patience_s=patience_s)

    known = [each["name"] for each in call("GET", "/agents").json()]
    if agent not in known:
        named = nearest(agent, known) if known else "it has heard of none yet; start `prunefront agent`"
        raise RequestError(f"{remote.url} knows no agent {agent!r}; {named}")
    files = {network: _send(network, call) for network in (*networks, *held_out)}
    try:
        wanted = Measurement(
            agent=agent,
            runtime=runtime,
            precision=precision,
            batch=batch,
            threads=threads,
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
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(f"this cannot be measured by an agent: {where}: {first['msg']}") from error
    id_ = call("POST", "/measurements", wanted.model_dump_json().encode()).json()["id"]
    while (found := call("GET", f"/measurements/{id_}").json())["state"] != "done":
        if found["state"] == "failed":
            raise RequestError(f"agent {agent!r} could not measure this: {found['reason']}")
        progress(found["passes_done"] / passes)
        time.sleep(POLL_S)
    progress(1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_name(f".{path.name}.arriving")
    try:
        arriving.write_bytes(call("GET", f"/measurements/{id_}/profile").content)
        profile = read_profile(arriving)
        arriving.replace(path)
    finally:
        arriving.unlink(missing_ok=True)
    return profile


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
