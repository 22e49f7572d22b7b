"""What every controller promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from trials.candidate import Candidate

Reward = Literal["accuracy", "tradeoff"]
"""The best within each budget level, or -error x log(cost) with the level as no more than a cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate and the cost target it was projected onto (in the unit of the job's search budget)."""

    candidate: Candidate
    target: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTrial:
    """A finished trial as controllers see it; a failed one has None for both and teaches nothing else.

    `accuracy` is on the search-validation split, 0..1, and `divergence` there from the dense model, in nats:
    of a few thousand images it tells near candidates apart that accuracy does not. `cost` is in the unit of
    the search budget.
    """

    proposal: Proposal
    accuracy: float | None
    divergence: float | None
    cost: float

    @property
    def found(self) -> tuple[float, float] | None:
        """Accuracy and divergence; None where either is missing or not finite: there is nothing to learn."""
        if self.accuracy is None or self.divergence is None:
            return None
        both = self.accuracy, self.divergence
        return both if all(map(math.isfinite, both)) else None


class Controller(Protocol):
    """Proposes candidates and learns from their scores.

    Owns no clock, file, pool or device: given the same seed and the same sequence of `ask` and `tell` calls
    it asks for the same candidates, so a crashed job resumes by replaying its stored trials.
    """

    def ask(self, count: int) -> Sequence[Proposal]:
        """Return at most `count` proposals, none made before; fewer when the space has no more."""
        ...

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        """Learn from finished trials, in the order of their numbers."""
        ...
