"""nsga2 and tpe: Optuna's samplers on a study in memory, which holds what was told and nothing else.

Sources: Deb et al., NSGA-II, IEEE TEVC 6(2), 2002; Bergstra et al., Algorithms for Hyper-Parameter
Optimization, NIPS 2011, for two objectives Ozaki et al., JAIR 73, 2022; Akiba et al., Optuna, KDD 2019.
Departures from what a study would do by itself:

- A parameter is the level of an axis among its allowed counts. What is asked for is projected onto a budget
  level, and the study is told what came of that, not what was asked: a child's proportions are the better
  for it. Both objectives, divergence and cost, are minimised, so one study serves all levels.
- The first trials are those of random search (`search.controllers.sampling`), not uniform in each parameter.
- A generation of NSGA-II is a sixth of the job's trials; Optuna's 50 would leave a job of 60 little else than
  the first, random one. At 300 trials it is these 50.
- TPE knows nothing of trials under way (no constant liar); it draws what it asks for at random anyway.

Variants while this was written: true accuracy in percent after 60 trials, mean of seeds 0 to 3, on the three
toys of `benchmarks/controllers_toy.py`:

                                           NSGA-II (10 or 12 a time)   TPE
    told as asked for                      88.32  89.01  71.65         88.38  89.80  72.94
    told as projected                      88.68  89.89  72.39         88.68  91.26  73.37
    the same, log divergence of the level  87.89  90.16  72.92         88.62  90.94  72.50
    told as projected, after random search  89.33  91.22  73.74         89.82  91.31  72.92

Of these the last is used, and random search reaches 89.04, 91.23 and 73.96: 60 trials are few for either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from search.budget import Cost
from search.controllers.proposals import Proposals
from search.controllers.protocol import Proposal, ScoredTrial
from search.controllers.sampling import random_counts
from trials.candidate import Candidate, Space

FIRST = 10
"""Trials before a sampler is asked, and the least of a generation."""


class OptunaController:
    """What a sampler of Optuna asks for, projected onto the budget levels in turn.

    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        first: how many trials random search asks for.
    """

    def __init__(
        self,
        space: Space,
        cost: Cost,
        targets: Sequence[float],
        seed: int,
        sampler: BaseSampler,
        first: int = FIRST,
    ) -> None:
        self._space = space
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(space, cost, targets, self._rng)
        self._left_to_chance = first
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # else every study says that it was created
        self._study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        self._axes: dict[str, BaseDistribution] = {
            axis.name: IntDistribution(0, len(axis.allowed) - 1) for axis in space.axes
        }

    def ask(self, count: int) -> Sequence[Proposal]:
        return self._proposals.take(count, self._wanted)

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        for trial in scored:
            self._proposals.seen.add(trial.proposal.candidate)
            if trial.found:
                _, divergence = trial.found
                self._left_to_chance -= 1
                self._study.enqueue_trial(self._levels(trial.proposal.candidate))
                told = self._study.ask(self._axes)
                if isinstance(self._study.sampler, NSGAIISampler):
                    _ = told.relative_params  # asking for these is what gives it a generation
                self._study.tell(told, [divergence, trial.cost])

    def _wanted(self, target: float) -> NDArray[np.float64]:
        if self._left_to_chance > 0:
            return random_counts(self._space, self._rng)
        asked = self._study.ask(self._axes)
        self._study.tell(asked, state=TrialState.FAIL)  # it will be told as what becomes of it
        return np.array(
            [axis.allowed[asked.params[axis.name]] for axis in self._space.axes], dtype=np.float64
        )

    def _levels(self, candidate: Candidate) -> dict[str, int]:
        return {
            axis.name: int(np.searchsorted(axis.allowed, kept))
            for axis, kept in zip(self._space.axes, candidate.kept, strict=True)
        }


def nsga2(space: Space, cost: Cost, targets: Sequence[float], seed: int, *, trials: int) -> OptunaController:
    """
    Args:
        trials: how many the job will run in all, of which a generation is a sixth, 10 to 50.
    """
    generation = min(max(FIRST, trials // 6), 50)
    sampler = NSGAIISampler(population_size=generation, seed=seed)
    return OptunaController(space, cost, targets, seed, sampler, first=generation)


def tpe(space: Space, cost: Cost, targets: Sequence[float], seed: int) -> OptunaController:
    sampler = TPESampler(n_startup_trials=FIRST, multivariate=True, constant_liar=False, seed=seed)
    return OptunaController(space, cost, targets, seed, sampler)
