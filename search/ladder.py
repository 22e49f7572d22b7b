"""How far each rung of effort is to be trusted: how alike it and a later one rank the same candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latency_models.validate import spearman
from search.finalists import error
from search.plan import Prepared
from search.report import Trust
from search.sensing import known
from search.sensitivity import parts
from trials.candidate import Facts, Trial
from trials.requests import merit

LEAST = 4
"""Candidates without which nothing is said."""

Errors = Mapping[int, float]
"""Trial number -> what a rung says of it, the lower the better."""


def ladder(
    prepared: Prepared, done: Sequence[Trial], finals: Mapping[int, Mapping[str, Any]]
) -> tuple[Trust, ...]:
    """Of all rungs that enough candidates have reached, beside the last and what lies between.

    Args:
        done: trials with facts.
        finals: the results of finalists by the numbers of their trials.
    """
    losses = known(prepared).losses(prepared.space)
    estimate = {trial.number: float(parts(prepared.space, losses, trial.candidate).sum()) for trial in done}
    tried = {trial.number: error(prepared, trial) for trial in done}
    facts = {number: Facts.from_json(final["facts"]) for number, final in finals.items()}
    trained = {number: 1 - merit(found, prepared.splits.carved) for number, found in facts.items()}
    before, after = (
        {t.number: 1 - t.facts.history[step] for t in done if t.facts and step in t.facts.history}
        for step in ("repaired", "fine-tuned")
    )
    compared: tuple[tuple[str, Errors, str, Errors], ...] = (
        ("sensitivities added up", estimate, "trial", tried),
        ("trial, repaired", before, "trial, fine-tuned briefly", after),
        ("sensitivities added up", estimate, "finalist", trained),
        ("trial", tried, "finalist", trained),
    )
    found = (_trust(*pair) for pair in compared)
    return tuple(trust for trust in found if trust is not None)


def _trust(rung: str, early: Errors, later: str, late: Errors) -> Trust | None:
    both = [number for number in sorted(early.keys() & late.keys()) if np.isfinite(early[number])]
    if len(both) < LEAST:
        return None
    first, second = (np.array([errors[number] for number in both]) for errors in (early, late))
    if np.ptp(first) == 0 or np.ptp(second) == 0:  # says nothing of any order
        return None
    return Trust(rung=rung, later=later, correlation=spearman(first, second), candidates=len(both))
