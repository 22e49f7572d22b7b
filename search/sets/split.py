"""Who of a set is pruned how much: one choice for each model, so that all together they do best in a budget.

Models run one after another, so costs add up; what is to be maximised, a mean weighted by the user, adds up,
too. With several things to choose from for each model that is a multiple-choice knapsack (`search.knapsack`),
of few models and few choices: it is solved exactly, by the sums that no other sum of the same models beats
(Nemhauser and Ullmann, Management Science 15(9), 1969). The same rule divides the budget before the search,
by estimates, and chooses among what was trained and measured after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = 48
"""Costs of each model that a budget is divided by."""
AROUND = (1.0, 0.85, 1.15)
"""Of a model's share, the levels that it is searched at: what others save, or need, may still move."""
ALIKE = 0.03
"""Levels that differ by less, as a share, are one."""
MOST = 0.97
"""Of what the dense model costs, the highest level: there must be something to prune."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a model may become.

    `loss` is what it takes from what is to be maximised, with the model's weight in it; `shortfall` is by how
    much its accuracy, 0..1, is below the model's floor.
    """

    cost: float
    loss: float
    shortfall: float = 0.0


def choose(models: Sequence[Sequence[Choice]], budget: float) -> list[int]:
    """For each model the number of its choice: within the budget, above all floors, with the least loss.

    Where that cannot be, the budget is exceeded by the least there is, and then floors are missed by the
    least in sum. Of what is equally good the cheapest is chosen.
    """
    sums, chosen = np.zeros((1, 3)), np.zeros((1, 0), dtype=np.int64)
    for choices in models:
        each = np.array([(choice.cost, choice.shortfall, choice.loss) for choice in choices])
        sums = (sums[:, None] + each).reshape(-1, 3)
        sums[:, 1] = sums[:, 1].round(9)  # a floor that is met must not be missed by a last bit
        numbers = np.tile(np.arange(len(choices)), len(chosen))
        chosen = np.column_stack([chosen.repeat(len(choices), axis=0), numbers])
        kept = _unbeaten(sums)
        sums, chosen = sums[kept], chosen[kept]
    excess = (sums[:, 0] - budget).clip(0.0).round(9)  # nor may a budget be exceeded by one
    best = np.lexsort((sums[:, 0], sums[:, 2], sums[:, 1], excess))[0]
    return [int(number) for number in chosen[best]]


def _unbeaten(sums: Values) -> NDArray[np.int64]:
    """Which (cost, shortfall, loss) no other beats at no more cost: by shortfall first, then by loss."""
    place = np.empty(len(sums), dtype=np.int64)
    place[np.lexsort((sums[:, 2], sums[:, 1]))] = np.arange(len(sums))
    by_cost = np.lexsort((place, sums[:, 0]))
    best_so_far = np.minimum.accumulate(place[by_cost])
    return np.asarray(by_cost[place[by_cost] == best_so_far])


@dataclass(frozen=True, slots=True)
class Curve:
    """What a model's best allocations cost and how they do, cheapest first, the dense model last.

    Args:
        cost: in the unit of the budget; rises.
        divergence: from the dense model's answers, in nats; 0 for the dense model.
        accuracy: on validation.
    """

    cost: Values
    divergence: Values
    accuracy: Values

    def divergence_at(self, cost: Values) -> Values:
        """Its root is taken as straight between what was tried; what gets worse with more is noise."""
        falling = np.minimum.accumulate(self.divergence)
        return np.asarray(np.interp(cost, self.cost, np.sqrt(falling)) ** 2)

    def accuracy_at(self, cost: Values) -> Values:
        return np.asarray(np.interp(cost, self.cost, np.maximum.accumulate(self.accuracy)))

    def choices(self, cost: Values, weight: float, floor: float) -> list[Choice]:
        """What the model comes to at each cost, as far as is known before it is fine-tuned."""
        loss, short = weight * self.divergence_at(cost), np.maximum(0.0, floor - self.accuracy_at(cost))
        return [Choice(*each) for each in zip(cost.tolist(), loss.tolist(), short.tolist(), strict=True)]


def divide(
    curves: Sequence[Curve], weights: Sequence[float], floors: Sequence[float], budget: float
) -> list[float]:
    """Each model's share of the budget: where weighted divergence is least in sum, above the floors.

    Divergence tells apart what accuracy on a few thousand images does not. Floors are taken before anything
    is fine-tuned, so they are met with room to spare, or missed by less than it seems.

    Args:
        budget: no less than the cheapest of all models together.
    """
    grids = [np.linspace(curve.cost[0], curve.cost[-1], GRID) for curve in curves]
    choices = [
        curve.choices(grid, weight, floor)
        for curve, grid, weight, floor in zip(curves, grids, weights, floors, strict=True)
    ]
    shares = np.array([grid[number] for grid, number in zip(grids, choose(choices, budget), strict=True)])
    room = np.array([curve.cost[-1] for curve in curves]) - shares
    # What lies between two costs of the grids is left.
    left = min(budget - shares.sum(), room.sum())
    return [float(share) for share in shares + left * room / max(room.sum(), 1e-12)]


def levels(share: float, equal: float, curve: Curve) -> tuple[float, ...]:
    """What a model is searched at, lowest first: about its share, and at that of an equal division."""
    least, most = curve.cost[0], max(curve.cost[0], MOST * curve.cost[-1])
    found: list[float] = []
    for level in (share * AROUND[0], equal, *(share * factor for factor in AROUND[1:])):
        within = float(np.clip(level, least, most))
        if all(abs(within - other) > ALIKE * other for other in found):
            found.append(within)
    return tuple(sorted(found))
