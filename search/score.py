"""Facts × table → scores, fronts and costs: arithmetic, derived anew whenever it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from latency_models import EnergyModel, LatencyTable
from search.budget import Cost
from search.job import CostKind
from search.pareto import front_mask, hypervolume
from trials.candidate import Candidate, Counts, Trial, as_counts
from trials.costs import Costs
from trials.memory import Memory

CHUNK = 8192
"""Candidates scored at a time: few enough for the caches, many enough to forget about Python."""


@dataclass(frozen=True, slots=True)
class Score:
    """One candidate on one device; the error bar is the table's 90 % one."""

    latency_ms: float
    error_ms: float


@dataclass(frozen=True, slots=True)
class Scorer:
    """What candidates of one model cost on one device."""

    costs: Costs
    table: LatencyTable

    def latency(self, counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(candidates,) predicted milliseconds and their error bars."""
        latency_ms, error_ms = np.empty((2, len(counts)))
        for start in range(0, len(counts), CHUNK):
            chunk = slice(start, start + CHUNK)
            for rows, variant in self.costs.variants(counts[chunk]):
                prediction = self.table.predict(variant.op_graph, *variant.channels(counts[chunk][rows]))
                latency_ms[chunk][rows], error_ms[chunk][rows] = prediction.latency_ms, prediction.error_ms
        return latency_ms, error_ms

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        latency_ms, error_ms = self.latency(as_counts(candidates))
        return [Score(*pair) for pair in zip(latency_ms.tolist(), error_ms.tolist(), strict=True)]

    def cost(self, kind: CostKind) -> Cost:
        """The cost that a budget of this kind limits; what is predicted counts with its whole error bar.

        Raises:
            RequestError: energy is asked for, and the device told none.
        """

        def upper_latency(counts: Counts) -> NDArray[np.float64]:
            latency_ms, error_ms = self.latency(counts)
            return latency_ms + error_ms

        def upper_p99(counts: Counts) -> NDArray[np.float64]:
            return self.table.tail * upper_latency(counts)

        def upper_energy(counts: Counts) -> NDArray[np.float64]:
            latency_ms, _ = self.latency(counts)
            return energy.energy_mj(latency_ms, self.costs.macs(counts)) * (1 + energy.relative_error)

        match kind:
            case "latency_ms":
                return upper_latency
            case "latency_p99_ms":
                return upper_p99
            case "energy_mj":
                energy = told_energy(self.table)
                return upper_energy
        return counted(self.costs, self.table.device.batch)[kind]

    def dense(self, kind: CostKind, dense_ms: float) -> float:
        """What percentages of a kind are of: what the dense model costs, predicted without an error bar.

        Args:
            dense_ms: its latency as it was measured.
        """
        counts = self.costs.coupling.space().sizes[None]
        match kind:
            case "latency_ms":
                return dense_ms
            case "latency_p99_ms":
                return self.table.tail * dense_ms
            case "energy_mj":
                energy = told_energy(self.table)
                return float(energy.energy_mj(np.array([dense_ms]), self.costs.macs(counts))[0])
        return float(self.cost(kind)(counts)[0])

    def front(self, trials: Sequence[Trial], merits: Sequence[float]) -> list[bool]:
        """Which finished trials no other beats on merit and predicted latency."""
        if not trials:
            return []
        return [bool(on) for on in front_mask(self._points(trials, merits))]

    def hypervolume(self, trials: Sequence[Trial], merits: Sequence[float], dense_ms: float) -> float:
        """Of (1 - merit, latency over dense) up to (1, 1): 1.0 is a perfect model that takes no time."""
        if not trials:
            return 0.0
        points = self._points(trials, merits)
        points[:, 1] /= dense_ms
        return hypervolume(points, np.array([1.0, 1.0]))

    def _points(self, trials: Sequence[Trial], merits: Sequence[float]) -> NDArray[np.float64]:
        latency_ms, _ = self.latency(as_counts([trial.candidate for trial in trials]))
        return np.column_stack([1 - np.asarray(merits), latency_ms])


def features(scorer: Scorer) -> NDArray[np.float64]:
    """(groups, 5) what a controller is told of each group: place, size, width, shares of MACs and latency."""
    groups = scorer.costs.coupling.groups
    breakdown = scorer.table.breakdown(scorer.costs.op_graph)
    latency_share = scorer.costs.touched @ breakdown / breakdown.sum()
    sizes = np.log([group.size * group.width for group in groups])
    return np.column_stack(
        [
            np.linspace(-1, 1, len(groups)),
            sizes / sizes.max(initial=1.0),
            [float(group.kind == "heads") for group in groups],
            scorer.costs.macs_shares(),
            latency_share,
        ]
    )


def counted(costs: Costs, batch: int) -> Mapping[CostKind, Cost]:
    """The kinds that shapes alone tell, before anything is measured.

    Args:
        batch: of the device, whose activations are in its memory at once.
    """
    memory = Memory(costs)

    def size_bytes(counts: Counts) -> NDArray[np.float64]:
        return memory.weight_bytes(counts).astype(np.float64)

    def memory_bytes(counts: Counts) -> NDArray[np.float64]:
        return size_bytes(counts) + memory.peak_bytes(counts, batch=batch)

    return {
        "macs": costs.macs,
        "parameters": costs.parameters,
        "size_bytes": size_bytes,
        "memory_bytes": memory_bytes,
    }


def told_energy(table: LatencyTable) -> EnergyModel:
    """The energy model of a table.

    Raises:
        RequestError: its device told no energy.
    """
    if table.energy is None:
        raise no_energy(f"{table.device.name!r} told no energy while it was measured")
    return table.energy


def no_energy(found: str) -> RequestError:
    """The error where energy is limited and none is told.

    Args:
        found: that, in words.
    """
    return RequestError(
        f"{found}, so nothing can be limited by it; leave energy out, or measure on a board that has power "
        "rails this user may read"
    )


class FrontSoFar:
    """The front of trials that come one after another: keeping it up costs as much as it is long.

    Args:
        device: whose front it is, where a job has several.
    """

    def __init__(self, scorer: Scorer, dense_ms: float, device: str = "") -> None:
        self.scorer, self.dense_ms = scorer, dense_ms
        self._called = f"the front of {device}" if device else "the front"
        self.trials: list[Trial] = []
        self._points = np.zeros((0, 2))
        """(trials, 2) what merit lacks, and latency over that of the dense model."""
        self._told = ""

    def add(self, trial: Trial, merit: float) -> str:
        """Take in one more trial; returns how many are on the front now, and its hypervolume."""
        [latency_ms], _ = self.scorer.latency(as_counts([trial.candidate]))
        point = np.array([1 - merit, latency_ms / self.dense_ms])
        beaten = (self._points <= point).all(axis=1) & (self._points < point).any(axis=1)
        if not beaten.any():
            points = np.vstack([self._points, point])
            on_front = front_mask(points)
            self._points = points[on_front]
            self.trials = [one for one, on in zip([*self.trials, trial], on_front, strict=True) if on]
            volume = hypervolume(self._points, np.ones(2))
            self._told = f"{len(self.trials)} on {self._called} (hypervolume {volume:.3f})"
        return self._told
