"""A profile made into a function: operators in, milliseconds with an error bar out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwprofiles.device import Device
from hwprofiles.errors import NotMeasuredError, ProfileError
from hwprofiles.files import Profile
from hwprofiles.ops import OpSpec
from hwprofiles.runtimes import CALL, Runtime
from latency_models.calibrate import Calibration, calibrate
from latency_models.interpolate import Grid

Counts = NDArray[np.int64]

_LEAST_SHARE_OF_CALL = 0.1  # running a node is never free, even where timing it alone shows only the call


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """(candidates,) latency in milliseconds, and the half width of its error bar."""

    latency_ms: NDArray[np.float64]
    error_ms: NDArray[np.float64]


class LatencyTable:
    """Predicts networks on one device from its measured operators.

    A network costs one call and, for each operator, what its kernel takes beyond a call; calibration on whole
    networks scales the sum, and its error bar speaks for candidates like those networks. Between measured
    channel counts of a kernel it interpolates; beyond them, or for a kernel that was not measured, it raises.
    """

    def __init__(
        self, device: Device, runtime: Runtime, kernels: Mapping[OpSpec, Grid], calibration: Calibration
    ) -> None:
        """`kernels` maps a canonical family to its latency alone; see `from_profile`."""
        self.device = device
        self.calibration = calibration
        self._runtime = runtime
        self._kernels = kernels
        self._call_ms = _call_ms(kernels, device)
        self._known_ms: dict[OpSpec, float] = {}

    @classmethod
    def from_profile(cls, profile: Profile, runtime: Runtime) -> Self:
        """
        Raises:
            ProfileError: the profile lacks what a table needs: whole grids, and two or more networks.
            NotMeasuredError: a network in the profile runs an operator that was not measured.
        """
        measured_ms: dict[OpSpec, dict[tuple[int, int], float]] = defaultdict(dict)
        for spec, rounds in profile.operators.items():
            measured_ms[spec.family][spec.in_channels, spec.out_channels] = rounds.summary().latency_ms
        try:
            kernels = {family: Grid(points) for family, points in measured_ms.items()}
            uncalibrated = cls(
                profile.device,
                runtime,
                kernels,
                Calibration(scale=1, relative_error=0, coverage=0, networks=0),
            )
            summed_ms = np.array([uncalibrated._sum_ms(net.operators) for net in profile.networks])
            whole_ms = np.array([net.rounds.summary().latency_ms for net in profile.networks])
            return cls(profile.device, runtime, kernels, calibrate(summed_ms, whole_ms))
        except ValueError as error:
            raise ProfileError(
                f"the profile of {profile.device.name!r} makes no table: {error}; measure the device again"
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

    def predict(self, operators: Sequence[OpSpec], in_channels: Counts, out_channels: Counts) -> Prediction:
        """Score candidates of one network.

        Args:
            operators: the network's n dense operators.
            in_channels: (candidates, n) input channels of each operator in each candidate.
            out_channels: (candidates, n) output channels.

        Raises:
            NotMeasuredError: an operator of a candidate lies outside what was measured.
        """
        ins, outs = in_channels.astype(np.int64), out_channels.astype(np.int64)
        total_ms = np.full(len(ins), self._call_ms)
        for column, spec in enumerate(operators):
            pairs, inverse = np.unique(ins[:, column] << 32 | outs[:, column], return_inverse=True)
            costs = [
                self._operator_ms(spec.with_channels(pair >> 32, pair & 0xFFFFFFFF))
                for pair in pairs.tolist()
            ]
            total_ms += np.array(costs)[inverse]
        latency_ms = total_ms * self.calibration.scale
        return Prediction(latency_ms, latency_ms * self.calibration.relative_error)

    def breakdown(self, operators: Sequence[OpSpec]) -> NDArray[np.float64]:
        """(operators,) calibrated milliseconds of each; with one call they add up to the prediction."""
        return np.array([self._operator_ms(spec) for spec in operators]) * self.calibration.scale

    def _sum_ms(self, operators: Sequence[OpSpec]) -> float:
        return self._call_ms + sum(self._operator_ms(spec) for spec in operators)

    def _operator_ms(self, spec: OpSpec) -> float:
        """What the operator adds to a network, uncalibrated; remembered, as candidates repeat operators."""
        if spec not in self._known_ms:
            alone_ms = self._kernel_ms(spec)
            self._known_ms[spec] = max(alone_ms - self._call_ms, _LEAST_SHARE_OF_CALL * self._call_ms)
        return self._known_ms[spec]

    def _kernel_ms(self, spec: OpSpec) -> float:
        lowered = self._runtime.canon(spec)
        grid = self._kernels.get(lowered.family)
        if grid is None:
            same_kind = {str(family) for family in self._kernels if family.kind == lowered.kind}
            raise NotMeasuredError(
                f"{spec} runs as {lowered}, a kernel that table {self.device.name!r} does not hold "
                f"(of its kind: {', '.join(sorted(same_kind)) or 'none'}); measure the device for this model"
            )
        if not grid.covers(lowered.in_channels, lowered.out_channels):
            near = min(
                grid.points,
                key=lambda point: abs(point[0] - lowered.in_channels) + abs(point[1] - lowered.out_channels),
            )
            raise NotMeasuredError(
                f"{spec} runs as {lowered}, outside what table {self.device.name!r} holds; nearest measured "
                f"is {lowered.with_channels(*near)}: stay within measured widths, or measure the device again"
            )
        return grid.latency_ms(lowered.in_channels, lowered.out_channels)


def _call_ms(kernels: Mapping[OpSpec, Grid], device: Device) -> float:
    if CALL.family not in kernels:
        raise ProfileError(
            f"the profile of {device.name!r} lacks the cost of a call; measure the device again"
        )
    return kernels[CALL.family].latency_ms(CALL.in_channels, CALL.out_channels)
