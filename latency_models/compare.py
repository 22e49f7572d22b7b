"""Two profiles, as before and after a driver update: what moved by more than the noise of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwprofiles.files import Profile
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.samples import Rounds
from latency_models.validate import between_halves

USUAL = 90
"""Percentile of a profile's own repeatability that counts as its noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One thing that both profiles measured; `change` 0.1 means 10 % slower than before."""

    name: str
    before_ms: float
    after_ms: float
    noise: float

    @property
    def change(self) -> float:
        return self.after_ms / self.before_ms - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`moved` are those beyond the noise, the largest change first; `median_change` is over all shared."""

    shared: int
    only_before: int
    only_after: int
    median_change: float
    moved: tuple[Move, ...]


def compare(before: Profile, after: Profile) -> Comparison:
    """Compare kernel with kernel, and network with the same network.

    A thing has moved if it changed by more than the noise of both: of each profile how far two halves of its
    rounds are apart, for that thing or, if that is more, for nine things in ten.
    """
    old, new = _things(before), _things(after)
    old_noise, new_noise = _noise(old), _noise(new)
    shared = [key for key in old if key in new]
    moves = [
        Move(
            name=old[key][0],
            before_ms=old[key][1].summary().latency_ms,
            after_ms=new[key][1].summary().latency_ms,
            noise=max(old_noise, between_halves(old[key][1])) + max(new_noise, between_halves(new[key][1])),
        )
        for key in shared
    ]
    moved = sorted((m for m in moves if abs(m.change) > m.noise), key=lambda move: -abs(move.change))
    return Comparison(
        shared=len(shared),
        only_before=len(old) - len(shared),
        only_after=len(new) - len(shared),
        median_change=float(np.median([move.change for move in moves])) if moves else 0.0,
        moved=tuple(moved),
    )


def _things(profile: Profile) -> Mapping[OpSpec | OpGraph, tuple[str, Rounds]]:
    networks = (*profile.networks, *profile.held_out)
    return {
        **{kernel: (str(kernel), rounds) for kernel, rounds in profile.kernels.items()},
        **{network.graph: (f"network {network.name!r}", network.rounds) for network in networks},
    }


def _noise(things: Mapping[OpSpec | OpGraph, tuple[str, Rounds]]) -> float:
    return float(np.percentile([between_halves(rounds) for _, rounds in things.values()], USUAL))
