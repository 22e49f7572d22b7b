"""How alike two rungs rank candidates is told where enough have reached both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.ladder import LEAST, ladder
from search.plan import Prepared
from tests.search.test_score import FACTS, made_trials


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


def test_where_all_are_alike_nothing_is_said_of_their_order(prepared: Prepared) -> None:
    trials = [replace(trial, facts=FACTS) for trial in made_trials(prepared, LEAST, seed=0)]
    finals = {
        trial.number: {"facts": replace(FACTS, accuracy=0.9 - 0.01 * trial.number).to_json()}
        for trial in trials
    }
    assert ladder(prepared, trials, finals) == ()
