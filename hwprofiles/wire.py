"""What the agent on a board and the server say to each other. Whoever receives checks all of it."""

from __future__ import annotations

import math
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, model_validator

from hwprofiles.board import Board
from hwprofiles.device import Device
from hwprofiles.errors import RequestError
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes import CALL
from hwprofiles.samples import MAX_MS, MIN_MS

API = "/api/v1"
HOLDER = "X-Prunefront-Holder"
"""The header in which an agent says who it is; whoever holds a job's lease is known by it."""
LEASE_S = 120.0
"""After this long without a word from its holder a job may be claimed by another."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=200)]
Sentence = Annotated[str, Field(min_length=1, max_length=2000)]
MAX_FILE_BYTES = 2**31
"""What an ONNX file can be at most."""
MAX_ELEMENTS = 2**30
"""Of all that one operator reads, writes and is made of, at the batch; four bytes each."""


class Message(BaseModel):
    """What is said; a text in it that does not say how long it may be has at most 2000 characters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=2000)


class NetworkFile(Message):
    """A whole network to measure; its ONNX file is sent on its own. See `Profile` for `held_out`."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    sha256: Sha256
    graph: OpGraph
    held_out: bool = False


class Measurement(Message):
    """A measurement job: what one agent shall measure, and how.

    `series` sets equal jobs apart: the same job of another series is measured anew.
    """

    agent: Name
    runtime: Name
    precision: Name = "fp32"
    batch: Annotated[int, Field(ge=1, le=4096)] = 1
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    kernels: Annotated[tuple[OpSpec, ...], Field(max_length=20_000)]
    networks: Annotated[tuple[NetworkFile, ...], Field(max_length=1000)] = ()
    passes: Annotated[int, Field(ge=1, le=100)]
    rounds: Annotated[int, Field(ge=1, le=1000)]
    series: Text = ""

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        if CALL not in self.kernels:
            raise ValueError(f"kernels lack the kernel {CALL.kind!r}, which every profile holds")
        for what, things in (
            ("kernel", self.kernels),
            ("name of a network", [net.name for net in self.networks]),
        ):
            if len(set(things)) != len(things):
                raise ValueError(f"a {what} is there twice")
        for number, spec in enumerate(self.kernels):
            _check_size(spec, self.batch, f"kernel {number}")
        for network in self.networks:
            for number, spec in enumerate(network.graph.operators):
                _check_size(spec, self.batch, f"operator {number} of network {network.name!r}")
        return self

    @property
    def rows(self) -> list[str]:
        """The names of what is measured, in the order of its times."""
        return [*map(str, self.kernels), *(network.name for network in self.networks)]


class Announcement(Message):
    """An agent says that it is there, what its board is, and what each of its runtimes makes of it in
    each precision, at batch 1 on one thread."""

    board: Board
    devices: Annotated[tuple[Device, ...], Field(max_length=64)]


class Claim(Message):
    """A job for an agent; the passes that are done are not wanted again."""

    id: Name
    measurement: Measurement
    done: tuple[int, ...]


class Pass(Message):
    """The raw times of one pass, (rows, rounds, runs) in milliseconds, in the order of `Measurement.rows`.

    `energy_mj`: of one inference, by network and rail, where the board has rails.
    """

    device: Device
    times_ms: list[list[list[Annotated[float, AllowInfNan(True)]]]]
    before: Board
    after: Board
    energy_mj: Annotated[
        dict[str, dict[Text, Annotated[float, Field(ge=0)]]], Field(default_factory=dict, max_length=1000)
    ]

    def times(self, measurement: Measurement) -> NDArray[np.float64]:
        """Return the times as an array, checked against what was asked for.

        Raises:
            RequestError: rows, rounds or runs are missing, or a time cannot be; names the row.
        """
        rows = measurement.rows
        if len(self.times_ms) != len(rows):
            raise RequestError(f"a pass has {len(self.times_ms)} rows of times; wanted {len(rows)}")
        runs = len(self.times_ms[0][0]) if self.times_ms[0] else 0
        for number, (row, rounds) in enumerate(zip(rows, self.times_ms, strict=True)):
            where = f"row {number} ({row})"
            if len(rounds) != measurement.rounds or not 1 <= runs <= 64 or {*map(len, rounds)} != {runs}:
                raise RequestError(
                    f"{where} has rounds of {sorted({*map(len, rounds)})} runs, {len(rounds)} of them; "
                    f"wanted {measurement.rounds} of 1 to 64 runs, as many in every row"
                )
            for time_ms in (time_ms for visit in rounds for time_ms in visit):
                if not MIN_MS <= time_ms <= MAX_MS:  # nor NaN
                    raise RequestError(
                        f"{where} has a time of {time_ms} ms; allowed: from a nanosecond to an hour"
                    )
        if unknown := self.energy_mj.keys() - {network.name for network in measurement.networks}:
            raise RequestError(f"energy of a network {min(unknown)!r} that is not part of the measurement")
        return np.array(self.times_ms, dtype=np.float64)


class Failure(Message):
    """Why an agent cannot do a job."""

    reason: Sentence


def _check_size(spec: OpSpec, batch: int, where: str) -> None:
    """Refuse an operator that no network has, before anyone makes room for it."""
    try:
        spec.check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    channels = spec.in_channels, spec.out_channels
    positions = batch * (math.prod(spec.in_size) + math.prod(spec.out_size))
    if positions * max(channels) + math.prod(spec.kernel) * math.prod(channels) > MAX_ELEMENTS:
        raise ValueError(f"{where} ({spec}) is larger than {MAX_ELEMENTS} elements")
