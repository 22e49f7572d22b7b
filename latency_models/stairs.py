"""What one operator takes over its width: the stairs of padding, and cliffs where narrower costs more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import NotMeasuredError
from hwprofiles.files import Profile
from hwprofiles.ops import OpSpec
from hwprofiles.runtimes import Lowering, lowering_of
from latency_models.kernels import KernelCosts

Axis = Literal["in_channels", "out_channels"]

NOTICEABLE = 0.02
"""Differences below that share are noise of the measurement."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stairs:
    """An operator timed alone, one call included, while one of its channel counts shrinks.

    `widths` (n,) ascending up to the operator's own; `latency_ms` (n,); `measured` (n,) whether its kernels
    were measured at that width, and not interpolated; on a `modelled` device they were modelled there.
    """

    operator: OpSpec
    axis: Axis
    widths: NDArray[np.int64]
    latency_ms: NDArray[np.float64]
    measured: NDArray[np.bool_]
    modelled: bool

    @property
    def cliffs(self) -> NDArray[np.bool_]:
        """(n,) whether a wider one costs noticeably less."""
        least_from_here = np.minimum.accumulate(self.latency_ms[::-1])[::-1]
        found: NDArray[np.bool_] = self.latency_ms > least_from_here * (1 + NOTICEABLE)
        return found


def operators(profile: Profile) -> list[OpSpec]:
    """The operators of a profile's networks, each at its widest, in running order.

    Of an imported table without networks, whose kernels are layers as a model has them, the widest of each.
    """
    if not profile.networks and "source" in profile.device.versions:
        by_width = sorted(profile.kernels, key=lambda kernel: kernel.in_channels * kernel.out_channels)
        return list({kernel.family: kernel for kernel in by_width}.values())
    widest: dict[OpSpec, tuple[int, int]] = {}
    for network in (*profile.networks, *profile.held_out):
        for spec in network.graph.operators:
            ins, outs = widest.get(spec.family, (0, 0))
            widest[spec.family] = max(ins, spec.in_channels), max(outs, spec.out_channels)
    return [family.with_channels(*channels) for family, channels in widest.items()]


def stairs(profile: Profile, operator: OpSpec) -> list[Stairs]:
    """Over its output and its input channels; over its output channels alone where both are the same.

    Raises:
        NotMeasuredError: the profile does not hold the operator at its full width.
    """
    rules, costs = lowering_of(profile.device), KernelCosts(profile.device, profile.kernels)
    axes: tuple[Axis, ...] = ("out_channels",) if operator.square else ("out_channels", "in_channels")
    return [_along(axis, operator, profile, rules, costs) for axis in axes]


def _along(axis: Axis, operator: OpSpec, profile: Profile, rules: Lowering, costs: KernelCosts) -> Stairs:
    full = getattr(operator, axis)
    # What it adds to its result lies in blocks where the device likes that, so those come first.
    for layout in reversed(rules.layouts):
        found = []
        for width in range(1, full + 1):
            kernels = rules.lower(_narrowed(operator, axis, width), layout).kernels
            latency_ms = costs.call_ms + sum(
                float(costs.at(k.family, k.in_channels, k.out_channels)[0]) for k in kernels
            )
            if not math.isnan(latency_ms):
                found.append((width, latency_ms, all(k in profile.kernels for k in kernels)))
        if found and found[-1][0] == full:
            widths, latencies_ms, measured = zip(*found, strict=True)
            return Stairs(
                operator=operator,
                axis=axis,
                widths=np.array(widths),
                latency_ms=np.array(latencies_ms),
                measured=np.array(measured),
                modelled=profile.device.modelled,
            )
    raise NotMeasuredError(
        f"profile {profile.device.name!r} does not hold the kernels of {operator}; measure the device for "
        "its model again"
    )


def _narrowed(operator: OpSpec, axis: Axis, width: int) -> OpSpec:
    if operator.square:
        return operator.with_channels(width, width)
    if axis == "in_channels":
        return operator.with_channels(width, operator.out_channels)
    return operator.with_channels(operator.in_channels, width)
