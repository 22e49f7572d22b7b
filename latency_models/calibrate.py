"""What the sum of kernels misses, learnt from whole networks: cold weights, a scale, a rest; how far off."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.9
"""The share of networks whose measured latency an error bar should hold."""
WORTH_IT = 0.002
"""A rest is believed in if predictions are that much better with it, as a share."""

LEAST_FOR_A_REST = 4

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the kernels of networks come to, (networks,) each.

    `warm_ms` with all data in the caches, `cold_ms` how much more with none, `weights_mb` what they read.
    """

    warm_ms: Array
    cold_ms: Array
    weights_mb: Array

    def __getitem__(self, rows: NDArray[np.intp] | slice) -> Sums:
        return Sums(warm_ms=self.warm_ms[rows], cold_ms=self.cold_ms[rows], weights_mb=self.weights_mb[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Makes a sum of kernels a network.

    A kernel timed alone, again and again, finds its weights in the cache; in a network, whose other weights
    have passed through since, it finds only some of them. So a network pays for a share of its kernels' cold
    starts: that of its weights in the device's cache, all of it once they fill it (`cache_mb`; 0 where the
    device does not tell, and then for none). `scale` multiplies the sum; `rest_ms` is what comes on top in
    every candidate, such as shape arithmetic that no kernel stands for.

    `relative_error` is the half width of the error bar; `coverage` is what that is known to hold: `COVERAGE`,
    or as much as so few networks can vouch for.
    """

    scale: float
    cache_mb: float
    rest_ms: float
    relative_error: float
    coverage: float
    networks: int

    def latency_ms(self, sums: Sums) -> Array:
        """(networks,) milliseconds."""
        whole_ms = sums.warm_ms + self.cold_share(sums.weights_mb) * sums.cold_ms
        return self.rest_ms + self.scale * whole_ms

    def cold_share(self, weights_mb: Array) -> Array:
        """(networks,) the part of its kernels' cold starts that each network of so many weights pays for."""
        share: Array = np.minimum(1.0, weights_mb / (self.cache_mb or math.inf))
        return share


UNCALIBRATED = Calibration(scale=1, cache_mb=0, rest_ms=0, relative_error=0, coverage=0, networks=0)


def calibrate(sums: Sums, measured_ms: Array, cache_mb: float) -> Calibration:
    """Fit scale, rest and error bar on whole networks.

    Without a rest the scale is the median of measured / summed; with one both are those of least squared
    relative errors. There is one if that makes the mean error less.

    For the error bar each network is predicted with what is fitted to all others; of those n relative
    residuals the ceil((n + 1) x 0.9)-th smallest is taken, which is the leave-one-out form of split-conformal
    prediction. Nine networks are the fewest that reach 90 %; with fewer the largest residual is taken, and it
    vouches for n / (n + 1) only.

    Args:
        measured_ms: (networks,) the same networks, measured whole.

    Raises:
        ValueError: fewer than two networks.

    Source: Barber et al., Predictive inference with the jackknife+, Annals of Statistics 49(1), 2021.
    """
    count = len(measured_ms)
    if count < 2:
        raise ValueError(f"calibration needs at least two whole networks, not {count}")
    residuals = []
    for index in range(count):
        others = np.delete(np.arange(count, dtype=np.intp), index)
        left_out = _fit(sums[others], measured_ms[others], cache_mb)
        predicted_ms = left_out.latency_ms(sums[index : index + 1])[0]
        residuals.append(abs(measured_ms[index] / predicted_ms - 1))
    relative_error, coverage = held_by_most(np.array(residuals))
    return replace(_fit(sums, measured_ms, cache_mb), relative_error=relative_error, coverage=coverage)


def held_by_most(values: Array) -> tuple[float, float]:
    """What a further value stays below, as (n,) exchangeable ones tell, and how surely: see `calibrate`."""
    count = len(values)
    rank = min(math.ceil((count + 1) * COVERAGE), count)
    return float(np.sort(values)[rank - 1]), min(COVERAGE, count / (count + 1))


def _fit(sums: Sums, measured_ms: Array, cache_mb: float) -> Calibration:
    """The calibration of least mean error, with a rest only where that is worth it."""
    unscaled = replace(UNCALIBRATED, cache_mb=cache_mb)
    whole_ms = unscaled.latency_ms(sums)
    fits: list[tuple[float, Calibration]] = []
    for scale, rest_ms in ((float(np.median(measured_ms / whole_ms)), 0.0), _line(whole_ms, measured_ms)):
        if scale > 0 and rest_ms >= 0:
            fit = replace(unscaled, scale=scale, rest_ms=rest_ms)
            error = float(np.abs(fit.latency_ms(sums) / measured_ms - 1).mean())
            fits.append((error + WORTH_IT * (rest_ms > 0), fit))
    _, best = min(fits, key=lambda found: found[0])
    return replace(best, networks=len(measured_ms))


def _line(whole_ms: Array, measured_ms: Array) -> tuple[float, float]:
    """Slope and constant of least squared relative errors."""
    if len(measured_ms) < LEAST_FOR_A_REST:
        return 0.0, 0.0
    columns = np.stack([whole_ms, np.ones_like(whole_ms)], axis=1) / measured_ms[:, None]
    (slope, constant), *_ = np.linalg.lstsq(columns, np.ones_like(measured_ms))
    return float(slope), float(constant)
