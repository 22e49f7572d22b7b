"""What a budget lets candidates cost, as one cost; and the projection onto it.

Controllers know one cost and levels of it, the targets. Where several kinds are limited, targets are in the
unit of the kind that leads, and every other kind's cost is put into that unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from search.job import CostKind
from trials.candidate import Candidate, Counts, Space

Cost = Callable[[Counts], NDArray[np.float64]]
"""(candidates, groups) kept units -> (candidates,) costs, all in one unit: milliseconds, MACs, parameters."""

Values = NDArray[np.float64]

_BATCH = 64
_MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What candidates may cost at most of one kind, at each level of the budget.

    `most`, in the unit of `kind`, and `written`, as the job file has it, have one entry per level of the
    budget: where only one is written, it is that of all. `dense` is what percentages are of. `device` is the
    one that was measured, "" where the kind is counted.
    """

    kind: CostKind
    cost: Cost
    most: tuple[float, ...]
    written: tuple[str, ...]
    dense: float
    device: str = ""


@dataclass(frozen=True, slots=True)
class Combined:
    """A cost that is at most a target of the first limit exactly where all limits of that level hold.

    At the limit of a level every kind costs the level's target, straight between limits, and above all of
    them more than the highest target, in proportion. A candidate costs what its dearest kind does. That never
    falls where no kind's cost does.
    """

    limits: tuple[Limit, ...]
    """The leading one first; where it gives more at a level, no other gives less."""

    def __call__(self, counts: Counts) -> Values:
        leading, *others = self.limits
        order = np.argsort(leading.most)
        targets = np.array(leading.most)[order]
        costs = [leading.cost(counts)]
        costs += [_in_targets(other.cost(counts), np.array(other.most)[order], targets) for other in others]
        return np.asarray(np.max(costs, axis=0))

    def at(self, target: float) -> Cost:
        """The same in proportion to the limits of one level, and so without the leaps between levels."""
        level = self.limits[0].most.index(target)

        def cost(counts: Counts) -> Values:
            shares = [limit.cost(counts) / limit.most[level] for limit in self.limits]
            return np.asarray(target * np.max(shares, axis=0))

        return cost


def combined(limits: Sequence[Limit]) -> Cost:
    """What all limits together make of a candidate; of a single one that is its own cost."""
    return limits[0].cost if len(limits) == 1 else Combined(tuple(limits))


def about(cost: Cost, target: float) -> Cost:
    """A cost as it is for who has one target in view: it holds that where `cost` does, but for rounding."""
    return cost.at(target) if isinstance(cost, Combined) else cost


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


def project(space: Space, wanted: NDArray[np.float64], cost: Cost, target: float) -> Candidate:
    """Return the candidate nearest to `wanted` in proportion that costs at most `target` and cannot grow.

    One scale rises from zero and multiplies all wanted counts. Whenever a scaled count comes nearer to the
    next allowed count of its axis, the axis takes that step, if it fits. So the wanted proportions hold as
    far as counts and budget allow, and where large steps hold some axes back, the others share what is left.
    A measured table may dip where theory says that it rises; then, too, the result fits and no single step
    more does. A block is no matter of proportion: it is kept where half of it or more is wanted, as far as
    the budget goes, and else comes back last.

    Args:
        wanted: (groups,) only the proportions matter, except of blocks; an axis of which nothing is wanted
            rises last.
        cost: called with at most max(64, groups) candidates at a time.
        target: in the unit of `cost`.

    Raises:
        RequestError: the smallest candidate costs more than `target`.
    """
    grid = Grid.of(space)

    def fits(levels: Counts) -> NDArray[np.bool_]:
        return cost(grid.counts(levels)) <= target

    scale = grid.step_at / np.maximum(wanted, 1e-9)[grid.step_axis]
    scale = np.where(grid.of_block, np.where(scale <= 1, 0, np.inf), scale)
    order = np.argsort(scale, kind="stable")
    step_axis, step_level = grid.step_axis[order], grid.step_level[order]
    levels = _climb(np.zeros_like(grid.top), step_axis, fits)
    if not levels.any():
        [smallest_cost] = cost(grid.counts(levels[None]))
        if smallest_cost > target:
            raise RequestError(
                f"no candidate costs at most {target:.6g}: the smallest one costs {smallest_cost:.6g}; "
                "raise the budget to that, or let the groups keep fewer units"
            )
    while True:
        one_more = np.minimum(levels + np.eye(len(levels), dtype=np.int64), grid.top)
        may_rise = (levels < grid.top) & fits(one_more)
        if not may_rise.any():
            return Candidate(tuple(grid.counts(levels).tolist()))
        steps = step_axis[may_rise[step_axis] & (step_level > levels[step_axis])]
        levels = _climb(one_more[steps[0]], steps[1:], fits)


def _climb(levels: Counts, steps: Counts, fits: Callable[[Counts], NDArray[np.bool_]]) -> Counts:
    """Take as many of the `steps` as fit, from the first on, leaving none out.

    Args:
        levels: (groups,) where the climb starts, which must fit.
        steps: the axes that rise, one level each, in order; an axis comes as often as it has levels left.
    """
    groups = len(levels)
    while steps.size:
        cuts = np.unique(np.linspace(0, steps.size, _BATCH, dtype=np.int64))
        stretch = np.repeat(np.arange(1, len(cuts)), np.diff(cuts))
        rises = np.bincount(stretch * groups + steps, minlength=len(cuts) * groups).reshape(-1, groups)
        reached = levels + rises.cumsum(axis=0)
        best = np.flatnonzero(fits(reached[1:])).max(initial=-1) + 1
        levels = reached[best]
        # The step that does not fit lies in the next stretch; at the latest it is the last one of it.
        steps = steps[cuts[best] : cuts[best + 1] - 1] if best + 1 < len(cuts) else steps[:0]
    return levels


def count_within(space: Space, cost: Cost, target: float) -> int | None:
    """How many candidates cost at most `target`; None where there are too many to go through."""
    allowed = [axis.allowed.tolist() for axis in space.axes]
    if prod(map(len, allowed)) > _MOST_COUNTED:
        return None
    return int((cost(np.array(list(product(*allowed)))) <= target).sum())


@dataclass(frozen=True, slots=True)
class Grid:
    """The allowed counts of a space's axes as levels 0, 1, ... and the steps between them."""

    allowed: Counts
    """(groups, levels) kept units; rows of shorter axes repeat their size."""
    top: Counts
    """(groups,) the highest level."""
    step_axis: Counts
    """(steps,) the axis of each step of the space."""
    step_level: Counts
    """(steps,) the level that the step leads to."""
    step_at: NDArray[np.float64]
    """(steps,) the wanted count from which the higher level is the nearer one."""
    of_block: NDArray[np.bool_]
    """(steps,) whether the axis is a block, which is kept or not."""
    choice_axis: Counts
    """(choices,) the axis of each allowed count."""
    choice_level: Counts
    """(choices,) its level there."""

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, space: Space) -> Self:
        allowed = [axis.allowed for axis in space.axes]
        most = max(map(len, allowed))
        lengths = np.array([len(counts) for counts in allowed])
        choice_axis, choice_level = np.nonzero(np.arange(most) < lengths[:, None])
        step_axis = np.repeat(np.arange(len(allowed)), lengths - 1)
        return cls(
            allowed=np.stack([np.pad(counts, (0, most - len(counts)), mode="edge") for counts in allowed]),
            top=lengths - 1,
            step_axis=step_axis,
            step_level=np.concatenate([np.arange(1, len(counts)) for counts in allowed]),
            step_at=np.concatenate([(counts[1:] + counts[:-1]) / 2 for counts in allowed]),
            of_block=space.are_blocks[step_axis],
            choice_axis=choice_axis,
            choice_level=choice_level,
        )

    def counts(self, levels: Counts) -> Counts:
        """(..., groups) levels -> (..., groups) kept units."""
        return self.allowed[np.arange(len(self.top)), levels]

    def levels(self, candidate: Candidate) -> Counts:
        """(groups,) the level of each count, which must be allowed."""
        return np.asarray((self.allowed < np.array(candidate.kept)[:, None]).sum(axis=1))

    def spread(self, values: Values) -> Values:
        """(choices,) values as (groups, levels), infinite where an axis has no such level."""
        found = np.full(self.allowed.shape, np.inf)
        found[self.choice_axis, self.choice_level] = values
        return found
