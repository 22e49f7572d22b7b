from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_models.calibrate import Sums, calibrate


def warm(*summed_ms: float) -> Sums:
    """Networks for which it makes no difference what lies in the cache."""
    return Sums(
        warm_ms=np.array(summed_ms), cold_ms=np.zeros(len(summed_ms)), weights_mb=np.ones(len(summed_ms))
    )


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=12), st.floats(0.5, 2))
def test_networks_that_are_all_off_by_one_factor_are_met_exactly(summed: list[float], factor: float) -> None:
    calibration = calibrate(warm(*summed), factor * np.array(summed), 0)
    assert calibration.scale == pytest.approx(factor)
    assert calibration.relative_error == pytest.approx(0, abs=1e-12)


def test_the_error_bar_is_the_largest_residual_of_a_network_left_out() -> None:
    calibration = calibrate(warm(1, 1, 1, 1), np.array([1.0, 1.0, 1.0, 1.2]), 0)
    assert calibration.scale == 1.0
    assert calibration.relative_error == pytest.approx(0.2)


@pytest.mark.parametrize(("networks", "coverage"), [(2, 2 / 3), (4, 0.8), (9, 0.9), (40, 0.9)])
def test_few_networks_vouch_for_less_than_ninety_percent(networks: int, coverage: float) -> None:
    assert calibrate(warm(*[1] * networks), np.ones(networks), 0).coverage == pytest.approx(coverage)


@pytest.mark.parametrize("networks", [9, 19, 40])
def test_error_bars_hold_as_often_as_they_say(networks: int) -> None:
    random = np.random.default_rng(0)
    held = []
    for _ in range(300):
        measured = np.exp(0.03 * random.standard_normal(networks + 1))
        calibration = calibrate(warm(*[1] * networks), measured[:-1], 0)
        held.append(abs(measured[-1] / calibration.scale - 1) <= calibration.relative_error)
    assert np.mean(held) == pytest.approx(0.9, abs=0.04)


def test_large_networks_pay_for_cold_weights_as_far_as_they_fill_the_cache() -> None:
    random = np.random.default_rng(0)
    weights_mb, warm_ms = random.uniform(1, 100, 12), random.uniform(1, 2, 12)
    sums = Sums(warm_ms=warm_ms, cold_ms=0.5 * warm_ms, weights_mb=weights_mb)
    measured_ms = 1.1 * warm_ms * (1 + 0.5 * np.minimum(1, weights_mb / 32))
    calibration = calibrate(sums, measured_ms, 32)
    assert calibration.scale == pytest.approx(1.1)
    assert calibration.latency_ms(sums) == pytest.approx(measured_ms)
    assert calibrate(sums, measured_ms, 8).relative_error > 0.01


def test_a_rest_that_every_network_pays_is_found() -> None:
    sums = warm(*np.linspace(1, 9, 9))
    calibration = calibrate(sums, 1.1 * sums.warm_ms + 0.7, 0)
    assert (calibration.scale, calibration.rest_ms) == pytest.approx((1.1, 0.7))
    assert calibration.relative_error == pytest.approx(0, abs=1e-9)


def test_a_rest_is_never_negative() -> None:
    sums = warm(*np.linspace(1, 9, 9))
    assert calibrate(sums, 1.1 * sums.warm_ms - 0.5, 0).rest_ms == 0


def test_where_no_cache_is_known_all_weights_are_warm() -> None:
    sums = Sums(warm_ms=np.arange(1.0, 9.0), cold_ms=np.ones(8), weights_mb=np.linspace(1, 100, 8))
    calibration = calibrate(sums, 1.2 * np.arange(1.0, 9.0), 0)
    assert calibration.latency_ms(sums) == pytest.approx(1.2 * np.arange(1.0, 9.0))


def test_one_network_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least two whole networks, not 1"):
        calibrate(warm(1), np.ones(1), 0)
