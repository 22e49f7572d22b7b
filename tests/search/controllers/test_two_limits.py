"""Under two limits, of which now one and now the other binds, proposals hold both and come near the best."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from search import controllers
from search.budget import Limit, combined
from search.controllers.protocol import ScoredTrial
from tests.contracts.controller import SPACE, TARGETS, TRIALS, accuracy, cost, losses
from trials.candidate import Candidate, Counts, as_counts


def pairs(counts: Counts) -> NDArray[np.float64]:
    """What neighbours make together, as the MACs of layers are."""
    return np.asarray((counts[:, 1:] * counts[:, :-1]).sum(axis=1), dtype=np.float64)


ALL = np.array(list(product(*(axis.allowed for axis in SPACE.axes))))
LEADING = Limit(kind="latency_ms", cost=cost, most=TARGETS, written=("",) * 3, dense=2136)
FIXED = Limit(kind="macs", cost=pairs, most=(1300.0,) * 3, written=("",) * 3, dense=1)


ACCURACIES = np.array([accuracy(Candidate(tuple(kept))) for kept in ALL.tolist()])
HOLD = pairs(ALL) <= 1300


def test_either_limit_costs_accuracy_that_the_other_alone_would_leave() -> None:
    """Else the test below would be one of a single limit."""
    first, last = (cost(ALL) <= target for target in (TARGETS[0], TARGETS[-1]))
    assert ACCURACIES[HOLD].max() > ACCURACIES[HOLD & first].max() + 0.005
    assert ACCURACIES[last].max() > ACCURACIES[HOLD & last].max() + 0.005


@pytest.mark.parametrize("name", ["amc", "auto", "greedy", "knapsack"])
def test_all_proposals_hold_both_limits_and_the_best_comes_near_the_best_there_is(name: str) -> None:
    both = combined([LEADING, FIXED])
    controller = controllers.make(
        name,
        space=SPACE,
        cost=both,
        targets=TARGETS,
        seed=0,
        trials=TRIALS,
        features=np.zeros((len(SPACE.axes), 5)),
        losses=losses(SPACE),
    )
    reached: dict[float, float] = dict.fromkeys(TARGETS, 0.0)
    for _ in range(TRIALS):
        [proposal] = controller.ask(1)
        counts = as_counts([proposal.candidate])
        assert cost(counts) <= proposal.target
        assert pairs(counts) <= 1300
        found = accuracy(proposal.candidate)
        assert found is not None
        reached[proposal.target] = max(reached[proposal.target], found)
        scored = ScoredTrial(
            proposal=proposal, accuracy=found, divergence=1 - found, cost=float(both(counts)[0])
        )
        controller.tell([scored])
    for target, best in reached.items():
        assert best > ACCURACIES[HOLD & (cost(ALL) <= target)].max() - 0.01
