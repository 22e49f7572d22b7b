"""A profile made into a function: networks in, milliseconds with an error bar out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwprofiles.device import Device
from hwprofiles.errors import ProfileError
from hwprofiles.files import Profile
from hwprofiles.lowering import lower
from hwprofiles.ops import INPUT, OpGraph
from hwprofiles.runtimes import Lowering, lowering_of
from latency_models.calibrate import UNCALIBRATED, Calibration, Sums, calibrate, held_by_most
from latency_models.energy import EnergyModel, fit_energy
from latency_models.kernels import KernelCosts
from latency_models.population import Population

Counts = NDArray[np.int64]


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
    measured, it raises. It keeps what it has worked out of operators: one thread at a time.
    """

    def __init__(
        self,
        rules: Lowering,
        kernels: KernelCosts,
        calibration: Calibration,
        tail: float = 1.0,
        energy: EnergyModel | None = None,
    ) -> None:
        """See `from_profile`.

        Args:
            tail: the 99th percentile of a network's runs as a multiple of its latency.
            energy: None where the board told none.
        """
        self.device = kernels.device
        self.calibration = calibration
        self.tail, self.energy = tail, energy
        self._rules = rules
        self._kernels = kernels
        self._population = Population(rules, kernels)

    @classmethod
    def from_profile(cls, profile: Profile) -> Self:
        """Fit everything to the profile's networks.

        The tail is one that nine networks in ten stay below: a network's own 99th percentile comes from a
        hundred runs, so it is a matter of a few disturbances, and which networks meet them is chance.

        Raises:
            ProfileError: the profile lacks what a table needs: the cost of a call, and two or more networks.
                One that was imported does without, and without them it has no error bar.
            NotMeasuredError: a network in the profile runs a kernel that was not measured.
            RequestError: the runtime of its device is not known.
        """
        rules = lowering_of(profile.device)
        try:
            kernels = KernelCosts(profile.device, profile.kernels)
            uncalibrated = cls(rules, kernels, UNCALIBRATED)
            if "source" in profile.device.versions and len(profile.networks) < 2:
                return uncalibrated
            costs = np.array([uncalibrated._costs(network.graph).sum(axis=0) for network in profile.networks])
            sums = uncalibrated._sums(costs.reshape(-1, 3))
            whole = [network.rounds.summary() for network in profile.networks]
            whole_ms = np.array([each.latency_ms for each in whole])
            calibration = calibrate(sums, whole_ms, profile.device.cache_mb)
            tail, _ = held_by_most(np.array([each.p99_ms for each in whole]) / whole_ms)
            energy = fit_energy(profile.networks, calibration.latency_ms(sums))
            return cls(rules, kernels, calibration, tail, energy)
        except ValueError as error:
            raise ProfileError(
                f"the profile of {profile.device.name!r} makes no table: {error}; measure it again"
            ) from error

    @property
    def nbytes(self) -> int:
        """Memory that scoring takes, in bytes; grows with the operators and counts that were met."""
        return self._population.nbytes

    def check(self, device: Device) -> None:
        """Refuse to speak for another device.

        Raises:
            ProfileError: the identity of `device` is not the one that was measured.
        """
        if differing := self.device.unlike(device):
            raise ProfileError(
                f"the profile of {self.device.name!r} was measured with {differing}; "
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
            ValueError: a channel count below 1.
        """
        if not len(in_channels):
            return Prediction(np.zeros(0), np.zeros(0))
        if min(in_channels.min(), out_channels.min()) < 1:
            raise ValueError("a candidate has an operator of less than one channel")
        costs = self._population.costs(graph, in_channels, out_channels)
        latency_ms = self.calibration.latency_ms(self._sums(costs))
        return Prediction(latency_ms, latency_ms * self.calibration.relative_error)

    def breakdown(self, graph: OpGraph) -> NDArray[np.float64]:
        """(operators,) calibrated milliseconds of each; with a call and the rest they make the prediction.

        Reordering a tensor counts for the operator that needs it; what the outputs need, for the one
        that makes the first of them.
        """
        warm_ms, cold_ms, weights_mb = self._costs(graph).T
        cold_share = self.calibration.cold_share(weights_mb.sum(keepdims=True))
        found: NDArray[np.float64] = self.calibration.scale * (warm_ms + cold_share * cold_ms)
        return found

    def _costs(self, graph: OpGraph) -> NDArray[np.float64]:
        """(operators, 3) of one network, as `KernelCosts` has them."""
        *each, leaving = [
            sum((self._kernels.of(kernel) for kernel in kernels), np.zeros(3))
            for kernels in lower(graph, self._rules)
        ]
        for source in [source for source in graph.outputs if source != INPUT][:1]:
            each[source] = each[source] + leaving
        return np.array(each)

    def _sums(self, costs: NDArray[np.float64]) -> Sums:
        """(networks, 3) costs of all operators as sums, one call included."""
        return Sums(warm_ms=self._kernels.call_ms + costs[:, 0], cold_ms=costs[:, 1], weights_mb=costs[:, 2])
