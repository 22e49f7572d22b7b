"""Validation on networks whose latencies are known, and so the errors that it must find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from hwprofiles import MeasuredNetwork, OpGraph, Profile, Rounds
from latency_models import validate
from latency_models.validate import between_halves, spearman
from tests.latency_models.test_table import PROFILE, network_ms, rounds_of, widened

VALUES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12)


def held_out(*off: float) -> tuple[MeasuredNetwork, ...]:
    """Networks that take longer than the table says, each by a share of its own."""
    networks = [widened(16 + 8 * index, 48) for index in range(len(off))]
    return tuple(
        MeasuredNetwork(name=str(index), graph=graph, rounds=rounds_of(network_ms(graph) * (1 + share)))
        for index, (graph, share) in enumerate(zip(networks, off, strict=True))
    )


def calibrated_with_error(profile: Profile) -> Profile:
    """Two calibration networks 6 % apart: the error bar is that wide."""
    first, second = profile.networks
    return replace(
        profile, networks=(first, replace(second, rounds=rounds_of(network_ms(second.graph) * 1.06)))
    )


def test_a_perfect_table_is_found_perfect() -> None:
    found = validate(replace(PROFILE, held_out=held_out(0, 0, 0)))
    assert found is not None
    assert found.networks == 3
    assert found.mean_error == pytest.approx(0, abs=1e-6)
    assert (found.within_5, found.within_10, found.floor) == (1, 1, 0)
    assert found.spearman == pytest.approx(1)


def test_errors_are_shares_of_what_was_measured() -> None:
    found = validate(replace(PROFILE, held_out=held_out(0, 1 / 0.96 - 1, 1 / 0.92 - 1, 1 / 0.8 - 1)))
    assert found is not None
    assert found.mean_error == pytest.approx((0.04 + 0.08 + 0.2) / 4, abs=1e-5)
    assert (found.within_5, found.within_10) == (0.5, 0.75)


def test_the_share_of_error_bars_that_hold_stands_beside_the_share_that_should() -> None:
    profile = replace(calibrated_with_error(PROFILE), held_out=held_out(0.03, 0.03, 0.5, -0.5))
    found = validate(profile)
    assert found is not None
    assert (found.covered, found.coverage) == (0.5, pytest.approx(2 / 3))


def test_each_network_is_predicted_with_the_networks_of_its_own_model() -> None:
    def shrunk(graph: OpGraph) -> OpGraph:
        """Another model of the same kernels: its last layer is not there."""
        return OpGraph(operators=graph.operators[:-1], sources=graph.sources[:-1], outputs=(3,))

    others = tuple(
        replace(net, graph=shrunk(net.graph), rounds=rounds_of(2 * network_ms(shrunk(net.graph))))
        for net in (*PROFILE.networks, *held_out(0))
    )
    profile = replace(PROFILE, networks=PROFILE.networks + others[:-1], held_out=(*held_out(0), others[-1]))
    found = validate(profile)
    assert found is not None
    assert found.mean_error == pytest.approx(0, abs=1e-6)


def test_without_networks_held_out_there_is_nothing_to_say() -> None:
    assert validate(PROFILE) is None


def test_the_floor_is_how_far_every_other_round_is_apart() -> None:
    times_ms = np.repeat([[[2.0], [1.0]] * 4], 3, axis=2)
    assert between_halves(Rounds(times_ms)) == pytest.approx(1.0)
    assert between_halves(Rounds(np.ones((1, 1, 3)))) == 0


@given(VALUES)
def test_ranks_are_correlated_as_others_do_it(values: list[tuple[int, int]]) -> None:
    first, second = np.array(values, dtype=np.float64).T
    found = spearman(first, second)
    if min(np.ptp(first), np.ptp(second)) == 0:
        assert found == 0
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic)
