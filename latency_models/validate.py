"""How good a profile's predictions are, on whole networks that nothing was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwprofiles.files import MeasuredNetwork, Profile
from hwprofiles.ops import OpGraph
from hwprofiles.samples import Rounds
from latency_models.table import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Shares, 1.0 = 100 %. `mean_error` is the MAPE; `floor` the repeatability below which no error can be.

    `covered` is how many of the error bars hold the measured latency, and `coverage` how many should.
    """

    networks: int
    mean_error: float
    within_5: float
    within_10: float
    spearman: float
    covered: float
    coverage: float
    floor: float


def validate(profile: Profile) -> Validation | None:
    """Predict each held-out network with the table of its own model; `None` where none was held out.

    Raises:
        RequestError: the profile makes no table; see `LatencyTable.from_profile`.
    """
    predicted, holds, coverage = [], [], []
    measured = np.array([net.rounds.summary().latency_ms for net in profile.held_out])
    tables: dict[OpGraph, LatencyTable] = {}
    for net, whole_ms in zip(profile.held_out, measured, strict=True):
        outline = net.model
        if outline not in tables:
            tables[outline] = LatencyTable.from_profile(profile.of_model(outline))
        table = tables[outline]
        channels = np.array([(spec.in_channels, spec.out_channels) for spec in net.graph.operators]).T
        prediction = table.predict(net.graph, channels[:1], channels[1:])
        predicted.append(float(prediction.latency_ms[0]))
        holds.append(abs(predicted[-1] - whole_ms) <= prediction.error_ms[0])
        coverage.append(table.calibration.coverage)
    if not predicted:
        return None
    off = np.abs(np.array(predicted) / measured - 1)
    return Validation(
        networks=len(predicted),
        mean_error=float(off.mean()),
        within_5=float((off <= 0.05).mean()),
        within_10=float((off <= 0.10).mean()),
        spearman=spearman(np.array(predicted), measured),
        covered=float(np.mean(holds)),
        coverage=float(np.mean(coverage)),
        floor=repeatability(profile.held_out),
    )


def repeatability(networks: tuple[MeasuredNetwork, ...]) -> float:
    """How far two halves of the same rounds are apart, as a share and on average."""
    return float(np.mean([between_halves(net.rounds) for net in networks]))


def between_halves(rounds: Rounds) -> float:
    """How far the estimates from every other round are apart, as a share; 0 where there is one round."""
    times_ms = rounds.times_ms.reshape(1, -1, rounds.times_ms.shape[2])
    if times_ms.shape[1] < 2:
        return 0.0
    first, second = (Rounds(times_ms[:, half::2]).summary().latency_ms for half in (0, 1))
    return abs(first / second - 1)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Correlation of ranks, shared by equal values: 1 of a single pair, 0 where one says the same of all.

    Source: Spearman, The Proof and Measurement of Association between Two Things, 1904.
    """
    if len(first) < 2:
        return 1.0
    ranks = [
        np.searchsorted(np.sort(values), values) + np.searchsorted(np.sort(values), values, "right")
        for values in (first, second)
    ]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.asarray(np.corrcoef(ranks))[0, 1])
