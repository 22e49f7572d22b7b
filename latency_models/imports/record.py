"""What every import comes to, and what none of them takes.

Imported tables have no raw rounds. Each number becomes a round of one run, and `source` among the device's
versions says where it is from: it mixes with nothing measured here, and its spread means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hwprofiles.device import Device
from hwprofiles.errors import ProfileError, RequestError
from hwprofiles.files import MeasuredNetwork, Profile
from hwprofiles.ops import OpSpec
from hwprofiles.samples import MAX_MS, MIN_MS, Rounds

MAX_BYTES = 2**26
MAX_COUNT = 2**20
"""Of channels, and of positions along an axis."""
_PICKLE = b"\x80"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A profile, and a sentence for each layer that is left out of it, naming file and row.

    A table that lacks a kernel raises when a model needs it, so what is left out is never counted as zero.
    """

    profile: Profile
    left_out: tuple[str, ...]

    @property
    def calibrated(self) -> bool:
        """Whether whole networks came along; without them nothing vouches for a sum of kernels."""
        return len(self.profile.networks) > 1


def imported(
    kernels: Mapping[OpSpec, Sequence[float]],
    networks: Sequence[MeasuredNetwork],
    left_out: Sequence[str],
    device: Device,
    source: str,
) -> Imported:
    """
    Args:
        kernels: milliseconds of each, as often as it was told.
    """
    return Imported(
        profile=Profile(
            device=replace(device, versions={**device.versions, "source": source}),
            kernels={kernel: told(times_ms) for kernel, times_ms in kernels.items()},
            networks=tuple(networks),
            created=datetime.now(UTC),
        ),
        left_out=tuple(left_out),
    )


def told(times_ms: Sequence[float]) -> Rounds:
    """One pass, with a round of a single run for each number."""
    return Rounds(np.array(times_ms, dtype=np.float64).reshape(1, -1, 1))


def read_text(path: Path, at_most: int = MAX_BYTES) -> str:
    """
    Raises:
        RequestError: there is no such file, or it cannot be read.
        ProfileError: it is too large, no text or a pickle.
    """
    try:
        with path.open("rb") as file:
            data = file.read(at_most + 1)  # a device or a pipe may have no end
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}; give the path of a table") from error
    if data.startswith(_PICKLE):
        raise ProfileError(
            f"{path} is a pickle, and reading one would run the code in it; write its rows as CSV, "
            "as docs/import.md shows"
        )
    if len(data) > at_most:
        raise ProfileError(f"{path} has more than {at_most} bytes, which are all that is read; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path} is no text in UTF-8 ({error}); export the table again") from error


def checked_ms(value: object, place: str, to_ms: float = 1.0) -> float:
    """A latency that is told at `place`, in milliseconds.

    Raises:
        ProfileError: it is no number, or not between `MIN_MS` and `MAX_MS`.
    """
    latency_ms = float(str(value)) * to_ms if _NUMBER.fullmatch(str(value)) else 0.0
    if not MIN_MS <= latency_ms <= MAX_MS:
        raise ProfileError(
            f"{place}: the latency {str(value)[:40]!r} is not one from a nanosecond to an hour; "
            "leave the row out or measure it again"
        )
    return latency_ms
