"""The measuring room: measurements that are asked for, files that they need, passes and profiles that come.

A profile is a function of the stored passes: worked out when somebody wants it, written whole, and kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from hwprofiles.device import Device
from hwprofiles.disk import whole_file
from hwprofiles.errors import RequestError
from hwprofiles.files import MeasuredNetwork, Profile, write_profile
from hwprofiles.samples import Rounds
from hwprofiles.wire import Measurement, Pass
from trials.measurements import MeasurementRecord, Measurements, MeasurementState
from trials.store import Store

_DEVICE = TypeAdapter(Device)


class Room:
    """What the routes do with measurements; `folder` keeps files and profiles."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.measurements = Measurements(store)
        self._files, self._profiles = folder / "files", folder / "profiles"

    def file(self, sha256: str) -> Path:
        return self._files / sha256

    async def keep_file(self, sha256: str, content: AsyncIterator[bytes]) -> None:
        """Keep a file under its sha256.

        Raises:
            RequestError: its sha256 is another.
        """
        digest = hashlib.sha256()
        with whole_file(self.file(sha256)) as file:
            async for piece in content:
                digest.update(piece)
                file.write(piece)
            if digest.hexdigest() != sha256:
                raise RequestError(
                    f"the file that was sent as {sha256[:12]}… has sha256 {digest.hexdigest()[:12]}…; "
                    "send it again"
                )

    def ask(self, wanted: Measurement) -> tuple[str, bool]:
        """Queue a measurement; gives its id, which equal measurements share, and whether it is new.

        Raises:
            RequestError: a network's file is not here.
        """
        for network in wanted.networks:
            if not self.file(network.sha256).exists():
                raise RequestError(
                    f"network {network.name!r} needs the file {network.sha256[:12]}…; send that first"
                )
        text = wanted.model_dump_json()
        id_ = hashlib.sha256(text.encode()).hexdigest()[:32]
        return id_, self.measurements.add(id_, wanted.agent, wanted.model_dump(mode="json"))

    def keep_pass(self, record: MeasurementRecord, number: int, holder: str, sent: Pass) -> bool:
        """Check a pass and keep it; False where it is there already.

        Raises:
            RequestError: it is not what was asked for, a time cannot be, or the device is another by now.
        """
        wanted = Measurement.model_validate(record.spec)
        if not 0 <= number < wanted.passes:
            raise RequestError(f"there is no pass {number}; allowed: 0 to {wanted.passes - 1}")
        runs = sent.times(wanted).shape[-1]
        asked = (wanted.runtime, wanted.precision, wanted.batch, wanted.threads)
        device = sent.device
        if (device.runtime, device.precision, device.batch, device.threads) != asked:
            raise RequestError(f"the pass is of {device}; wanted: runtime, precision, batch, threads {asked}")
        for earlier in self.measurements.passes(record.id)[:1]:
            first = _DEVICE.validate_python(earlier.data["device"])
            if first.identity != device.identity:
                raise RequestError(f"the device changed between passes, from {first} to {device}; start over")
            before = Pass.model_validate(earlier.data).times(wanted).shape[-1]
            if runs != before:
                raise RequestError(
                    f"the pass has {runs} runs a visit, and those before it {before}; start over"
                )
        data = sent.model_dump(mode="json")
        return self.measurements.add_pass(record.id, number, holder, data, passes=wanted.passes)

    def profile(self, record: MeasurementRecord) -> Path:
        """The profile of a measurement, as a file.

        Raises:
            RequestError: not all passes are there.
        """
        if record.state is not MeasurementState.DONE:
            raise RequestError(
                f"measurement {record.id!r} is {record.state} with {len(record.done)} of "
                f"{record.spec['passes']} passes; its profile comes with the last"
            )
        path = self._profiles / f"{record.id}.parquet"
        if not path.exists():
            write_profile(self._assemble(record), path)
        return path

    def _assemble(self, record: MeasurementRecord) -> Profile:
        wanted = Measurement.model_validate(record.spec)
        stored = self.measurements.passes(record.id)
        passes = [Pass.model_validate(each.data) for each in stored]
        times_ms = np.stack([each.times(wanted) for each in passes], axis=1)  # (rows, passes, rounds, runs)
        rounds = [Rounds(row) for row in times_ms]
        kernels, others = rounds[: len(wanted.kernels)], rounds[len(wanted.kernels) :]
        networks: dict[bool, list[MeasuredNetwork]] = {False: [], True: []}
        for network, measured in zip(wanted.networks, others, strict=True):
            networks[network.held_out].append(
                MeasuredNetwork(
                    name=network.name,
                    graph=network.graph,
                    rounds=measured,
                    energy_mj=tuple(
                        each.energy_mj[network.name] for each in passes if network.name in each.energy_mj
                    ),
                )
            )
        return Profile(
            device=passes[0].device,
            kernels=dict(zip(wanted.kernels, kernels, strict=True)),
            networks=tuple(networks[False]),
            held_out=tuple(networks[True]),
            created=datetime.fromtimestamp(stored[-1].created_s, UTC),
        )
