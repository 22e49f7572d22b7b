"""What one inference takes in energy, learnt from those networks of a profile whose board told it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hwprofiles.files import MeasuredNetwork
from latency_models.calibrate import LEAST_FOR_A_REST, WORTH_IT, held_by_most

Array = NDArray[np.float64]

TERMS = ("rest", "latency_ms", "macs")
"""What energy may be made up of: the same for every network, power drawn while it runs, work done."""
LEAST_MJ, MOST_MJ = 1e-9, 1e12
"""Less, or more, than any inference takes: a sensor that has failed says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyModel:
    """Energy as a sum of `TERMS`, (3,) times in millijoules each, none below 0.

    `rail` is the one that the board told it of. `relative_error` is the half width of the error bar and
    `coverage` the share of networks that it is known to hold, as `Calibration` has them.
    """

    rail: str
    times: tuple[float, ...]
    relative_error: float
    coverage: float
    networks: int

    def energy_mj(self, latency_ms: Array, macs: Array) -> Array:
        """(candidates,) millijoules of one inference, a whole batch.

        Args:
            latency_ms: (candidates,) predicted.
            macs: (candidates,) of one sample.
        """
        found: Array = _terms(latency_ms, macs) @ np.array(self.times)
        return found


def fit_energy(networks: Sequence[MeasuredNetwork], predicted_ms: Array) -> EnergyModel | None:
    """Fit the energy of networks on the rail that takes most of it; None where fewer than two told theirs.

    Rails are not added up, as some contain others: on a board that tells what goes into it, that is the one.
    A rail of which fewer networks were told than of another, such as one that fails, is not looked at.
    Of all sums of `TERMS` with coefficients of least squared relative errors, none of them below 0, that one
    is taken by which networks are predicted best from all others; a further term has to be worth it. The
    error bar is that of those residuals, as in `calibrate`.

    Args:
        predicted_ms: (networks,) their latencies as the table predicts them, as it does for candidates.
    """
    told = defaultdict[str, dict[int, float]](dict)
    for row, network in enumerate(networks):
        for name, mj in network.mean_energy_mj.items():
            if LEAST_MJ <= mj <= MOST_MJ:
                told[name][row] = mj
    if not told:
        return None
    rail = max(sorted(told), key=lambda name: (len(told[name]), sum(told[name].values())))
    if len(told[rail]) < 2:
        return None
    rows = np.array(list(told[rail]), dtype=np.intp)
    measured_mj = np.array(list(told[rail].values()))
    macs = np.array([sum(op.macs for op in networks[row].graph.operators) for row in rows], dtype=np.float64)
    terms = _terms(predicted_ms[rows], macs)
    sums = [each for count in (1, 2, 3) for each in combinations(range(len(TERMS)), count)]
    if len(rows) < LEAST_FOR_A_REST:
        sums = [(TERMS.index("latency_ms"),)]
    residuals = {each: _left_out(terms[:, each], measured_mj) for each in sums}
    best = min(residuals, key=lambda each: float(residuals[each].mean()) + WORTH_IT * len(each))
    times = np.zeros(len(TERMS))
    times[list(best)] = _fit(terms[:, best], measured_mj)
    relative_error, coverage = held_by_most(residuals[best])
    return EnergyModel(
        rail=rail,
        times=tuple(times.tolist()),
        relative_error=relative_error,
        coverage=coverage,
        networks=len(rows),
    )


def _terms(latency_ms: Array, macs: Array) -> Array:
    """(networks, 3)"""
    return np.column_stack([np.ones_like(latency_ms), latency_ms, macs])


def _fit(terms: Array, measured_mj: Array) -> Array:
    """(terms,) coefficients of least squared relative errors, none below 0."""
    from scipy.optimize import nnls  # takes long to import

    scale = terms.max(axis=0)  # MACs are millions: all columns to the same size
    scale[scale == 0] = 1.0  # of networks without MACs: a term that is none has no part in the sum
    times, _ = nnls(terms / scale / measured_mj[:, None], np.ones_like(measured_mj))
    return np.asarray(times / scale)


def _left_out(terms: Array, measured_mj: Array) -> Array:
    """(networks,) how far each is, as a share, from what all others say of it."""
    found = []
    for index in range(len(terms)):
        others = np.arange(len(terms)) != index
        predicted_mj = float(terms[index] @ _fit(terms[others], measured_mj[others]))
        found.append(abs(measured_mj[index] - predicted_mj) / max(predicted_mj, 1e-12))
    return np.array(found)
