"""greedy: NetAdapt's rule. From the dense model down, step by step, by the group that loses least.

Each step has to save a given cost. Every group is narrowed until it alone saves that, and of these models the
one with the least loss is kept (Yang et al., NetAdapt, arXiv:1804.03230, algorithm 1). Departures:

- A step's loss is what the sensitivities say, added up, where NetAdapt trains and evaluates every group's
  model: at 30 groups a job of 60 trials would be over after two steps.
- All steps save the same, a two-hundredth of the dense model's cost; NetAdapt's save less and less. On the
  toys of `benchmarks/controllers_toy.py` a hundredth reaches 0.1, 0.1 and 2.8 points less, and 1/500 no more.
- What the last step saves too much is given back by the projection.
- After each level's answer come the nearest to it that are new; it has nothing to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost, Grid, about
from search.controllers.proposals import Proposals
from search.controllers.protocol import Proposal, ScoredTrial
from search.knapsack import beside
from search.sensitivity import Losses
from trials.candidate import Candidate, Space

SAVED = 0.005
"""Of the dense model's cost, by each step."""
HALVINGS = 8
"""How often a step becomes half as long where no group alone saves it."""


class GreedyController:
    """
    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        losses: of each axis, (allowed counts,) what the group alone costs.
    """

    def __init__(self, space: Space, cost: Cost, targets: Sequence[float], seed: int, losses: Losses) -> None:
        self._proposals = Proposals(space, cost, targets, np.random.default_rng(seed))
        self._reached = {target: descend(space, losses, cost, target) for target in targets}

    def ask(self, count: int) -> Sequence[Proposal]:
        return self._proposals.take(count, self._reached.__getitem__)

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        self._proposals.seen.update(trial.proposal.candidate for trial in scored)


def descend(space: Space, losses: Losses, cost: Cost, target: float) -> NDArray[np.float64]:
    """(groups,) counts where steps from the dense model first cost at most `target`, in the unit of `cost`.

    Above it where no group alone can save anything more.
    """
    grid, cost = Grid.of(space), about(cost, target)
    levels = grid.top.copy()
    step = SAVED * float(cost(space.sizes[None])[0])
    for _ in range(HALVINGS):
        while True:
            kept = grid.counts(levels)
            costs, left = beside(Candidate(tuple(kept.tolist())), grid, cost, target)
            if left >= 0:
                return kept.astype(np.float64)
            falls = []  # of each group that can: what the step loses, the group and the level it falls to
            for group, (level, loss, saved) in enumerate(zip(levels.tolist(), losses, costs, strict=True)):
                enough = (-saved[:level] >= min(step, -left)) & np.isfinite(loss[:level])
                if enough.any():
                    lower = int(np.flatnonzero(enough)[-1])
                    falls.append((float(loss[lower] - loss[level]), group, lower))
            if not falls:
                break
            _, group, levels[group] = min(falls)
        step /= 2
    return kept.astype(np.float64)
