"""Which trial is picked for what it may cost."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest

from hwprofiles.errors import RequestError
from search.job import CostKind
from search.picking import Limits, parse_limits, pick, picked
from search.plan import Prepared
from tests.search.test_finalists import add_final, fill
from tests.search.test_score import FACTS, made_trials
from trials.candidate import Trial, as_counts
from trials.store import Store


@pytest.fixture
def trials(prepared: Prepared, planned_store: Store) -> list[Trial]:
    """Eight that are done, each more accurate than the one before."""
    made = [
        replace(each, facts=replace(FACTS, accuracy=0.5 + each.number / 20))
        for each in made_trials(prepared, 8)
    ]
    fill(planned_store, made)
    return made


def test_the_most_accurate_is_picked_of_those_that_hold_the_limit_with_their_error_bars(
    trials: list[Trial], prepared: Prepared, planned_store: Store
) -> None:
    [on] = prepared.devices
    upper = [score.latency_ms + score.error_ms for score in on.scorer.score([t.candidate for t in trials])]
    for limit in upper:
        picked = pick(prepared, planned_store, on, {"latency_ms": limit})
        assert picked.number == max(number for number, cost in enumerate(upper) if cost <= limit)
    cheapest = upper.index(min(upper))
    nearest = rf"on this-cpu; the nearest, trial {cheapest}, holds (latency_ms=\S+): ask for that"
    with pytest.raises(RequestError, match=nearest) as refused:
        pick(prepared, planned_store, on, {"latency_ms": min(upper) * 0.99})
    offered = re.search(nearest, str(refused.value))
    assert offered
    assert pick(prepared, planned_store, on, parse_limits([offered[1]])).number == cheapest


def test_of_several_limits_all_are_held_and_the_nearest_is_the_one_least_beyond_any(
    trials: list[Trial], prepared: Prepared, planned_store: Store
) -> None:
    [on], counts = prepared.devices, as_counts([trial.candidate for trial in trials])
    latency_ms, macs = (on.scorer.cost(kind)(counts) for kind in ("latency_ms", "macs"))
    limits: Limits = {"latency_ms": sorted(latency_ms)[6], "macs": sorted(macs)[6]}
    held = (latency_ms <= limits["latency_ms"]) & (macs <= limits["macs"])
    assert pick(prepared, planned_store, on, limits).number == held.nonzero()[0].max()
    tight: Limits = {"latency_ms": latency_ms.min() / 2, "macs": macs.max()}
    with pytest.raises(
        RequestError, match=rf"trial {latency_ms.argmin()}, holds latency_ms=.* and macs=.*: ask"
    ):
        pick(prepared, planned_store, on, tight)


def test_every_kind_of_a_budget_can_be_picked_by_but_for_energy_that_was_not_told(
    trials: list[Trial], prepared: Prepared, planned_store: Store
) -> None:
    [on], counts = prepared.devices, as_counts([trial.candidate for trial in trials])
    for kind in set(get_args(CostKind)) - {"energy_mj"}:
        costs = on.scorer.cost(kind)(counts)
        trial = pick(prepared, planned_store, on, {kind: costs.min()})
        assert costs[trial.number] == costs.min()
        assert picked(prepared, planned_store, on, trial, {kind: 1.0})["held"] == {kind: costs.min()}
    with pytest.raises(
        RequestError, match="told no energy while it was measured, so nothing can be limited by"
    ):
        pick(prepared, planned_store, on, {"energy_mj": 1.0})
    with pytest.raises(RequestError, match="no trial of job 'small' holds size_bytes=1; the nearest, trial"):
        pick(prepared, planned_store, on, {"size_bytes": 1.0})


def test_one_that_was_trained_to_the_end_comes_before_one_that_only_looked_better(
    trials: list[Trial], prepared: Prepared, planned_store: Store
) -> None:
    add_final(planned_store, 2, accuracy=0.6, latency_ms=None)
    assert pick(prepared, planned_store, prepared.devices[0], {"latency_ms": 1e9}).number == 2


def test_where_nothing_is_done_nothing_is_picked(prepared: Prepared, planned_store: Store) -> None:
    with pytest.raises(RequestError, match="job 'small' has no finished trial yet"):
        pick(prepared, planned_store, prepared.devices[0], {"latency_ms": 1.0})
