"""What all controllers share: budget levels taken in turn, and no candidate proposed twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost, project
from search.controllers.protocol import Proposal
from trials.candidate import Candidate, Space

_TRIES = 24
"""Perturbations of one proposal before its level loses its turn."""


class Proposals:
    """Turns wanted proportions into proposals that nobody has made, one budget level after another.

    `seen` holds all candidates ever proposed; add to it what others have proposed.

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
        self._turn = 0
        self._rng = rng
        self._fill = fill

    def take(self, count: int, wanted: Callable[[float], NDArray[np.float64]]) -> list[Proposal]:
        """Return `count` new proposals, fewer when no level seems to have one left.

        Args:
            wanted: budget target -> (groups,) wanted counts, of which only the proportions matter.
        """
        taken: list[Proposal] = []
        turns_lost = 0
        while len(taken) < count and turns_lost < len(self._targets):
            target = self._targets[self._turn % len(self._targets)]
            self._turn += 1
            candidate = self._unseen(wanted(target), target)
            if candidate is None:
                turns_lost += 1
            else:
                turns_lost = 0
                self.seen.add(candidate)
                taken.append(Proposal(candidate=candidate, target=target))
        return taken

    def _unseen(self, wanted: NDArray[np.float64], target: float) -> Candidate | None:
        """Project `wanted`; while the result has been seen, perturb it, more with each try."""
        for spread in np.linspace(0, 1.5, _TRIES):
            noise = np.exp(spread * self._rng.standard_normal(wanted.shape))
            candidate = self._fitted(wanted * noise, target)
            if candidate not in self.seen:
                return candidate
        return None

    def _fitted(self, wanted: NDArray[np.float64], target: float) -> Candidate:
        if not self._fill:
            rounded = self._space.round(wanted[None])
            if self._cost(rounded)[0] <= target:
                return Candidate(tuple(rounded[0].tolist()))
        return project(self._space, wanted, self._cost, target)

    def state(self) -> dict[str, Any]:
        """What `load` needs, for JSON; the random generator is its owner's to keep."""
        return {"turn": self._turn, "seen": sorted(candidate.kept for candidate in self.seen)}

    def load(self, state: Mapping[str, Any]) -> None:
        self._turn = state["turn"]
        self.seen = {Candidate(tuple(kept)) for kept in state["seen"]}
