"""A profile made into a function: networks in, milliseconds with an error bar out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwprofiles.device import Device
from hwprofiles.errors import NotMeasuredError, ProfileError
from hwprofiles.files import Profile
from hwprofiles.lowering import lower
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes import CALL, Lowering
from latency_models.calibrate import UNCALIBRATED, Calibration, Sums, calibrate
from latency_models.interpolate import Grid
from latency_models.population import Population
from latency_models.sheet import Cost

Counts = NDArray[np.int64]

_BYTES_PER_WEIGHT = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_LEAST_SHARE_OF_CALL = 0.1  # running a node is never free, even where timing it alone shows only the call


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """(candidates,) latency in milliseconds, and the half width of its error bar."""

    latency_ms: NDArray[np.float64]
    error_ms: NDArray[np.float64]


class LatencyTable:
    """Predicts networks on one device from its measured kernels.

    A network costs one call and, for each kernel that the runtime makes of it, what that takes beyond a call;
    calibration on whole networks says how cold their caches are and scales the sum, and its error bar speaks
    for candidates like those networks.
    Between measured channel counts of a kernel it interpolates; beyond them, or for a kernel that was not
    measured, it raises.
    """

    def __init__(
        self, device: Device, runtime: Lowering, kernels: Mapping[OpSpec, Grid], calibration: Calibration
    ) -> None:
        """`kernels` maps a family of kernels to its latency alone; see `from_profile`."""
        self.device = device
        self.calibration = calibration
        self._runtime = runtime
        self._kernels = kernels
        # An import may name any precision.
        self._bytes_per_weight = _BYTES_PER_WEIGHT.get(device.precision, 4)
        self._call_ms = self._cold_call_ms = 0.0  # of imported layers, which were timed inside of a network
        if CALL.family in kernels:
            self._call_ms, self._cold_call_ms = kernels[CALL.family].at(CALL.in_channels, CALL.out_channels)
        elif "source" not in device.versions:
            raise ProfileError(
                f"the profile of {device.name!r} lacks the cost of a call; measure the device again"
            )
        self._kernel_cost = cache(self._look_up)
        self._population: Population | None = None

    @classmethod
    def from_profile(cls, profile: Profile, runtime: Lowering) -> Self:
        """
        Raises:
            ProfileError: the profile lacks what a table needs: the cost of a call, and two or more networks.
                One that was imported does without, and without them it has no error bar.
            NotMeasuredError: a network in the profile runs a kernel that was not measured.
        """
        points: dict[OpSpec, dict[tuple[int, int], tuple[float, float]]] = defaultdict(dict)
        for kernel, rounds in profile.kernels.items():
            summary = rounds.summary()
            times_ms = summary.latency_ms, max(summary.cold_ms, summary.latency_ms)
            points[kernel.family][kernel.in_channels, kernel.out_channels] = times_ms
        try:
            kernels = {family: Grid(measured) for family, measured in points.items()}
            uncalibrated = cls(profile.device, runtime, kernels, UNCALIBRATED)
            if "source" in profile.device.versions and len(profile.networks) < 2:
                return uncalibrated
            costs = np.array([uncalibrated._costs(network.graph).sum(axis=0) for network in profile.networks])
            sums = uncalibrated._sums(costs.reshape(-1, 3))
            whole_ms = np.array([network.rounds.summary().latency_ms for network in profile.networks])
            return cls(profile.device, runtime, kernels, calibrate(sums, whole_ms, profile.device.cache_mb))
        except ValueError as error:
            raise ProfileError(
                f"the profile of {profile.device.name!r} makes no table: {error}; measure it again"
            ) from error

    def check(self, device: Device) -> None:
        """Refuse to speak for another device.

        Raises:
            ProfileError: the identity of `device` is not the one that was measured.
        """
        if device.identity != self.device.identity:
            differing = [
                f"{name} {getattr(self.device, name)!r}, not {getattr(device, name)!r}"
                for name in Device.__slots__
                if name != "name" and getattr(self.device, name) != getattr(device, name)
            ]
            raise ProfileError(
                f"the profile of {self.device.name!r} was measured with {', '.join(differing)}; "
                f"measure {device.name!r} itself"
            )

    def predict(self, graph: OpGraph, in_channels: Counts, out_channels: Counts) -> Prediction:
        """Score candidates of one network.

        Args:
            graph: the network with its n operators; their own channel counts do not matter.
            in_channels: (candidates, n) input channels of each operator in each candidate.
            out_channels: (candidates, n) output channels.

        Raises:
            NotMeasuredError: a kernel of a candidate lies outside what was measured.
        """
        if self._population is None or self._population.graph is not graph:
            self._population = Population(graph, self._runtime, self._kernel_cost)
        costs = self._population.costs(in_channels, out_channels)
        latency_ms = self.calibration.latency_ms(self._sums(costs))
        return Prediction(latency_ms, latency_ms * self.calibration.relative_error)

    def breakdown(self, graph: OpGraph) -> NDArray[np.float64]:
        """(operators,) calibrated milliseconds of each; with a call and the rest they make the prediction.

        Reordering a tensor counts for the operator that needs it, and at an output for the one that made it.
        """
        warm_ms, cold_ms, weights_mb = self._costs(graph).T
        cold_share = self.calibration.cold_share(weights_mb.sum(keepdims=True))
        found: NDArray[np.float64] = self.calibration.scale * (warm_ms + cold_share * cold_ms)
        return found

    def _costs(self, graph: OpGraph) -> NDArray[np.float64]:
        """(operators, 3) of one network, as `Sheet` has them."""
        *each, leaving = [
            sum((np.array(self._kernel_cost(kernel)) for kernel in kernels), np.zeros(3))
            for kernels in lower(graph, self._runtime)
        ]
        if graph.outputs:
            each[graph.outputs[0]] = each[graph.outputs[0]] + leaving
        return np.array(each)

    def _sums(self, costs: NDArray[np.float64]) -> Sums:
        """(networks, 3) costs of all operators as sums, one call included."""
        return Sums(warm_ms=self._call_ms + costs[:, 0], cold_ms=costs[:, 1], weights_mb=costs[:, 2])

    def _look_up(self, kernel: OpSpec) -> Cost:
        """What a kernel adds to a network, uncalibrated."""
        warm_ms, cold_ms = self._alone_ms(kernel)
        more_ms = max(0.0, cold_ms - warm_ms - (self._cold_call_ms - self._call_ms))
        beyond_call_ms = max(warm_ms - self._call_ms, _LEAST_SHARE_OF_CALL * self._call_ms)
        return beyond_call_ms, more_ms, kernel.weights * self._bytes_per_weight / 1e6

    def _alone_ms(self, kernel: OpSpec) -> tuple[float, float]:
        """Warm and cold."""
        grid = self._kernels.get(kernel.family)
        if grid is None:
            same_kind = {str(family) for family in self._kernels if family.kind == kernel.kind}
            raise NotMeasuredError(
                f"the model runs {kernel}, a kernel that table {self.device.name!r} does not hold "
                f"(of its kind: {', '.join(sorted(same_kind)) or 'none'}); measure the device for this model"
            )
        if not grid.covers(kernel.in_channels, kernel.out_channels):
            near = min(
                grid.points,
                key=lambda point: abs(point[0] - kernel.in_channels) + abs(point[1] - kernel.out_channels),
            )
            raise NotMeasuredError(
                f"the model runs {kernel}, outside what table {self.device.name!r} holds; nearest measured "
                f"is {kernel.with_channels(*near)}: stay within measured widths, or measure the device again"
            )
        return grid.at(kernel.in_channels, kernel.out_channels)
