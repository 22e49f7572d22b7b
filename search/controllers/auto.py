"""auto: the best allocation for an estimate that every trial corrects.

The estimate starts from the sensitivity of each group alone (`search.sensitivity`) and learns what that
leaves out: that a group costs more or less once others are pruned, too, and that losses do more than add up.
Of a candidate with the losses c it says

    log divergence = offset + power * log(sum of weight * c over the groups)

with log-normal priors about what was measured: offset 0, power 1, weights 1. Each proposal is the knapsack's
answer to weights that are drawn from what the trials so far leave possible (Thompson sampling): where they
agree it goes for the best, where they do not it tries what might be. One estimate serves all budget levels.

Sources: Thompson, Biometrika 25 (1933); Chapelle and Li, An Empirical Evaluation of Thompson Sampling, NIPS
2011; the posterior is Laplace's approximation at its mode, found by Gauss and Newton's method (Bishop,
Pattern Recognition and Machine Learning, 2006, section 4.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost, project
from search.controllers.proposals import Proposals
from search.controllers.protocol import Proposal, ScoredTrial
from search.knapsack import allocate, exchanges
from search.sensitivity import Losses, parts
from trials.candidate import Candidate, Space

OFFSET_SPREAD, POWER_SPREAD, WEIGHT_SPREAD = 1.0, 0.3, 0.5
"""Standard deviations of the priors, of the logarithm but for the power."""
NOISE, NOISE_TRIALS = 0.1, 5
"""Standard deviation of log divergence about the estimate, and how many trials it takes to doubt it."""
STEPS, LONGEST_STEP, CLOSE = 30, 0.5, 1e-6

Values = NDArray[np.float64]


class AutoController:
    """Knapsacks of sampled estimates.

    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        losses: of each axis, (allowed counts,) what the group alone costs, above 0 but for all of it.
    """

    def __init__(self, space: Space, cost: Cost, targets: Sequence[float], seed: int, losses: Losses) -> None:
        self._space, self._cost, self._losses = space, cost, losses
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(space, cost, targets, self._rng)
        self.estimate = Estimate(len(space.axes))
        self._begun: set[float] = set()
        self._start = cache(lambda target: project(space, space.sizes.astype(np.float64), cost, target))
        """Where each level's allocations start from, which no weights change."""

    def ask(self, count: int) -> Sequence[Proposal]:
        return self._proposals.take(count, self._wanted)

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        for trial in scored:
            self._proposals.seen.add(trial.proposal.candidate)
            if trial.found:
                _, divergence = trial.found
                self.estimate.add(parts(self._space, self._losses, trial.proposal.candidate), divergence)

    def _wanted(self, target: float) -> Iterator[Candidate]:
        """The best for the estimate as it is, once for each level, and then for one that may be true; what is
        nearly as good follows, for where that was tried."""
        weights = self.estimate.draw(self._rng) if target in self._begun else self.estimate.weights
        self._begun.add(target)
        losses = [weight * loss for weight, loss in zip(weights, self._losses, strict=True)]
        best = allocate(self._space, losses, self._cost, target, self._start(target))
        yield best
        yield from exchanges(self._space, losses, self._cost, target, best)


class Estimate:
    """What trials say of the weights of groups' losses: a normal distribution of their logarithms."""

    def __init__(self, groups: int) -> None:
        self._prior = np.concatenate([[0.0, 1.0], np.zeros(groups)])
        spread = np.concatenate([[OFFSET_SPREAD, POWER_SPREAD], np.full(groups, WEIGHT_SPREAD)])
        self._prior_precision = spread**-2
        self._mode, self._precision = self._prior, np.diag(self._prior_precision)
        self._parts: list[Values] = []
        self._observed: list[float] = []
        self._fitted = 0

    def add(self, parts: Values, divergence: float) -> None:
        """Take in a trial: (groups,) what each alone would cost, and what they cost together.

        One that is the dense model in all but name, or in which a group is narrower than could be made real
        alone, has no place in the formula.
        """
        if 0 < parts.sum() < np.inf and divergence > 0:
            self._parts.append(parts)
            self._observed.append(float(np.log(divergence)))

    @property
    def weights(self) -> Values:
        """(groups,) the most likely ones."""
        self._fit()
        return np.asarray(np.exp(self._mode[2:]))

    @property
    def power(self) -> float:
        """By how much more than in proportion losses grow together."""
        self._fit()
        return float(self._mode[1])

    def draw(self, rng: np.random.Generator) -> Values:
        """(groups,) as likely as trials let them be."""
        self._fit()
        # With L L' the precision, L'^-1 z has its inverse as covariance.
        factor = np.linalg.cholesky(self._precision)
        off = np.linalg.solve(factor.T, rng.standard_normal(len(self._mode)))
        return np.asarray(np.exp((self._mode + off)[2:]))

    def _fit(self) -> None:
        """Move the mode to where prior and trials agree, from where it was."""
        if self._fitted == len(self._observed):
            return
        self._fitted = len(self._observed)
        parts, observed, mode = np.array(self._parts), np.array(self._observed), self._mode
        for _ in range(STEPS):
            weighted = parts * np.exp(mode[2:])
            log_sum = np.log(weighted.sum(axis=1))
            missed = observed - mode[0] - mode[1] * log_sum
            slopes = mode[1] * weighted / weighted.sum(axis=1, keepdims=True)
            slopes = np.column_stack([np.ones_like(log_sum), log_sum, slopes])
            variance = (NOISE_TRIALS * NOISE**2 + missed @ missed) / (NOISE_TRIALS + len(missed))
            self._precision = slopes.T @ slopes / variance + np.diag(self._prior_precision)
            uphill = slopes.T @ missed / variance - self._prior_precision * (mode - self._prior)
            step = np.linalg.solve(self._precision, uphill)
            mode = mode + np.clip(step, -LONGEST_STEP, LONGEST_STEP)
            if np.abs(step).max() < CLOSE:
                break
        self._mode = mode
