"""knapsack: the best allocation for the sensitivity of each group alone; it has nothing to learn.

As HALP does (Shen et al., Structural Pruning via Latency-Saliency Knapsack, NeurIPS 2022), with measured
divergence for saliency. After the best of every level come the best for losses that are some per cent off,
the further the more there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.budget import Cost
from search.controllers.proposals import Proposals
from search.controllers.protocol import Proposal, ScoredTrial
from search.knapsack import allocate
from search.sensitivity import Losses
from trials.candidate import Candidate, Space


class KnapsackController:
    """
    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        losses: of each axis, (allowed counts,) what the group alone costs.
    """

    def __init__(self, space: Space, cost: Cost, targets: Sequence[float], seed: int, losses: Losses) -> None:
        self._space, self._cost, self._losses = space, cost, losses
        self._proposals = Proposals(space, cost, targets, np.random.default_rng(seed))

    def ask(self, count: int) -> Sequence[Proposal]:
        return self._proposals.take(count, self._wanted)

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        self._proposals.seen.update(trial.proposal.candidate for trial in scored)

    def _wanted(self, target: float) -> Candidate:
        return allocate(self._space, self._losses, self._cost, target)
