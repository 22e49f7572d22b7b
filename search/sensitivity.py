"""How much each group matters: divergence from the dense model with that group alone pruned, by its count.

Measured once for a job, on held-out data, after repair. From it a candidate's loss is estimated before it is
tried: to first order, what groups cost the model adds up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trials.candidate import Axis, Candidate, Space

POINTS = 3
"""Counts of a group that are measured; the loss of a whole one is known."""

Losses = Sequence[NDArray[np.float64]]
"""Of each axis, (allowed counts,) divergence in nats; infinite where nothing so narrow can be made real."""


def parts(space: Space, losses: Losses, candidate: Candidate) -> NDArray[np.float64]:
    """(groups,) what each count of a candidate costs the model alone."""
    counts = zip(space.axes, losses, candidate.kept, strict=True)
    return np.array([loss[np.searchsorted(axis.allowed, kept)] for axis, loss, kept in counts])


@dataclass(frozen=True, slots=True)
class Probe:
    """One group pruned to one count, all others whole."""

    group: str
    kept: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Group → kept units → divergence in nats, infinite where that could not be made real."""

    measured: Mapping[str, Mapping[int, float]]

    def losses(self, space: Space) -> Losses:
        """At every allowed count of every axis; they never rise with the count."""
        return [self._of(axis) for axis in space.axes]

    def _of(self, axis: Axis) -> NDArray[np.float64]:
        found = {**self.measured.get(axis.name, {}), axis.size: 0.0}
        counts = np.array(sorted(found))
        # What gets worse with more units is noise.
        divergence = np.maximum.accumulate([max(0.0, found[kept]) for kept in counts[::-1].tolist()])[::-1]
        # Loss grows about with the square of what is gone: its root is what is nearly straight.
        finite = np.isfinite(divergence)
        losses = np.interp(axis.allowed, counts[finite], np.sqrt(divergence[finite])) ** 2
        return np.where(axis.allowed < counts[finite][0], math.inf, losses)


def probes(space: Space) -> list[Probe]:
    """What is measured of each group: its lowest count, and others evenly up to the whole of it."""
    found = []
    for index, axis in enumerate(space.axes):
        below = axis.allowed[:-1].tolist()
        places = np.linspace(0, len(below), POINTS, endpoint=False).astype(int).tolist() if below else []
        for kept in sorted({below[place] for place in places}):
            counts = list(space.dense.kept)
            counts[index] = kept
            found.append(Probe(axis.name, kept, Candidate(tuple(counts))))
    return found
