"""What a job's budget asks for as one cost: limits of several kinds at once, at every level of the budget.

Controllers know one cost and levels of it, the targets, in the unit of the kind that leads. So every other
kind's cost is put into that unit: at the limit of a level it is the level's target, between limits it is
straight. The dearest kind is what a candidate costs: it costs at most a target exactly where it meets all
limits of that level. No kind's cost falls where units are added, if none did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from search.budget import Cost
from search.job import Asked, Budget, CostKind
from search.profiling import narrowest
from search.score import Scorer, counted
from search.wording import UNITS
from trials.candidate import Counts, Space, as_counts
from trials.costs import Costs

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One key of a budget: what candidates may cost at most, at each level of the budget.

    `most`, in the unit of `kind`, and `written`, as the job file has it, have one entry per level of the
    budget: where the key has one level only, it is that of all. `dense` is what percentages are of. `device`
    is the one that was measured, "" where the kind is counted.
    """

    kind: CostKind
    cost: Cost
    most: tuple[float, ...]
    written: tuple[str, ...]
    dense: float
    device: str = ""

    @classmethod
    def of(cls, asked: Asked, cost: Cost, *, levels: int, dense: float, device: str = "") -> Limit:
        """
        Args:
            levels: of the budget, which this key has or holds at all of.
        """
        most = [level.value * dense if level.relative else level.value for level in asked.levels]
        written = [asked.written(level) for level in asked.levels]
        times = levels // len(most)
        return cls(
            kind=asked.kind,
            cost=cost,
            most=tuple(most * times),
            written=tuple(written * times),
            dense=dense,
            device=device,
        )

    def told(self, level: int) -> str:
        """What the job file asks for at a level, with what a percentage amounts to."""
        written, most = self.written[level], self.most[level]
        return f"{written} ({most:.6g} {UNITS[self.kind]})" if "%" in written else written


def combined(limits: Sequence[Limit]) -> Cost:
    """The cost that is at most a target of the leading limit where all limits of that level hold.

    Of a single limit it is that limit's own.

    Args:
        limits: the leading one first; where it has more to give at a level, no other may have less.
    """
    leading, *others = limits
    if not others:
        return leading.cost
    order = np.argsort(leading.most)
    targets = np.array(leading.most)[order]

    def cost(counts: Counts) -> Values:
        costs = [leading.cost(counts)]
        costs += [_in_targets(other.cost(counts), np.array(other.most)[order], targets) for other in others]
        return np.asarray(np.max(costs, axis=0))

    return cost


def _in_targets(costs: Values, most: Values, targets: Values) -> Values:
    """(candidates,) costs of one kind in the unit of another, level for level.

    Args:
        most: (levels,) the most that each level allows of the one, ascending, perhaps the same.
        targets: (levels,) the same of the other, ascending.
    """
    level = np.searchsorted(most, costs)  # the first one that is met
    knots = np.append(0.0, targets)
    straight = np.interp(costs, np.append(0.0, most), knots)
    beyond = targets[-1] * costs / most[-1]
    found = np.where(level < len(most), straight, beyond)
    # Rounding must not let a cost slip into another level.
    above = np.nextafter(knots, np.inf)[level]
    inside: Values = np.minimum(np.maximum(found, above), np.append(targets, np.inf)[level])
    return inside


def budget_limits(budget: Budget, scorer: Scorer, dense_ms: float) -> tuple[Limit, ...]:
    """What a budget limits on a device, the leading key first.

    Args:
        dense_ms: the dense model's latency as it was measured.

    Raises:
        RequestError: energy is limited on a device that told none.
    """
    levels, device = len(budget.leading.levels), scorer.table.device
    known = _counted_limits(budget, scorer.costs, device.batch)
    return tuple(
        known.get(asked)
        or Limit.of(
            asked,
            scorer.cost(asked.kind),
            levels=levels,
            dense=scorer.dense(asked.kind, dense_ms),
            device=device.name,
        )
        for asked in budget.asked
    )


def _counted_limits(budget: Budget, costs: Costs, batch: int) -> dict[Asked, Limit]:
    """The limits on what shapes alone tell."""
    dense = as_counts([costs.coupling.space().dense])
    return {
        asked: Limit.of(asked, cost, levels=len(budget.leading.levels), dense=float(cost(dense)[0]))
        for kind, cost in counted(costs, batch).items()
        for asked in budget.asked
        if asked.kind == kind
    }


def check_counted(budget: Budget, costs: Costs, batch: int, space: Space) -> None:
    """Refuse as much of a budget as shapes alone can: see `check`."""
    limits = list(_counted_limits(budget, costs, batch).values())
    if len(limits) == len(budget.asked):
        check(limits, space)
    _check_reachable(limits, space)


def check(limits: Sequence[Limit], space: Space) -> None:
    """Refuse what no candidate can meet, and a level all of whose limits the dense model meets as it is.

    Raises:
        RequestError: names the limit and the least that is reachable, or what the dense model costs.
    """
    _check_reachable(limits, space)
    costs = [float(limit.cost(as_counts([space.dense]))[0]) for limit in limits]
    for level in range(len(limits[0].most)):
        if all(cost <= limit.most[level] for cost, limit in zip(costs, limits, strict=True)):
            told = " and ".join(limit.told(level) for limit in limits)
            found = " and ".join(
                f"{cost:.6g} {UNITS[limit.kind]}" for cost, limit in zip(costs, limits, strict=True)
            )
            raise RequestError(
                f"the budget {told} asks for nothing: the dense model costs {found} as it is; ask for less "
                "than that"
            )


def _check_reachable(limits: Sequence[Limit], space: Space) -> None:
    """The narrowest candidate costs least of every kind, so limits that can be met one by one can be met
    together."""
    for limit in limits:
        [least] = limit.cost(as_counts([narrowest(space)]))
        for level, most in enumerate(limit.most):
            if most < least:
                raise RequestError(
                    f"the budget {limit.told(level)} cannot be met: the smallest reachable is {least:.6g} "
                    f"{UNITS[limit.kind]} ({least / limit.dense:.0%} of dense); raise it, or lower "
                    "search.lowest_keep"
                )
