"""evolution: small mutations of the best so far, from the knapsack's answers on.

As regularised evolution (Real et al., arXiv:1802.01548) with a tournament for each parent, but for these:

- The first of every level is the knapsack's answer to the sensitivities, where the paper begins at random.
- A parent is sought among the trials of the level that its child is for; levels are not compared.
- Nothing dies of age: a job's trials are too few to lose any.
- A mutation changes several groups a little, not one: projected onto the budget, what one gains others lose.

Tournaments of a tenth to a half, of 3 or 6 groups and spreads of 0.2 or 0.4 differ by less than 0.1 point on
two of the toys of `benchmarks/controllers_toy.py` and by less than 0.3 on the third (60 trials, four seeds).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost
from search.controllers.proposals import Proposals, Wanted
from search.controllers.protocol import Proposal, ScoredTrial
from search.knapsack import allocate
from search.sensitivity import Losses
from trials.candidate import Candidate, Space

TOURNAMENT = 0.25
"""Of a level's trials, how many a parent is the best of."""
MUTATED, SPREAD = 3, 0.4
"""How many groups a child has otherwise, on average, and the spread of the logarithm of their counts."""


class EvolutionController:
    """
    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        losses: of each axis, (allowed counts,) what the group alone costs.
    """

    def __init__(self, space: Space, cost: Cost, targets: Sequence[float], seed: int, losses: Losses) -> None:
        self._space, self._cost, self._losses = space, cost, losses
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(space, cost, targets, self._rng)
        self._begun: set[float] = set()
        self._alive: defaultdict[float, list[tuple[float, Candidate]]] = defaultdict(list)
        """Budget level -> divergence and candidate of its trials."""

    def ask(self, count: int) -> Sequence[Proposal]:
        return self._proposals.take(count, self._wanted)

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        for trial in scored:
            self._proposals.seen.add(trial.proposal.candidate)
            if trial.found:
                _, divergence = trial.found
                self._alive[trial.proposal.target].append((divergence, trial.proposal.candidate))

    def _wanted(self, target: float) -> Wanted:
        alive = self._alive[target]
        if target not in self._begun or not alive:
            self._begun.add(target)
            return allocate(self._space, self._losses, self._cost, target)
        rivals = self._rng.integers(len(alive), size=max(2, round(TOURNAMENT * len(alive))))
        _, parent = min((alive[rival] for rival in rivals), key=lambda each: each[0])
        return self._mutated(parent)

    def _mutated(self, parent: Candidate) -> NDArray[np.float64]:
        """(groups,) the parent's counts, some of them a little more or less; of blocks the opposite."""
        counts = np.array(parent.kept, dtype=np.float64)
        changed = self._rng.random(len(counts)) < MUTATED / len(counts)
        other = counts * np.exp(SPREAD * self._rng.standard_normal(len(counts)))
        return np.where(changed, np.where(self._space.are_blocks, 1 - counts, other), counts)
