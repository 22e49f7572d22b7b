"""Ray itself, for as long as a session lasts: a cluster's, or one started on this machine for us alone.

The only file that imports Ray, but for those that run Ray Tune.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from hwprofiles.errors import InvariantError, TransientError

CONNECT_TIMEOUT_S = 5.0
VITAL = ("gcs_server", "raylet")
"""Processes of Ray on this machine without which nothing goes on."""

QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray prints to standard output that a worker died; `Finished` says it, and `--json` must stay JSON.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
LOCAL_RAY = {
    # Ray asks for a token at every port; this one is in no file and ends with this process.
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # In spite of its name it decides on Linux, too, whether ports are open to other machines.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",
}
"""Ray reads its environment when it is imported, and its processes when they start."""
UNASKED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Start parts of Ray that nobody here asks: its autoscaler, collector of logs and dashboard's server."""


@contextmanager
def session(address: str, cpus: int) -> Iterator[Any]:
    """Connect to the cluster at `address`, or start Ray on this machine; yield the module `ray`.

    Raises:
        TransientError: neither can be done now, says why.
        InvariantError: this process already uses Ray.
    """
    if address:
        _knock(address)
    for name, value in (QUIET_RAY if address else QUIET_RAY | LOCAL_RAY).items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        raise InvariantError("this process already uses Ray; close the other pool before making this one")
    # Ray opens its own folders to everybody, so they lie in one that is ours alone; in /tmp, as the paths of
    # its sockets may have 107 characters at most.
    with TemporaryDirectory(prefix="prunefront-", dir="/tmp", ignore_cleanup_errors=True) as private:
        try:
            _start(ray, address, cpus, f"{private}/ray")
            yield ray
        finally:
            ray.shutdown(wait_for_processes=True)


def _start(ray: Any, address: str, cpus: int, folder: str) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address, **quiet)
        else:
            with _sparing(ray):
                ray.init("local", num_cpus=cpus, include_dashboard=False, _temp_dir=folder, **quiet)
    except Exception as error:  # Ray raises whatever its parts do
        where, check = (
            (f"join the cluster at {address!r}", "that it has the versions of Ray and Python that run here")
            if address
            else ("start on this machine", "that memory, processes and space in /tmp and /dev/shm are left")
        )
        raise TransientError(
            f"Ray cannot {where} ({type(error).__name__}: {error}): check {check}, and the variables RAY_* "
            "of the environment, then try again"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray would print where each of its threads stands, and end this process on the spot.
        signal.signal(signal.SIGTERM, at_sigterm)


@contextmanager
def _sparing(ray: Any) -> Iterator[None]:
    """Leave out what is `UNASKED`, which would take a core two seconds; `ray.init` has no say in it."""
    node = ray._private.node.Node
    starts = {name: getattr(node, name) for name in UNASKED}
    try:
        for name in starts:
            setattr(node, name, lambda *_, **__: None)
        yield
    finally:
        for name, start in starts.items():
            setattr(node, name, start)


def dead_part(ray: Any) -> str:
    """The name of a vital process of this machine's Ray that has died; nothing is known of a cluster's."""
    node = ray._private.worker._global_node
    return next((name for name, _ in node.dead_processes() if name in VITAL), "")


def _knock(address: str) -> None:
    """Check that somebody answers at `host:port`; Ray would try for minutes.

    Raises:
        TransientError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise TransientError(
            f"no Ray cluster answers at {address!r} ({error}): start it and give its host:port, or unset"
            " PRUNEFRONT_RAY_ADDRESS to work on this machine"
        ) from error
