"""How alike two rungs rank candidates is told where enough have reached both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from search.ladder import LEAST, ladder, spearman
from search.plan import Prepared
from tests.search.test_score import FACTS, made_trials

VALUES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12)


@given(VALUES)
def test_ranks_are_correlated_as_others_do_it(values: list[tuple[int, int]]) -> None:
    first, second = np.array(values, dtype=np.float64).T
    found = spearman(first, second)
    if min(np.ptp(first), np.ptp(second)) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic)


@pytest.mark.parametrize("finalists", [LEAST - 1, LEAST])
def test_trials_are_compared_with_finalists_where_there_are_enough(
    finalists: int, prepared: Prepared
) -> None:
    trials = [
        replace(trial, facts=replace(FACTS, divergence=0.1 * trial.number))
        for trial in made_trials(prepared, 6, seed=0)
    ]
    finals = {
        trial.number: {"facts": replace(FACTS, accuracy=0.9 - 0.01 * trial.number).to_json()}
        for trial in trials[:finalists]
    }
    found = [
        (each.rung, each.later, each.correlation, each.candidates)
        for each in ladder(prepared, trials, finals)
    ]
    assert found == ([("trial", "finalist", pytest.approx(1), LEAST)] if finalists == LEAST else [])


def test_what_a_brief_training_changes_about_the_order_is_told(prepared: Prepared) -> None:
    trials = [
        replace(trial, facts=replace(FACTS, history={"repaired": 0.5 + 0.1 * n, "fine-tuned": 0.9 - 0.1 * n}))
        for n, trial in enumerate(made_trials(prepared, 5, seed=0))
    ]
    [trust] = ladder(prepared, trials, {})
    assert (trust.rung, trust.later) == ("trial, repaired", "trial, fine-tuned briefly")
    assert trust.correlation == pytest.approx(-1)
