"""Device: where latency is measured, and everything that must be equal for two measurements to mix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One board, runtime and way of running; two profiles mix only if all of this is equal.

    `channel_step` is what the backend pads channels to (16 for ONNX Runtime on AVX-512): counts that are
    not a multiple of it cost as much as the next multiple, or more. `cache_mb` is the largest cache that
    holds weights between two inferences, 0 where that is not known; a fact of the board, not compared.
    """

    name: str
    runtime: str
    board: str
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    power_mode: str = ""
    channel_step: int = 1
    cache_mb: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a number that no device has.
        """
        if min(self.batch, self.threads, self.channel_step) < 1 or self.cache_mb < 0:
            raise ValueError(
                f"device {self.name!r} has batch {self.batch}, {self.threads} threads, steps of "
                f"{self.channel_step} channels and {self.cache_mb} MB of cache; allowed: 1 or more, and 0"
            )

    @property
    def modelled(self) -> bool:
        """Whether what it takes is worked out, not measured, and must be told as such."""
        return self.runtime == "synthetic"

    @property
    def identity(self) -> str:
        """First 16 hex digits of the sha256 of all that must be equal."""
        return hashlib.sha256(json.dumps(self._compared, sort_keys=True).encode()).hexdigest()[:16]

    def unlike(self, other: Self) -> str:
        """What the other does not share, such as "batch 1, not 2"; empty where their identities are equal."""
        pairs = zip(self._compared.items(), other._compared.values(), strict=True)
        return ", ".join(f"{key} {own!r}, not {others!r}" for (key, own), others in pairs if own != others)

    @property
    def _compared(self) -> dict[str, object]:
        return {
            "runtime": self.runtime,
            "board": self.board,
            "precision": self.precision,
            "batch": self.batch,
            "threads": self.threads,
            "power_mode": self.power_mode,
            "channel_step": self.channel_step,
            "versions": dict(sorted(self.versions.items())),
        }
