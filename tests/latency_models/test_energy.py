"""Energy fitted to networks whose board told it: terms that are there are found, the error bar holds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hwprofiles import MeasuredNetwork, OpSpec
from hwprofiles.ops import INPUT, OpGraph
from hwprofiles.samples import Rounds
from latency_models.energy import EnergyModel, fit_energy

MACS, LATENCY_MS = np.array([1, 7, 3, 20, 5, 12, 9, 2, 16, 4]) * 1e6, np.linspace(1.0, 4.0, 10)
NOTHING = OpGraph(
    operators=(OpSpec(kind="relu", in_channels=1, out_channels=1),), sources=((INPUT,),), outputs=(0,)
)
"""A network that multiplies nothing."""


def network(macs: float, **energy_mj: float) -> MeasuredNetwork:
    """One linear layer of so many MACs, with what its board told of it."""
    layer = OpSpec(kind="linear", in_channels=1, out_channels=int(macs))
    graph = OpGraph(operators=(layer,), sources=((INPUT,),), outputs=(0,))
    told = (energy_mj,) if energy_mj else ()
    return MeasuredNetwork(name="net", graph=graph, rounds=Rounds(np.ones((1, 1, 4))), energy_mj=told)


def fitted(energy_mj: NDArray[np.float64]) -> EnergyModel:
    networks = [network(macs, VDD_IN=mj) for macs, mj in zip(MACS, energy_mj.tolist(), strict=True)]
    model = fit_energy(networks, LATENCY_MS[: len(networks)])
    assert model
    return model


@pytest.mark.parametrize("times", [(0.0, 5.0, 0.0), (2.0, 5.0, 0.0), (0.0, 5.0, 1e-6), (2.0, 5.0, 1e-6)])
def test_terms_that_are_there_are_found_and_no_others(times: tuple[float, float, float]) -> None:
    model = fitted(times[0] + times[1] * LATENCY_MS + times[2] * MACS)
    assert model.times == pytest.approx(times, abs=1e-12)
    assert model.relative_error == pytest.approx(0, abs=1e-9)
    assert model.energy_mj(np.array([2.0]), np.array([1e6]))[0] == pytest.approx(
        times[0] + 2 * times[1] + 1e6 * times[2]
    )


def test_no_term_is_ever_negative() -> None:
    model = fitted(30 - 5 * LATENCY_MS)
    assert min(model.times) >= 0
    assert model.relative_error > 0.1


def test_the_error_bar_holds_nine_networks_in_ten() -> None:
    random, held = np.random.default_rng(0), []
    for _ in range(60):
        energy_mj = (2 + 5 * LATENCY_MS) * np.exp(0.05 * random.standard_normal(10))
        model = fitted(energy_mj)
        latency_ms = random.uniform(1, 4, 20)
        real_mj = (2 + 5 * latency_ms) * np.exp(0.05 * random.standard_normal(20))
        off = real_mj / model.energy_mj(latency_ms, random.uniform(1e6, 2e7, 20)) - 1
        held.append(np.abs(off) <= model.relative_error)
    assert np.mean(held) == pytest.approx(0.9, abs=0.05)


def test_the_rail_that_takes_most_counts_and_networks_without_it_do_not() -> None:
    networks = [
        network(1e6, VDD_CPU=1.0, VDD_IN=4.0),
        network(2e6, VDD_CPU=2.0, VDD_IN=8.0),
        network(3e6, VDD_CPU=50.0),
        network(4e6),
    ]
    model = fit_energy(networks, np.array([1.0, 2.0, 3.0, 4.0]))
    assert model
    assert (model.rail, model.networks) == ("VDD_CPU", 3)
    told = [*networks[:2], *networks[3:]]
    model = fit_energy(told, np.array([1.0, 2.0, 4.0]))
    assert model
    assert (model.rail, model.times) == ("VDD_IN", pytest.approx((0.0, 4.0, 0.0)))


def test_a_board_that_told_less_than_two_networks_has_no_energy_model() -> None:
    assert fit_energy([network(1e6), network(2e6)], np.ones(2)) is None
    assert fit_energy([network(1e6, VDD_IN=3.0), network(2e6)], np.ones(2)) is None


def test_networks_without_macs_have_an_energy_model_all_the_same() -> None:
    told = [replace(network(1, VDD_IN=5.0 * ms), graph=NOTHING) for ms in LATENCY_MS.tolist()]
    model = fit_energy(told, LATENCY_MS)
    assert model
    assert model.times == pytest.approx((0.0, 5.0, 0.0))
    assert model.relative_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("failed", [0.0, 1e-320, 1e308, math.inf, math.nan])
def test_what_no_inference_can_take_is_not_fitted_to(failed: float) -> None:
    good = [network(macs, VDD_IN=5 * ms) for macs, ms in zip(MACS, LATENCY_MS.tolist(), strict=True)]
    model = fit_energy([network(1e6, VDD_IN=failed), *good], np.array([1.0, *LATENCY_MS]))
    assert model
    assert (model.times, model.networks) == (pytest.approx((0.0, 5.0, 0.0), abs=1e-12), 10)


def test_a_rail_that_few_networks_were_told_of_counts_behind_one_that_all_were() -> None:
    networks = [network(macs, CPU=5 * ms) for macs, ms in zip(MACS, LATENCY_MS.tolist(), strict=True)]
    networks[0] = replace(networks[0], energy_mj=({"CPU": 5.0, "VDD_IN": 1000.0},))
    model = fit_energy(networks, LATENCY_MS)
    assert model
    assert (model.rail, model.networks) == ("CPU", 10)
