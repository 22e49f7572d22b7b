"""From a job's budget to limits on a device; what cannot be met, or asks for nothing, is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwprofiles.errors import RequestError
from search.budget import Cost, Limit
from search.job import Asked, Budget, DeviceChoice, Job
from search.on_device import OnDevice
from search.profiling import narrowest
from search.score import counted
from search.wording import UNITS
from trials.candidate import Space, as_counts
from trials.costs import Costs


def limit_of(
    asked: Asked, cost: Cost, *, levels: int, dense: float, device: str = "", where: str = ""
) -> Limit:
    """One key of a budget as a limit.

    Args:
        levels: of the budget, which this key has or holds at all of.
        dense: what percentages are of.
        device: that was measured, if one was.
        where: what messages add to the key, to say which device it is of.
    """
    most = [level.value * dense if level.relative else level.value for level in asked.levels]
    written = [asked.written(level) + where for level in asked.levels]
    times = levels // len(most)
    return Limit(
        kind=asked.kind,
        cost=cost,
        most=tuple(most * times),
        written=tuple(written * times),
        dense=dense,
        device=device,
    )


def budget_limits(job: Job, devices: Sequence[OnDevice]) -> tuple[Limit, ...]:
    """What a job limits, the leading key first: that of its first device, where it is one of a device.

    What is measured is limited on every device, percentages being of what the dense model costs there.

    Args:
        devices: those of the job, in its order.

    Raises:
        RequestError: energy is limited on a device that told none, or a device has less to give at a level
            at which [budget] has more.
    """
    batch = max(on.device.batch for on in devices)
    limits = list(_counted_limits(job.budget, devices[0].scorer.costs, batch).values())
    for choice, on in zip(job.devices, devices, strict=True):
        limits += _limits_on(job, choice, on).values()
    kinds = [asked.kind for asked in job.budget.asked]
    limits.sort(key=lambda limit: kinds.index(limit.kind) if limit.kind in kinds else len(kinds))
    _check_order(limits)
    return tuple(limits)


def _limits_on(job: Job, choice: DeviceChoice, on: OnDevice) -> dict[Asked, Limit]:
    """What a job limits of that which one of its devices is measured for."""
    return {
        asked: limit_of(
            asked,
            on.scorer.cost(asked.kind),
            levels=len(job.budget.leading.levels),
            dense=on.scorer.dense(asked.kind, on.dense_ms),
            device=choice.name,
            where="" if choice == job.device else f" on {choice.name}",
        )
        for asked in job.measured_on(choice)
    }


def _check_order(limits: Sequence[Limit]) -> None:
    """Refuse levels that fall on one device where those of the leading limit rise."""
    first = limits[0]
    if len(set(first.most)) < len(first.most):
        raise RequestError(
            f"two of the levels {', '.join(first.written)} come to the same {first.most}; remove one"
        )
    order = np.argsort(first.most)
    for limit in limits:
        if (np.diff(np.array(limit.most)[order]) < 0).any():
            raise RequestError(
                f"the levels {', '.join(limit.written)} fall where those of [budget], "
                f"{', '.join(first.written)}, rise; write them in the same order"
            )


def _counted_limits(budget: Budget, costs: Costs, batch: int) -> dict[Asked, Limit]:
    """The limits on what shapes alone tell."""
    dense = as_counts([costs.coupling.space().dense])
    return {
        asked: limit_of(asked, cost, levels=len(budget.leading.levels), dense=float(cost(dense)[0]))
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


def check_on(job: Job, choice: DeviceChoice, on: OnDevice, space: Space) -> None:
    """Refuse what no candidate can meet on one device, which is known before other devices are measured.

    Raises:
        RequestError: as `budget_limits` and `check`.
    """
    may_have_own = choice != job.device and not choice.own_latency
    for asked, limit in _limits_on(job, choice, on).items():
        own = may_have_own and asked.kind == "latency_ms"
        remedy = f"give {choice.name!r} {asked.key} of its own under [[devices]], " if own else ""
        _check_reachable([limit], space, remedy)


def check(limits: Sequence[Limit], space: Space) -> None:
    """Refuse what no candidate can meet, and a level all of whose limits the dense model meets as it is.

    Raises:
        RequestError: names the limit and the least that is reachable, or what the dense model costs.
    """
    _check_reachable(limits, space)
    costs = [float(limit.cost(as_counts([space.dense]))[0]) for limit in limits]
    for level in range(len(limits[0].most)):
        if all(cost <= limit.most[level] for cost, limit in zip(costs, limits, strict=True)):
            told = " and ".join(_told(limit, level) for limit in limits)
            found = " and ".join(
                f"{cost:.6g} {UNITS[limit.kind]}" for cost, limit in zip(costs, limits, strict=True)
            )
            raise RequestError(
                f"the budget {told} asks for nothing: the dense model costs {found} as it is; ask for less "
                "than that"
            )


def _check_reachable(limits: Sequence[Limit], space: Space, remedy: str = "") -> None:
    """The narrowest candidate costs least of every kind, so limits that can be met one by one can be met
    together.

    Args:
        remedy: what else than raising the limit a message suggests.
    """
    for limit in limits:
        [least] = limit.cost(as_counts([narrowest(space)]))
        for level, most in enumerate(limit.most):
            if limit.kind.startswith("latency") and most < least and least >= limit.dense:
                raise RequestError(
                    f"the budget {_told(limit, level)} cannot be met: on {limit.device} the narrowest "
                    f"candidate is not known to be faster than the dense model ({least:.6g} "
                    f"{UNITS[limit.kind]} with its error bar, {limit.dense:.6g}); give the device more work "
                    f"with a larger batch, measure it again while nothing else runs, {remedy}or limit macs"
                )
            if most < least:
                raise RequestError(
                    f"the budget {_told(limit, level)} cannot be met: the smallest reachable is {least:.6g} "
                    f"{UNITS[limit.kind]} ({least / limit.dense:.0%} of dense); raise it, {remedy}or "
                    "lower search.lowest_keep"
                )


def _told(limit: Limit, level: int) -> str:
    """What the job file asks for at a level, with what a percentage amounts to."""
    written, most = limit.written[level], limit.most[level]
    return f"{written} ({most:.6g} {UNITS[limit.kind]})" if "%" in written else written
