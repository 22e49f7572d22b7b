"""The baseline of every job: the same share of every group, one candidate for each budget level."""

from __future__ import annotations

from collections.abc import Sequence

from search.budget import Cost, project
from search.controllers.protocol import Proposal, ScoredTrial
from trials.candidate import Candidate, Space


class UniformController:
    """Proposes each level's uniform candidate once and has nothing to learn."""

    def __init__(self, space: Space, cost: Cost, targets: Sequence[float]) -> None:
        by_candidate: dict[Candidate, float] = {}
        for target in targets:
            by_candidate.setdefault(project(space, space.sizes.astype(float), cost, target), target)
        self._left = [Proposal(candidate=kept, target=target) for kept, target in by_candidate.items()]

    def ask(self, count: int) -> Sequence[Proposal]:
        asked, self._left = self._left[:count], self._left[count:]
        return asked

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        told = {trial.proposal.candidate for trial in scored}
        self._left = [proposal for proposal in self._left if proposal.candidate not in told]
