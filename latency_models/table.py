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
from hwprofiles.lowering import lower, shape_of
from hwprofiles.ops import INPUT, OpGraph, OpSpec, Size
from hwprofiles.runtimes import CALL, PLAIN, Runtime
from latency_models.calibrate import Calibration, calibrate
from latency_models.interpolate import Grid
from latency_models.sheet import Sheet

Counts = NDArray[np.int64]

CHUNK = 8192
"""Candidates scored at a time: few enough for the caches, many enough to forget about Python."""
_LEAST_SHARE_OF_CALL = 0.1  # running a node is never free, even where timing it alone shows only the call


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """(candidates,) latency in milliseconds, and the half width of its error bar."""

    latency_ms: NDArray[np.float64]
    error_ms: NDArray[np.float64]


class LatencyTable:
    """Predicts networks on one device from its measured kernels.

    A network costs one call and, for each kernel that the runtime makes of it, what that takes beyond a call;
    calibration on whole networks scales the sum, and its error bar speaks for candidates like those networks.
    Between measured channel counts of a kernel it interpolates; beyond them, or for a kernel that was not
    measured, it raises.
    """

    def __init__(
        self, device: Device, runtime: Runtime, kernels: Mapping[OpSpec, Grid], calibration: Calibration
    ) -> None:
        """`kernels` maps a family of kernels to its latency alone; see `from_profile`."""
        self.device = device
        self.calibration = calibration
        self._runtime = runtime
        self._kernels = kernels
        self._call_ms = _call_ms(kernels, device)
        self._kernel_ms = cache(self._look_up_ms)
        self._sheets: dict[tuple[OpSpec | Size, str], Sheet] = {}
        self._ways: dict[tuple[str, str, str], int] = {}

    @classmethod
    def from_profile(cls, profile: Profile, runtime: Runtime) -> Self:
        """
        Raises:
            ProfileError: the profile lacks what a table needs: whole grids, and two or more networks.
            NotMeasuredError: a network in the profile runs a kernel that was not measured.
        """
        measured_ms: dict[OpSpec, dict[tuple[int, int], float]] = defaultdict(dict)
        for kernel, rounds in profile.kernels.items():
            measured_ms[kernel.family][kernel.in_channels, kernel.out_channels] = rounds.summary().latency_ms
        try:
            kernels = {family: Grid(points) for family, points in measured_ms.items()}
            unscaled = cls(
                profile.device,
                runtime,
                kernels,
                Calibration(scale=1, relative_error=0, coverage=0, networks=0),
            )
            summed_ms = np.array(
                [unscaled._call_ms + unscaled.breakdown(network.graph).sum() for network in profile.networks]
            )
            whole_ms = np.array([network.rounds.summary().latency_ms for network in profile.networks])
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

    def predict(self, graph: OpGraph, in_channels: Counts, out_channels: Counts) -> Prediction:
        """Score candidates of one network.

        Args:
            graph: the network with its n operators; their own channel counts do not matter.
            in_channels: (candidates, n) input channels of each operator in each candidate.
            out_channels: (candidates, n) output channels.

        Raises:
            NotMeasuredError: a kernel of a candidate lies outside what was measured.
        """
        chunks = [slice(start, start + CHUNK) for start in range(0, len(in_channels), CHUNK)]
        sums_ms = [self._sum_ms(graph, in_channels[chunk], out_channels[chunk]) for chunk in chunks]
        latency_ms = np.concatenate([np.zeros(0), *sums_ms]) * self.calibration.scale
        return Prediction(latency_ms, latency_ms * self.calibration.relative_error)

    def breakdown(self, graph: OpGraph) -> NDArray[np.float64]:
        """(operators,) calibrated milliseconds of each; with one call they add up to the prediction.

        Reordering a tensor counts for the operator that needs it, and at an output for the one that made it.
        """
        *each, leaving = [sum(map(self._kernel_ms, kernels)) for kernels in lower(graph, self._runtime)]
        found = np.array(each, dtype=np.float64)
        if graph.outputs:
            found[graph.outputs[0]] += leaving
        return found * self.calibration.scale

    def _sum_ms(self, graph: OpGraph, in_channels: Counts, out_channels: Counts) -> NDArray[np.float64]:
        """(candidates,) uncalibrated milliseconds: what `hwprofiles.lower` does, for a whole population.

        Where tensors lie is a position in the runtime's layouts: (candidates,), or (1,) if the same for all.
        """
        layouts = self._runtime.layouts
        lies: dict[int, NDArray[np.intp]] = {INPUT: np.array([layouts.index(PLAIN)])}
        reordered: dict[tuple[int, str], NDArray[np.bool_]] = {}
        total_ms = np.full(len(in_channels), self._call_ms)

        def bring(source: int, wanted: NDArray[np.intp], reader: int) -> None:
            """Add what reordering a tensor costs those candidates that want it so for the first time."""
            plain = layouts.index(PLAIN)
            for layout in (PLAIN, layouts[-1]):
                misses = (wanted == plain) == (layout == PLAIN)
                misses = misses & ((lies[source] == plain) != (layout == PLAIN))
                if not misses.any():
                    continue
                done = reordered.get((source, layout), np.array([False]))
                reordered[source, layout] = misses | done
                _, size = shape_of(graph, source, graph.operators[reader])
                channels = in_channels[:, reader] if source == INPUT else out_channels[:, source]
                rows = np.broadcast_to(misses & ~done, channels.shape)
                ms, _ = self._reorder_sheet(size, layout).look_up(channels[rows], channels[rows])
                total_ms[rows] += ms

        for position, spec in enumerate(graph.operators):
            joined = np.array([layouts.index(PLAIN)])
            if graph.joined(position):
                joined = np.minimum.reduce(np.broadcast_arrays(*(lies[s] for s in graph.joined(position))))
            ms, ways = self._run(spec, joined, in_channels[:, position], out_channels[:, position])
            reads, joins, lies[position] = np.array([*map(self._positions, self._ways)]).T[:, ways]
            total_ms += ms
            for source in graph.own(position):
                bring(source, reads, position)
            for source in graph.joined(position):
                bring(source, joins, position)
        for source in graph.outputs:
            bring(source, np.array([layouts.index(PLAIN)]), source)
        return total_ms

    def _run(
        self, spec: OpSpec, joined: NDArray[np.intp], ins: Counts, outs: Counts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(candidates,) milliseconds and ways of one operator, whose joined sources lie as `joined` says."""
        met = np.unique(joined)
        if len(met) == 1:
            return self._sheet(spec.family, self._runtime.layouts[met[0]]).look_up(ins, outs)
        ms, ways = np.empty(len(ins), dtype=np.float32), np.empty(len(ins), dtype=np.uint8)
        for position in met:
            rows = joined == position
            sheet = self._sheet(spec.family, self._runtime.layouts[position])
            ms[rows], ways[rows] = sheet.look_up(ins[rows], outs[rows])
        return ms, ways

    def _sheet(self, family: OpSpec, layout: str) -> Sheet:
        """Of an operator whose joined sources lie in `layout`."""

        def work_out(in_channels: int, out_channels: int) -> tuple[float, int]:
            lowered = self._runtime.lower(family.with_channels(in_channels, out_channels), layout)
            way = self._ways.setdefault(lowered[1:], len(self._ways))
            return sum(map(self._kernel_ms, lowered.kernels)), way

        return self._sheets.setdefault((family, layout), Sheet(work_out))

    def _reorder_sheet(self, size: Size, layout: str) -> Sheet:
        """Of bringing a tensor into `layout`."""

        def work_out(channels: int, _: int) -> tuple[float, int]:
            return self._kernel_ms(self._runtime.reorder(channels, size, layout)), 0

        return self._sheets.setdefault((size, layout), Sheet(work_out))

    def _positions(self, way: tuple[str, str, str]) -> list[int]:
        return [self._runtime.layouts.index(layout) for layout in way]

    def _look_up_ms(self, kernel: OpSpec) -> float:
        """What a kernel adds to a network, uncalibrated."""
        return max(self._alone_ms(kernel) - self._call_ms, _LEAST_SHARE_OF_CALL * self._call_ms)

    def _alone_ms(self, kernel: OpSpec) -> float:
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
        return grid.latency_ms(kernel.in_channels, kernel.out_channels)


def _call_ms(kernels: Mapping[OpSpec, Grid], device: Device) -> float:
    if CALL.family not in kernels:
        raise ProfileError(
            f"the profile of {device.name!r} lacks the cost of a call; measure the device again"
        )
    return kernels[CALL.family].latency_ms(CALL.in_channels, CALL.out_channels)
