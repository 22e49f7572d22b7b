"""Controllers by name; each is imported when it is made, so only `amc` loads torch, and two Optuna."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import RequestError, nearest
from search.budget import Cost
from search.controllers.protocol import Controller, Proposal, Reward, ScoredTrial
from search.sensitivity import Losses
from trials.candidate import Space

__all__ = ["NAMES", "Controller", "Proposal", "ScoredTrial", "make"]

NAMES = ("auto", "amc", "evolution", "greedy", "knapsack", "nsga2", "random", "tpe", "uniform")
BY_LOSSES = ("auto", "amc", "evolution", "greedy", "knapsack")
"""Those that want to know what each group costs the model alone."""


def make(
    name: str,
    *,
    space: Space,
    cost: Cost,
    targets: Sequence[float],
    seed: int,
    trials: int,
    features: NDArray[np.float64],
    losses: Losses = (),
    reward: Reward = "accuracy",
) -> Controller:
    """Make a controller by its name.

    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        trials: how many trials the job will run in all; exploration is planned for that many.
        features: (groups, features) what is known of each group, about -1 to 1.
        losses: of each group, (allowed counts,) the divergence that it causes alone; for `BY_LOSSES`.
        reward: what `amc` goes for.

    Raises:
        RequestError: no controller has this name, or no candidate meets a target.
    """
    match name:
        case "auto":
            from search.controllers.auto import AutoController

            return AutoController(space, cost, targets, seed, losses)
        case "amc":
            from search.controllers.amc import AmcController

            return AmcController(
                space, cost, targets, seed, features=features, trials=trials, losses=losses, reward=reward
            )
        case "evolution":
            from search.controllers.evolution import EvolutionController

            return EvolutionController(space, cost, targets, seed, losses)
        case "greedy":
            from search.controllers.greedy import GreedyController

            return GreedyController(space, cost, targets, seed, losses)
        case "knapsack":
            from search.controllers.knapsack import KnapsackController

            return KnapsackController(space, cost, targets, seed, losses)
        case "nsga2":
            from search.controllers.optuna_sampler import nsga2

            return nsga2(space, cost, targets, seed, trials=trials)
        case "random":
            from search.controllers.sampling import RandomController

            return RandomController(space, cost, targets, seed)
        case "tpe":
            from search.controllers.optuna_sampler import tpe

            return tpe(space, cost, targets, seed)
        case "uniform":
            from search.controllers.uniform import UniformController

            return UniformController(space, cost, targets)
    raise RequestError(f"controller {name!r} is unknown; {nearest(name, NAMES)}")
