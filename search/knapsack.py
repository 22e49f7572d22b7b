"""The best allocation for an estimate: of all candidates within a budget, the one with the least loss.

A multiple-choice knapsack (Kellerer, Pferschy and Pisinger, Knapsack Problems, Springer 2004, chapter 11):
each axis takes one of its allowed counts, each has a loss of its own, and losses add up. Costs add up, too,
where groups share no layer. Elsewhere a channel costs what its neighbours keep, so the problem is solved in
rounds, by what each choice costs beside the candidate of the round before: by a price on cost as long as
that helps, and then exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost, about, project
from search.sensitivity import parts
from trials.candidate import Candidate, Counts, Space

PARTS = 1_024
"""Of a budget, in which costs are counted by the exact solution, rounded."""
ROUNDS = 8
PRICES, HALVINGS = (1e-24, 1e24), 32
"""Of a unit of cost, in losses, and how often the range of them is halved."""

Values = NDArray[np.float64]
Solver = Callable[[Sequence[Values], Sequence[Values], float], list[int]]


def allocate(space: Space, losses: Sequence[Values], cost: Cost, target: float) -> Candidate:
    """The candidate that costs at most `target` with the least sum of losses.

    Where costs add up it is the best there is, but for the rounding to `PARTS`; elsewhere the best of the
    rounds. No axis of it can go up one step within the target.

    Args:
        losses: of each axis, (allowed counts,).
        target: in the unit of `cost`.

    Raises:
        RequestError: the smallest candidate costs more than `target`.
    """
    axes, near = [axis.allowed for axis in space.axes], about(cost, target)

    def solved(candidate: Candidate, solve: Solver) -> Candidate:
        levels = solve(losses, *beside(candidate, axes, near, target))
        wanted = np.array([allowed[level] for allowed, level in zip(axes, levels, strict=True)])
        return project(space, wanted.astype(np.float64), cost, target)

    def loss(candidate: Candidate) -> float:
        return float(parts(space, losses, candidate).sum())

    best = project(space, space.sizes.astype(np.float64), cost, target)
    for _ in range(ROUNDS):
        found = solved(best, priced)
        if loss(found) >= loss(best):
            break
        best = found
    return min(best, solved(best, exact), key=loss)


def priced(losses: Sequence[Values], costs: Sequence[Values], budget: float) -> list[int]:
    """Which choice each axis takes at the least price on cost at which all of them fit the budget.

    The Lagrangian relaxation: no choices of that cost in sum have less loss, but a little of the budget may
    be left. What is cheapest is taken where nothing else fits.

    Args:
        losses: of each axis, (choices,).
        costs: the same; they may be negative.
    """
    loss, cost = (np.array(list(zip_longest(*values, fillvalue=np.inf))) for values in (losses, costs))
    axes = np.arange(loss.shape[1])

    def at(price: float) -> NDArray[np.int64]:
        return np.asarray((loss + price * cost).argmin(axis=0))

    fitting = cost.argmin(axis=0)
    low, high = PRICES
    for _ in range(HALVINGS):
        price = math.sqrt(low * high)
        found = at(price)
        if cost[found, axes].sum() <= budget:
            fitting, high = found, price
        else:
            low = price
    return [int(choice) for choice in fitting]


def exact(losses: Sequence[Values], costs: Sequence[Values], budget: float) -> list[int]:
    """Which choice each axis takes, for the least loss in sum that fits the budget, but for the rounding.

    By dynamic programming over the axes and the `PARTS` of what the budget is above the cheapest choices.
    """
    cheapest = [float(each.min()) for each in costs]
    spare = budget - sum(cheapest)
    if spare <= 0:
        return [int(each.argmin()) for each in costs]
    least = [np.zeros(PARTS + 1)]  # what is lost at least with so many parts, by how many axes have chosen
    parted = []
    for loss, cost, lowest in zip(losses, costs, cheapest, strict=True):
        parts = np.rint(np.minimum(cost - lowest, 2 * spare) / spare * PARTS).astype(np.int64)
        reached = np.full(PARTS + 1, np.inf)
        for part, lost in zip(parts.tolist(), loss.tolist(), strict=True):
            if part <= PARTS:
                np.minimum(reached[part:], least[-1][: PARTS + 1 - part] + lost, out=reached[part:])
        least.append(reached)
        parted.append(parts)
    left, levels = PARTS, list[int]()
    for before, loss, parts in zip(least[-2::-1], losses[::-1], parted[::-1], strict=True):
        fitting = np.flatnonzero(parts <= left)
        levels.append(int(fitting[(before[left - parts[fitting]] + loss[fitting]).argmin()]))
        left -= parts[levels[-1]]
    return levels[::-1]


def beside(
    candidate: Candidate, axes: Sequence[Counts], cost: Cost, target: float
) -> tuple[list[Values], float]:
    """What the candidate costs more with each allowed count of an axis in place of its own, and how much more
    it may."""
    kept = np.array(candidate.kept)
    lengths = [len(allowed) for allowed in axes]
    counts = np.tile(kept, (sum(lengths), 1))
    counts[np.arange(len(counts)), np.repeat(np.arange(len(axes)), lengths)] = np.concatenate(axes)
    [own] = cost(kept[None])
    return np.split(cost(counts) - own, np.cumsum(lengths)[:-1]), target - float(own)
