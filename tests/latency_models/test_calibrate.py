from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_models.calibrate import calibrate


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=12), st.floats(0.5, 2))
def test_networks_that_are_all_off_by_one_factor_are_met_exactly(summed: list[float], factor: float) -> None:
    calibration = calibrate(np.array(summed), factor * np.array(summed))
    assert calibration.scale == pytest.approx(factor)
    assert calibration.relative_error == pytest.approx(0, abs=1e-12)


def test_the_error_bar_is_the_largest_residual_of_a_network_left_out() -> None:
    calibration = calibrate(np.ones(4), np.array([1.0, 1.0, 1.0, 1.2]))
    assert calibration.scale == 1.0
    assert calibration.relative_error == pytest.approx(0.2)


@pytest.mark.parametrize(("networks", "coverage"), [(2, 2 / 3), (4, 0.8), (9, 0.9), (40, 0.9)])
def test_few_networks_vouch_for_less_than_ninety_percent(networks: int, coverage: float) -> None:
    assert calibrate(np.ones(networks), np.ones(networks)).coverage == pytest.approx(coverage)


@pytest.mark.parametrize("networks", [9, 19, 40])
def test_error_bars_hold_as_often_as_they_say(networks: int) -> None:
    random = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        measured = np.exp(0.03 * random.standard_normal(networks + 1))
        calibration = calibrate(np.ones(networks), measured[:-1])
        held.append(abs(measured[-1] / calibration.scale - 1) <= calibration.relative_error)
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_one_network_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least two whole networks, not 1"):
        calibrate(np.ones(1), np.ones(1))
