"""The criterion that every other one has to beat."""

from __future__ import annotations

import numpy as np

from trials.criteria.evidence import Evidence, Scores


def random(evidence: Evidence) -> Scores:
    """An order drawn by lot for each group; one seed gives one order.

    Source: Mittal et al., Recovering from Random Pruning, WACV 2018, arXiv 1801.10447.
    """
    generator = np.random.default_rng(evidence.seed)
    return {group.name: generator.random(group.size) for group in evidence.coupling.groups}
