"""Random search: the baseline that a controller which learns has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost
from search.controllers.proposals import Proposals
from search.controllers.protocol import Proposal, ScoredTrial
from trials.candidate import Space


def random_counts(space: Space, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw (groups,) counts whose proportions range from nearly uniform to wild.

    Each group's share is log-normal with a spread that is itself drawn from 0 to 1 for each candidate.
    Shares drawn uniformly, as is common, look all alike once there are many groups; and their sum, before
    it is projected, hits one budget only.
    """
    return space.sizes.astype(np.float64) * np.exp(rng.uniform(0, 1) * rng.standard_normal(len(space.axes)))


class RandomController:
    """Proposes random proportions, projected onto the budget levels in turn."""

    def __init__(self, space: Space, cost: Cost, targets: Sequence[float], seed: int) -> None:
        self._space = space
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(space, cost, targets, self._rng)

    def ask(self, count: int) -> Sequence[Proposal]:
        return self._proposals.take(count, lambda target: random_counts(self._space, self._rng))

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        self._proposals.seen.update(trial.proposal.candidate for trial in scored)
