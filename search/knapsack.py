"""The best allocation for an estimate: of all candidates within a budget, the one with the least loss.

A multiple-choice knapsack (Kellerer, Pferschy and Pisinger, Knapsack Problems, Springer 2004, chapter 11):
each axis takes one of its allowed counts, each has a loss of its own, and losses add up. Costs add up, too,
where groups share no layer. Elsewhere a channel costs what its neighbours keep, so the problem is solved in
rounds, by what each choice costs beside the candidate of the round before: by a price on cost as long as
that helps, and then exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost, Grid, about, project
from search.sensitivity import Losses
from trials.candidate import Candidate, Counts, Space

PARTS = 1_024
"""Of a budget, in which costs are counted by the exact solution, rounded."""
ROUNDS = 8
SLOPES = 64
"""Prices that are tried at most; some ten are."""
ROUNDING = 1e-9

Values = NDArray[np.float64]
Solver = Callable[[Values, Values, float], Counts]


def allocate(
    space: Space, losses: Losses, cost: Cost, target: float, start: Candidate | None = None
) -> Candidate:
    """The candidate that costs at most `target` with the least sum of losses.

    Where costs add up it is the best there is, but for the rounding to `PARTS`; elsewhere the best of the
    rounds. No axis of it can go up one step within the target.

    Args:
        losses: of each axis, (allowed counts,).
        target: in the unit of `cost`.
        start: what the rounds start from, which must cost at most `target` and have no step left; else that
            is the dense model in proportion.

    Raises:
        RequestError: the smallest candidate costs more than `target`.
    """
    grid, near = Grid.of(space), about(cost, target)
    loss = grid.spread(np.concatenate(losses))

    def solved(solve: Solver, choices: tuple[Values, float]) -> Candidate:
        wanted = grid.counts(solve(loss, *choices)).astype(np.float64)
        return project(space, wanted, cost, target)

    def lost(candidate: Candidate) -> float:
        return float(_of_each(loss, grid.levels(candidate)).sum())

    best = start or project(space, space.sizes.astype(np.float64), cost, target)
    for _ in range(ROUNDS):
        choices = beside(best, grid, near, target)
        found = solved(cheapest, choices)
        if lost(found) >= lost(best):
            break
        best = found
    else:
        choices = beside(best, grid, near, target)
    return min(best, solved(exact, choices), key=lost)


def exchanges(
    space: Space, losses: Losses, cost: Cost, target: float, candidate: Candidate
) -> Iterator[Candidate]:
    """Candidates within `target` that are one step of an axis below this one, and perhaps one of another
    above, by their sum of losses.

    Args:
        losses: of each axis, (allowed counts,).
        target: in the unit of `cost`.
    """
    grid, here = Grid.of(space), Grid.of(space).levels(candidate)
    step, axes = np.eye(len(here), dtype=np.int64), np.arange(len(here))
    more = np.concatenate([np.zeros_like(step[:1]), step[here < grid.top]])
    less = step[here > 0]
    found = (here + more[:, None] - less[None]).reshape(-1, len(here))
    found = found[(found != here).any(axis=1)]
    lost = grid.spread(np.concatenate(losses))[axes, found].sum(axis=1)
    found = found[np.argsort(lost, kind="stable")]
    for batch in np.array_split(found, max(1, -(-len(found) // max(64, len(here))))):
        counts = grid.counts(batch)
        yield from (Candidate(tuple(kept)) for kept in counts[cost(counts) <= target].tolist())


def cheapest(loss: Values, cost: Values, budget: float) -> Counts:
    """(axes,) the choices of `priced`."""
    levels, _ = priced(loss, cost, budget)
    return levels


def priced(loss: Values, cost: Values, budget: float) -> tuple[Counts, float]:
    """(axes,) which choice each axis takes at the least price on cost at which all fit; and that price.

    The Lagrangian relaxation: no choices of that cost in sum have less loss, but a little of the budget may
    be left. What is cheapest is taken where nothing else fits.

    Of two sets of choices, one that fits and one that does not, the price at which they come to the same is
    tried next, until nothing comes to less at it than they do (Handler and Zang, Networks 10, 1980).

    Args:
        loss: (axes, choices), infinite where there is no such choice.
        cost: the same; they may be negative.
    """

    def sums(levels: Counts) -> tuple[float, float]:
        return float(_of_each(loss, levels).sum()), float(_of_each(cost, levels).sum())

    fitting, over = np.where(np.isfinite(loss), cost, np.inf).argmin(axis=1), loss.argmin(axis=1)
    (lost, spent), (least, most) = sums(fitting), sums(over)
    if most <= budget:
        return over, 0.0
    if spent > budget:
        return cost.argmin(axis=1), 0.0
    price = 0.0
    for _ in range(SLOPES):
        price = (lost - least) / (most - spent)
        found = (loss + price * cost).argmin(axis=1) if price else fitting
        loses, costs = sums(found)
        if loses + price * costs >= lost + price * spent:
            break
        if costs <= budget:
            fitting, lost, spent = found, loses, costs
        else:
            least, most = loses, costs
    return fitting, price


def exact(loss: Values, cost: Values, budget: float) -> Counts:
    """(axes,) which choice each axis takes, for the least loss in sum that fits, but for the rounding.

    By dynamic programming over the axes and the `PARTS` of what the budget is above the cheapest choices, of
    which only those are looked at that can be part of an answer as good as the relaxation's.

    Args:
        loss: (axes, choices), infinite where there is no such choice.
        cost: the same; they may be negative.
    """
    lowest = cost.min(axis=1, keepdims=True)
    spare = budget - float(lowest.sum())
    if spare <= 0:
        return np.asarray(cost.argmin(axis=1))
    parts = np.rint(np.minimum(cost - lowest, 2 * spare) / spare * PARTS)
    options = [np.flatnonzero(row) for row in (parts <= PARTS) & _hopeful(loss, parts)]
    least = [np.zeros(PARTS + 1)]  # what is lost at least with so many parts, by how many axes have chosen
    taken = [row[levels].astype(np.int64) for row, levels in zip(parts, options, strict=True)]
    losses = [row[levels] for row, levels in zip(loss, options, strict=True)]
    for needed, lost in zip(taken, losses, strict=True):
        reached = np.full(PARTS + 1, np.inf)
        for part, more in zip(needed.tolist(), lost.tolist(), strict=True):
            np.minimum(reached[part:], least[-1][: PARTS + 1 - part] + more, out=reached[part:])
        least.append(reached)
    left, found = PARTS, list[int]()
    for before, levels, needed, lost in zip(
        least[-2::-1], options[::-1], taken[::-1], losses[::-1], strict=True
    ):
        ends = np.where(needed <= left, before[left - needed] + lost, np.inf)
        choice = int(ends.argmin())
        found.append(int(levels[choice]))
        left -= int(needed[choice])
    return np.array(found[::-1])


def _hopeful(loss: Values, cost: Values) -> NDArray[np.bool_]:
    """(axes, choices) True where a choice may be part of what loses no more than the relaxation's answer.

    By how much more a choice comes to at its price than the best one of that axis is lost at least beyond the
    relaxation's bound (Kellerer, Pferschy and Pisinger, section 11.4).
    """
    fitting, price = priced(loss, cost, PARTS)
    values = loss + price * cost
    least = values.min(axis=1, keepdims=True)
    bound = float(least.sum()) - price * PARTS
    gap = float(_of_each(loss, fitting).sum()) - bound
    return np.asarray(values - least <= gap + ROUNDING * float(np.abs(least).sum()))


def beside(candidate: Candidate, grid: Grid, cost: Cost, target: float) -> tuple[Values, float]:
    """(axes, choices) what the candidate costs more with each allowed count of an axis in place of its own,
    infinite where there is no such choice; and how much more it may."""
    axes = grid.choice_axis
    counts = np.tile(np.array(candidate.kept), (1 + len(axes), 1))
    counts[np.arange(1, len(counts)), axes] = grid.allowed[axes, grid.choice_level]
    own, *_ = costs = cost(counts)
    return grid.spread(costs[1:] - own), target - float(own)


def _of_each(values: Values, levels: Counts) -> Values:
    """(axes,) of (axes, choices) those at the levels."""
    return np.asarray(values[np.arange(len(levels)), levels])
