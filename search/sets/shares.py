"""Everything before the search of a set: each model is planned and tried, and the budget is divided."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from hwprofiles.errors import RequestError
from search.plan import Plan, Prepared, prepare
from search.progress import Listener, Prefixed
from search.session import open_pool
from search.sets.asked import Member, ModelSet
from search.sets.plan import OpenSet, Share
from search.sets.split import Curve, divide, levels
from search.sets.sweep import POINTS, Tried, curve, sweep
from search.wording import UNITS


def plan_shares(opened: OpenSet, listener: Listener) -> None:
    """Divide the budget of a set, and create the job of each model with its share; does what is missing.

    Raises:
        RequestError: a model cannot be searched as asked or cannot have its floor, or all of them together
            cannot meet the budget, or meet it as they are.
    """
    asked, plan = opened.asked, opened.plan
    if not plan.shares:
        found = [_tried(opened, member, Prefixed(listener, member.name)) for member in asked.models]
        plan.shares |= _divided(asked, [each for each, _ in found], [dense for _, dense in found])
        opened.keep()
    known = {record.name for record in opened.store.jobs()}
    for member in asked.models:
        job, levels = opened.job(member), plan.shares[member.name].levels
        if job.name not in known:
            own = replace(Plan.from_json(plan.jobs[member.name]), targets=levels)
            opened.store.create_job(job.name, job.to_json(), own.to_json())


def limit(asked: ModelSet, dense: Sequence[float]) -> float:
    """What all models together may cost, given what each costs dense."""
    [level] = asked.budget.leading.levels
    return level.value * sum(dense) if level.relative else level.value


def _tried(opened: OpenSet, member: Member, listener: Listener) -> tuple[Curve, float]:
    """How one model does along its best allocations, and what percentages of its cost are of."""
    plan, place = opened.plan, opened.place_of(member)
    with place.lock():
        try:
            known = plan.jobs.get(member.name, {})
            prepared = prepare(opened.asked.job(member), place, known, listener, shared=True)
            _check_floor(member, prepared)
        except RequestError:
            if not place.profile.exists():
                shutil.rmtree(place.folder, ignore_errors=True)
            raise
        except KeyboardInterrupt:
            place.remove_if_empty()
            raise
        plan.jobs[member.name] = prepared.plan.to_json()
        opened.keep()

        def keep(tried: Tried) -> None:
            plan.tried[member.name] = tried
            opened.keep()

        tried = plan.tried.get(member.name, {})
        if len(tried) < POINTS:
            listener.stage("trying")
            with open_pool(prepared) as workers:
                sweep(prepared, workers, tried, keep, listener)
    return curve(prepared, plan.tried[member.name]), prepared.limits[0].dense


def _check_floor(member: Member, prepared: Prepared) -> None:
    dense = prepared.plan.dense_accuracy
    if member.floor is None and member.accuracy_drop is None:
        return
    if prepared.splits.carved:
        raise RequestError(
            f"model {member.name!r} has a floor, and no validation split that it can hold on: the model has "
            "seen the images of the one carved from train; name a validation split, or leave the floor out"
        )
    if member.least_accuracy(dense) > dense:
        raise RequestError(
            f"the floor of model {member.name!r} is {member.least_accuracy(dense):.2%}, and the dense model "
            f"gets {dense:.2%} right on validation; allowed: at most that"
        )


def _divided(asked: ModelSet, curves: Sequence[Curve], dense: Sequence[float]) -> dict[str, Share]:
    """The share of each model by its name.

    Args:
        dense: what percentages of the cost of each model are of.

    Raises:
        RequestError: the smallest candidates cost more than the budget, or the dense models less.
    """
    leading, budget = asked.budget.leading, limit(asked, dense)
    unit = UNITS[leading.kind]
    given = f"the budget {leading.written(leading.levels[0])} ({budget:.6g} {unit}) of all models"
    least, most = (sum(float(curve.cost[end]) for curve in curves) for end in (0, -1))
    if budget < least:
        each = ", ".join(
            f"{member.name} {curve.cost[0]:.4g}" for member, curve in zip(asked.models, curves, strict=True)
        )
        raise RequestError(
            f"{given} cannot be met: the smallest that they reach together is {least:.6g} {unit} ({each}); "
            "raise it, or lower search.lowest_keep"
        )
    if budget >= most:
        raise RequestError(
            f"{given} asks for nothing: they cost {most:.6g} {unit} as they are; ask for less than that"
        )
    floors = [
        member.least_accuracy(float(curve.accuracy[-1]))
        for member, curve in zip(asked.models, curves, strict=True)
    ]
    costs = divide(curves, [member.weight for member in asked.models], floors, budget)
    shares = {}
    for member, cost, whole, its in zip(asked.models, costs, dense, curves, strict=True):
        equal = budget * whole / sum(dense)
        found = levels(cost, equal, its)
        shares[member.name] = Share(cost, min(found, key=lambda level: abs(level - equal)), found)
    return shares
