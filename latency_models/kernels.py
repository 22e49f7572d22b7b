"""What each measured kernel adds to a network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwprofiles.device import Device
from hwprofiles.errors import NotMeasuredError, ProfileError
from hwprofiles.ops import OpSpec
from hwprofiles.runtimes import CALL
from hwprofiles.samples import Rounds
from latency_models.interpolate import Grid

Costs = NDArray[np.float64]
"""(..., 3): milliseconds with all data in the caches, how much more with none, and megabytes of weights."""

BYTES_PER_WEIGHT = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_LEAST_SHARE_OF_CALL = 0.1  # running a node is never free, even where timing it alone shows only the call


class KernelCosts:
    """The costs of measured kernels beyond the call that all kernels of a network share.

    `call_ms` is what that takes, 0 for imported layers, which were timed inside of a network.
    """

    def __init__(self, device: Device, kernels: Mapping[OpSpec, Rounds]) -> None:
        """
        Raises:
            ProfileError: the cost of a call is missing.
        """
        self.device = device
        self.call_ms = cold_call_ms = 0.0
        if CALL in kernels:
            call = kernels[CALL].summary()
            self.call_ms, cold_call_ms = call.latency_ms, max(call.cold_ms, call.latency_ms)
        elif "source" not in device.versions:
            raise ProfileError(
                f"the profile of {device.name!r} lacks the cost of a call; measure the device again"
            )
        bytes_per_weight = BYTES_PER_WEIGHT.get(device.precision, 4)  # a file may name any precision
        points: dict[OpSpec, dict[tuple[int, int], tuple[float, float, float]]] = defaultdict(dict)
        for kernel, rounds in kernels.items():
            alone = rounds.summary()
            beyond_call_ms = max(alone.latency_ms - self.call_ms, _LEAST_SHARE_OF_CALL * self.call_ms)
            more_ms = max(alone.cold_ms, alone.latency_ms) - alone.latency_ms - (cold_call_ms - self.call_ms)
            costs = beyond_call_ms, max(0.0, more_ms), kernel.weights * bytes_per_weight / 1e6
            points[kernel.family][kernel.in_channels, kernel.out_channels] = costs
        self._grids = {family: Grid(measured) for family, measured in points.items()}

    def at(self, family: OpSpec, in_channels: ArrayLike, out_channels: ArrayLike) -> Costs:
        """(..., 3) at channel counts of one family, which broadcast; NaN where it was not measured."""
        if family in self._grids:
            return self._grids[family].at(in_channels, out_channels)
        return np.full((*np.broadcast_shapes(np.shape(in_channels), np.shape(out_channels)), 3), math.nan)

    def knots(self, family: OpSpec) -> list[int]:
        """Input counts between which costs are linear; see `Grid`."""
        return self._grids[family].knots.tolist() if family in self._grids else []

    def of(self, kernel: OpSpec) -> Costs:
        """(3,) of one kernel.

        Raises:
            NotMeasuredError: it lies outside of what was measured.
        """
        costs = self.at(kernel.family, kernel.in_channels, kernel.out_channels)
        if np.isnan(costs).any():
            raise self._not_measured(kernel)
        return costs

    def _not_measured(self, kernel: OpSpec) -> NotMeasuredError:
        grid = self._grids.get(kernel.family)
        if grid is None:
            same_kind = {str(family) for family in self._grids if family.kind == kernel.kind}
            return NotMeasuredError(
                f"the model runs {kernel}, a kernel that table {self.device.name!r} does not hold "
                f"(of its kind: {', '.join(sorted(same_kind)) or 'none'}); measure the device for this model"
            )
        near = min(
            grid.points,
            key=lambda point: abs(point[0] - kernel.in_channels) + abs(point[1] - kernel.out_channels),
        )
        return NotMeasuredError(
            f"the model runs {kernel}, outside what table {self.device.name!r} holds; nearest measured "
            f"is {kernel.with_channels(*near)}: keep more units, or measure the device for a job that may "
            "keep as few (search.lowest_keep)"
        )
