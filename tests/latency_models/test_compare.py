"""Two profiles of made-up latencies: what moved is told, what only trembles is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwprofiles import Profile, Rounds
from hwprofiles.runtimes import CALL
from latency_models.compare import compare
from tests.latency_models.test_table import CORNER, PROFILE


def trembling(profile: Profile, share: float) -> Profile:
    """Every other round is slower by `share`."""
    factors = np.tile([1.0, 1 + share], 4).reshape(1, 8, 1)

    def shaken(rounds: Rounds) -> Rounds:
        return Rounds(rounds.times_ms[:, :1] * factors)

    return replace(
        profile,
        kernels={kernel: shaken(rounds) for kernel, rounds in profile.kernels.items()},
        networks=tuple(replace(net, rounds=shaken(net.rounds)) for net in profile.networks),
    )


def slower_corner(profile: Profile, factor: float) -> Profile:
    rounds = Rounds(profile.kernels[CORNER].times_ms * factor)
    return replace(profile, kernels={**profile.kernels, CORNER: rounds})


def test_equal_profiles_differ_in_nothing() -> None:
    found = compare(PROFILE, PROFILE)
    assert found.shared == len(PROFILE.kernels) + len(PROFILE.networks)
    assert (found.only_before, found.only_after, found.median_change, found.moved) == (0, 0, 0, ())


def test_what_moved_is_named_with_how_much() -> None:
    (move,) = compare(PROFILE, slower_corner(PROFILE, 1.2)).moved
    assert move.name == str(CORNER)
    assert move.change == pytest.approx(0.2)


@pytest.mark.parametrize(("tremble", "moved"), [(0.04, 1), (0.2, 0)])
def test_a_change_counts_only_beyond_the_noise_of_both(tremble: float, moved: int) -> None:
    before, after = trembling(PROFILE, tremble), slower_corner(trembling(PROFILE, tremble), 1.2)
    assert len(compare(before, after).moved) == moved


def test_what_only_one_of_them_holds_is_counted() -> None:
    fewer = replace(PROFILE, kernels={k: v for k, v in PROFILE.kernels.items() if k != CALL})
    assert compare(PROFILE, fewer).only_before == compare(fewer, PROFILE).only_after == 1
