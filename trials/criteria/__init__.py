"""Criteria: one score per unit of each group; the lowest-scored units go first.

To add one: a function of `Evidence` beside its like, and a line in `CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwprofiles.errors import RequestError, nearest
from trials.candidate import Candidate
from trials.criteria.activations import activation, apoz
from trials.criteria.chance import random
from trials.criteria.elimination import error
from trials.criteria.evidence import Criterion, Evidence, Scores
from trials.criteria.gradients import fisher, taylor
from trials.criteria.magnitude import batchnorm, geometric_median, l1, l2, lamp
from trials.criteria.relevance import relevance
from trials.groups import Coupling, Kept
from trials.units import BLOCK

__all__ = ["CRITERIA", "Criterion", "Evidence", "Scores", "score", "select"]

CRITERIA: Mapping[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "batchnorm": batchnorm,
    "geometric_median": geometric_median,
    "lamp": lamp,
    "taylor": taylor,
    "fisher": fisher,
    "activation": activation,
    "apoz": apoz,
    "relevance": relevance,
    "error": error,
    "random": random,
}
"""By the names that a job file uses; docs/criteria.md says what each is."""


def score(criterion: str, evidence: Evidence) -> Scores:
    """Scores by a criterion's name.

    Raises:
        RequestError: no criterion of that name, or the model has nothing of what it looks at.
    """
    if criterion not in CRITERIA:
        raise RequestError(f"there is no criterion {criterion!r}; {nearest(criterion, CRITERIA)}")
    return CRITERIA[criterion](evidence)


def select(coupling: Coupling, scores: Scores, candidate: Candidate) -> Kept:
    """Keep the highest-scored units of each group; of equal scores, the first. Whole groups are left out.

    A block is kept or not as the candidate says: it has no score.
    """
    kept = {}
    for group, count in zip(coupling.groups, candidate.kept, strict=True):
        if group.kind == BLOCK and not count:
            kept[group.name] = np.zeros(0, dtype=np.int64)
        elif count < group.size:
            order = np.argsort(-scores[group.name], kind="stable")
            kept[group.name] = np.sort(order[:count])
    return kept
