"""What all controllers share: budget levels taken in turn, and no candidate proposed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost, project
from search.controllers.protocol import Proposal
from trials.candidate import Candidate, Space

Wanted = Candidate | NDArray[np.float64] | Iterator[Candidate]
"""A candidate to be proposed as it is, or some of which the first new one is; or (groups,) counts of which
only the proportions matter."""

_TRIES = 24
"""Perturbations of one proposal before its level loses its turn."""


class Proposals:
    """Turns wanted proportions into proposals that nobody has made, one budget level after another.

    `seen` holds all candidates ever proposed; add to it what others have proposed. `turn` counts the levels
    that had theirs.

    Args:
        fill: whether a proposal uses its budget up; else what is wanted is proposed where it fits.
    """

    def __init__(
        self,
        space: Space,
        cost: Cost,
        targets: Sequence[float],
        rng: np.random.Generator,
        *,
        fill: bool = True,
    ) -> None:
        self.seen: set[Candidate] = set()
        self._space = space
        self._cost = cost
        self._targets = tuple(targets)
        self.turn = 0
        self._rng = rng
        self._fill = fill

    def take(self, count: int, wanted: Callable[[float], Wanted]) -> list[Proposal]:
        """Return `count` new proposals, fewer when no level seems to have one left.

        Args:
            wanted: of a budget target.
        """
        taken: list[Proposal] = []
        turns_lost = 0
        while len(taken) < count and turns_lost < len(self._targets):
            target = self._targets[self.turn % len(self._targets)]
            self.turn += 1
            candidate = self._unseen(wanted(target), target)
            if candidate is None:
                turns_lost += 1
            else:
                turns_lost = 0
                self.seen.add(candidate)
                taken.append(Proposal(candidate=candidate, target=target))
        return taken

    def _unseen(self, wanted: Wanted, target: float) -> Candidate | None:
        """Project `wanted`; while the result has been seen, perturb it, more with each try."""
        if isinstance(wanted, Iterator):
            best = next(wanted)
            if new := next((each for each in chain([best], wanted) if each not in self.seen), None):
                return new
            wanted = best
        ready = wanted if isinstance(wanted, Candidate) else None
        counts = np.array(wanted.kept, dtype=np.float64) if isinstance(wanted, Candidate) else wanted
        for spread in np.linspace(0, 1.5, _TRIES):
            noise = np.exp(spread * self._rng.standard_normal(counts.shape))
            candidate = ready if ready and not spread else self._fitted(counts * noise, target)
            if candidate not in self.seen:
                return candidate
        return None

    def _fitted(self, wanted: NDArray[np.float64], target: float) -> Candidate:
        if not self._fill:
            rounded = self._space.round(wanted[None])
            if self._cost(rounded)[0] <= target:
                return Candidate(tuple(rounded[0].tolist()))
        return project(self._space, wanted, self._cost, target)
