"""What of a plan need not be measured, because another device's profile shows it to follow from the rest.

Nothing but the plan is taken from that profile: all that a table speaks from is measured on its own device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from hwprofiles.files import Profile
from hwprofiles.ops import OpSpec
from latency_models.interpolate import Grid

TOLERANCE = 0.05
"""How far what is left out may lie beside a straight line, as a share of what it takes; docs/latency.md."""

Times = Mapping[tuple[int, int], float]
"""Milliseconds by input and output channels of one family."""


def shortened(kernels: Sequence[OpSpec], first: Profile, tolerance: float = TOLERANCE) -> list[OpSpec]:
    """A plan without the inner channel counts that `first` shows to follow from the others.

    What is left of a family is a grid with the ends of both axes. A family of which `first` lacks a kernel
    stays whole.

    Args:
        kernels: see `plan_measurements.plan`.
        first: measured on a device of the same `Lowering`, in whatever batch and by whatever threads.
    """
    families: dict[OpSpec, list[OpSpec]] = defaultdict(list)
    for kernel in kernels:
        families[kernel.family].append(kernel)
    return [kernel for planned in families.values() for kernel in _needed(planned, first, tolerance)]


def _needed(planned: Sequence[OpSpec], first: Profile, tolerance: float) -> Sequence[OpSpec]:
    """Those of one family; of all counts that may go, one by one the one that is missed least."""
    if not first.kernels.keys() >= set(planned):
        return planned
    times = {(k.in_channels, k.out_channels): first.kernels[k].summary().latency_ms for k in planned}
    kept: Times = times
    while fewer := _with_one_count_less(kept):
        least = min(fewer, key=lambda some: _off(some, times))
        if _off(least, times) > tolerance:
            break
        kept = least
    return [kernel for kernel in planned if (kernel.in_channels, kernel.out_channels) in kept]


def _with_one_count_less(times: Times) -> list[Times]:
    inner = ((axis, count) for axis in (0, 1) for count in sorted({point[axis] for point in times})[1:-1])
    return [{point: ms for point, ms in times.items() if point[axis] != count} for axis, count in inner]


def _off(some: Times, times: Times) -> float:
    """How far what is interpolated between some is from any of all times, at most, as a share of it."""
    ins, outs = np.array([*times]).T
    found = Grid({point: (ms,) for point, ms in some.items()}).at(ins, outs)[:, 0]
    return float(np.abs(found / np.array([*times.values()]) - 1).max())
