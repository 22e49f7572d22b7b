"""The agent on a board: claims measurement jobs from a server, measures them pass by pass, sends raw times.

It needs no torch and no Ray. It may die at any moment: a finished pass is on disk before it is sent, and the
server keeps each pass of a job once, so none is measured or counted twice. One agent works in a folder, and
all that measures on a machine takes turns (`samples.only_measurement`).
"""

from __future__ import annotations

import fcntl
import logging
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Never

from pydantic import ValidationError

from hwprofiles.board import energies_mj, read_board
from hwprofiles.device import Device
from hwprofiles.disk import file_sha256, write_whole
from hwprofiles.errors import RequestError, TransientError, one_line
from hwprofiles.remote import RefusedError, Remote
from hwprofiles.runtimes import RUNTIMES, Run, Runtime, open_runtime, prepare_kernels
from hwprofiles.samples import measure
from hwprofiles.wire import HOLDER, LEASE_S, Announcement, Claim, Failure, Measurement, Pass

POLL_S = 2.0
"""How often an agent without work asks for some."""
_DOWNLOADS = 3
_log = logging.getLogger(__name__)


def run_agent(server: str, token: str, *, name: str, folder: Path) -> Never:
    """Work for `server` until the process is ended.

    Args:
        name: what jobs call this board.
        folder: keeps finished passes until they are sent, and networks while they are measured.

    Raises:
        RequestError: the server refuses the token or the name.
        TransientError: another agent works in `folder`.
    """
    with _only_agent(folder) as holder, Remote(server, token, headers={HOLDER: holder}) as remote:
        agent = _Agent(remote, name, folder)
        _log.info("agent %s asks %s for measurements", name, remote.url)
        while True:
            if not agent.work():
                time.sleep(POLL_S)


@contextmanager
def _only_agent(folder: Path) -> Iterator[str]:
    """Keep other agents off a folder; gives the name by which the server knows this one again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder} cannot be made: {error.strerror}; choose another --folder") from None
    with (folder / "holder").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TransientError(
                f"another agent works in {folder}; stop it, or choose another --folder"
            ) from None
        file.seek(0)
        holder = file.read()
        if not re.fullmatch(r"[0-9a-f]{32}", holder):  # new, or not whole on the disk when it was killed
            holder = secrets.token_hex(16)
            file.truncate(0)
            file.write(holder)
            file.flush()
        yield holder


class _Agent:
    def __init__(self, remote: Remote, name: str, folder: Path) -> None:
        self._remote, self._name, self._folder = remote, name, folder
        self._devices = tuple(_devices(name))
        self._heard_s = 0.0

    def work(self) -> bool:
        """Do one job, or say that there is none."""
        path = f"/agents/{self._name}/claim"
        board = read_board()
        devices = tuple(replace(device, power_mode=board.power_mode) for device in self._devices)
        announced = Announcement(board=board, devices=devices)
        answer = self._remote.call("POST", path, announced.model_dump_json())
        if answer.status_code == 204:
            shutil.rmtree(self._passes, ignore_errors=True)  # of jobs that are done
            return False
        try:
            claim = Claim.model_validate_json(answer.content)
        except ValidationError as error:
            raise RequestError(
                f"{self._remote.url} gives out jobs that this agent does not understand ({error.title}); "
                "install the server's version of prunefront here"
            ) from error
        try:
            self._measure(claim)
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            if error.status == 409:
                _log.warning("job %s is no longer this agent's: %s", claim.id, error)
            else:
                self._give_up(claim, str(error))
        except TransientError as error:
            _log.warning("job %s is tried again: %s", claim.id, error)
        except Exception as error:  # whatever a runtime raises is the job's end, not the agent's
            _log.exception("job %s failed", claim.id)
            said = str(error) if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"
            self._give_up(claim, said)
        return True

    def _measure(self, claim: Claim) -> None:
        """Send the passes that an agent before this one measured, then measure the others."""
        measurement = claim.measurement
        missing = [number for number in range(measurement.passes) if number not in claim.done]
        missing = [number for number in missing if not self._send(claim, number)]
        if missing:
            runtime, device = _open(measurement)
            runs = self._prepare(claim, runtime, device)
            for number in missing:
                _log.info("job %s: pass %d of %d", claim.id, number + 1, measurement.passes)
                write_whole(self._file(claim, number), self._one_pass(claim, device, runs, number))
                self._send(claim, number)
        shutil.rmtree(self._networks, ignore_errors=True)

    def _prepare(self, claim: Claim, runtime: Runtime, device: Device) -> list[Run]:
        """Runs of all kernels, then of all networks."""
        runs, paths = [], []
        networks = claim.measurement.networks
        for network in networks:
            paths.append(self._download(network.sha256))
            self._show_life(claim)
        fitted = [path for network, path in zip(networks, paths, strict=True) if not network.held_out]
        for _, run in prepare_kernels(runtime, claim.measurement.kernels, fitted, device):
            runs.append(run)
            self._show_life(claim)
        for network, path in zip(networks, paths, strict=True):
            runs.append(runtime.prepare_network(path, network.graph, device))
            self._show_life(claim)
        return runs

    def _one_pass(self, claim: Claim, device: Device, runs: list[Run], number: int) -> bytes:
        """Measure everything once and return it as JSON."""
        before = read_board()
        times = measure(
            dict(enumerate(runs)),
            passes=1,
            rounds=claim.measurement.rounds,
            seed=number,
            progress=lambda share: self._show_life(claim),
        )
        after = read_board()
        if after.power_mode != before.power_mode:
            raise RequestError(
                f"the power mode changed from {before.power_mode!r} to {after.power_mode!r} in a pass; "
                "keep it as it is, then ask again"
            )
        names = [network.name for network in claim.measurement.networks]
        networks = runs[len(claim.measurement.kernels) :]
        energy_mj = energies_mj(
            dict(zip(names, networks, strict=True)), progress=lambda: self._show_life(claim)
        )
        taken = Pass(
            device=replace(device, power_mode=before.power_mode),
            times_ms=[times[row].times_ms[0].tolist() for row in range(len(runs))],
            before=before,
            after=after,
            energy_mj=energy_mj,
        )
        return taken.model_dump_json().encode()

    def _send(self, claim: Claim, number: int) -> bool:
        """Send a pass that lies in the folder, then remove it; False where none does."""
        file = self._file(claim, number)
        if not file.exists():
            return False
        path = f"/measurements/{claim.id}/passes/{number}"
        try:
            self._remote.call("PUT", path, file.read_bytes())
        except RefusedError as error:
            if error.status == 422:  # one that is no good now is none later
                file.unlink()
            raise
        file.unlink()
        return True

    def _download(self, sha256: str) -> Path:
        """Fetch a network's file unless it is here.

        Raises:
            RequestError: what arrives is not what was asked for, however often.
        """
        path = self._networks / f"{sha256}.onnx"
        for _ in range(_DOWNLOADS):
            if path.exists() and file_sha256(path) == sha256:
                return path
            write_whole(path, self._remote.call("GET", f"/files/{sha256}").content)
        if file_sha256(path) == sha256:
            return path
        path.unlink()
        raise RequestError(
            f"the server's file {sha256[:12]}… has another sha256, {_DOWNLOADS} times; send the network again"
        )

    def _show_life(self, claim: Claim) -> None:
        """Tell the server, now and then, that this job is worked on; a lost call is no loss.

        Raises:
            RefusedError: the job is another's by now.
        """
        if time.monotonic() - self._heard_s < LEASE_S / 6:
            return
        with suppress(TransientError):
            self._remote.call("POST", f"/measurements/{claim.id}/lease", patience_s=0)
        self._heard_s = time.monotonic()

    def _give_up(self, claim: Claim, reason: str) -> None:
        _log.warning("job %s cannot be done: %s", claim.id, reason)
        failure = Failure(reason=one_line(reason)[:2000] or "it gave no reason")
        with suppress(RefusedError):  # the job is another's by now
            self._remote.call("POST", f"/measurements/{claim.id}/failure", failure.model_dump_json())

    @property
    def _passes(self) -> Path:
        return self._folder / "passes"

    @property
    def _networks(self) -> Path:
        return self._folder / "networks"

    def _file(self, claim: Claim, number: int) -> Path:
        return self._passes / f"{claim.id}-{number}.json"


def _open(measurement: Measurement) -> tuple[Runtime, Device]:
    runtime = open_runtime(measurement.runtime, measurement.precision)
    return runtime, runtime.describe(
        name=measurement.agent, batch=measurement.batch, threads=measurement.threads
    )


def _devices(name: str) -> Iterator[Device]:
    """What each runtime that can be opened here makes of this board, in each of its precisions."""
    for runtime, precisions in RUNTIMES.items():
        for precision in precisions:
            with suppress(RequestError):  # what is not installed here is not offered
                device = open_runtime(runtime, precision).describe(name=name, batch=1, threads=1)
                if not device.modelled:
                    yield device
