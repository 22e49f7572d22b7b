"""What the sum of operators misses: one scale from whole networks, and how far off it still is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.9
"""The share of networks whose measured latency an error bar should hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`scale` makes a sum of operators a network; `relative_error` is the half width of the error bar.

    `coverage` is what the bar is known to hold: `COVERAGE`, or as much as so few networks can vouch for.
    """

    scale: float
    relative_error: float
    coverage: float
    networks: int


def calibrate(summed_ms: NDArray[np.float64], measured_ms: NDArray[np.float64]) -> Calibration:
    """Fit the scale and its error bar on whole networks.

    The scale is the median of measured / summed. For the error bar each network is predicted with the scale
    of all others; of those n relative residuals the ceil((n + 1) x 0.9)-th smallest is taken, which is the
    leave-one-out form of split-conformal prediction. Nine networks are the fewest that reach 90 %; with
    fewer the largest residual is taken, and it vouches for n / (n + 1) only.

    Args:
        summed_ms: (networks,) sums of their operators.
        measured_ms: (networks,) the same networks, measured whole.

    Raises:
        ValueError: fewer than two networks.

    Source: Barber et al., Predictive inference with the jackknife+, Annals of Statistics 49(1), 2021.
    """
    count = len(summed_ms)
    if count < 2:
        raise ValueError(f"calibration needs at least two whole networks, not {count}")
    ratios = measured_ms / summed_ms
    left_out = np.array([np.median(np.delete(ratios, index)) for index in range(count)])
    residuals = np.sort(np.abs(ratios / left_out - 1))
    rank = min(math.ceil((count + 1) * COVERAGE), count)
    return Calibration(
        scale=float(np.median(ratios)),
        relative_error=float(residuals[rank - 1]),
        coverage=min(COVERAGE, count / (count + 1)),
        networks=count,
    )
