"""A set of models as a dashboard shows it: what each may become, and the front of all of them together.

From the store, graphs and profiles, as `search.board`: no torch, weights or data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import NotFoundError
from search.board import Board, Boards
from search.sets.asked import Member, ModelSet
from search.wording import UNITS, budget_text
from trials.candidate import as_counts
from trials.records import JobRecord, Outline
from trials.store import Store

MOST_SUMS = 2000
"""Of some models together that count when one more is added; of more those evenly over their costs."""


@dataclass(frozen=True, slots=True)
class Option:
    """Something that a model may become: itself, a trial of its job, or what was tried before there is one.

    `cost` is in the unit of the set's budget, as measured where that is a latency and it was, else as
    predicted. `stage` is "dense", "tried", "searched" or "trained".
    """

    cost: float
    accuracy: float
    trial: int | None
    stage: str


def show_set(record: JobRecord, store: Store, boards: Boards) -> dict[str, Any]:
    """Each model with its options, and which of them are worth it together at each total cost.

    `front` has for each of its points the numbers of the models' options. Accuracies are 0..1 on validation,
    those of all together means by weight. `taken` is what was chosen at the end, `equal` the best of an equal
    division, each None as long as it is not known.

    Raises:
        NotFoundError: the job is one of a single model.
    """
    if "models" not in record.spec:
        raise NotFoundError(f"job {record.name!r} is no set of models; look at its front")
    asked, shares = ModelSet.from_json(record.spec), record.plan.get("shares", {})
    weights = [member.weight for member in asked.models]
    # Before the budget is divided a job of that name would be another's.
    begun = [_begun(store, job) if shares else (None, []) for job in asked.jobs]
    found = [
        _options(asked, member, record, trials, store, boards)
        for member, (_, trials) in zip(asked.models, begun, strict=True)
    ]
    dense = [options[0] if options else None for options in found]
    taken = [
        _taken(options, record.plan.get("taken", {}), member.name)
        for options, member in zip(found, asked.models, strict=True)
    ]
    equal = [
        _best_within(options, shares[member.name]["equal"]) if member.name in shares else None
        for options, member in zip(found, asked.models, strict=True)
    ]
    worth = [_worth_it(options) for options in found]
    whole, [level] = _together(dense, weights), asked.budget.leading.levels
    return {
        "job": record.name,
        "device": asked.devices[0].name,
        "unit": UNITS[asked.budget.leading.kind],
        "budget": budget_text(asked.budget),
        "limit": whole and level.value * whole["cost"] if level.relative else level.value,
        "dense": whole,
        "taken": _together(taken, weights),
        "equal": _together(equal, weights),
        "models": [
            {
                "name": member.name,
                "job": asked.job_name(member),
                "state": state,
                "finished": sum(trial.state.finished for trial in trials),
                "weight": member.weight,
                "floor": member.least_accuracy(its_dense.accuracy) or None if its_dense else member.floor,
                "share": shares.get(member.name),
                "dense": its_dense and asdict(its_dense),
                "taken": its_taken and asdict(its_taken),
                "options": [asdict(option) for option in options],
            }
            for member, (state, trials), its_dense, its_taken, options in zip(
                asked.models, begun, dense, taken, worth, strict=True
            )
        ],
        "front": whole_front(worth, weights),
    }


def whole_front(models: Sequence[Sequence[Option]], weights: Sequence[float]) -> dict[str, Any]:
    """What no other choice of one option for each model beats, cheapest first: total cost, mean accuracy, and
    the numbers of the options. Empty where a model has none.

    The rule of `search.sets.split`, at every budget at once.
    """
    sums, chosen = np.zeros((1, 2)), np.zeros((1, 0), dtype=np.int64)
    for options, weight in zip(models, weights, strict=True):
        if not options:
            return {"cost": [], "accuracy": [], "options": []}
        sums = (sums[:, None] + _costs(options, weight)).reshape(-1, 2)
        numbers = np.tile(np.arange(len(options)), len(chosen))
        chosen = np.column_stack([chosen.repeat(len(options), axis=0), numbers])
        kept = _improving(sums)
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, MOST_SUMS).astype(int))]
        sums, chosen = sums[kept], chosen[kept]
    return {
        "cost": sums[:, 0].tolist(),
        "accuracy": (1 - sums[:, 1] / sum(weights)).tolist(),
        "options": chosen.tolist(),
    }


def _begun(store: Store, job: str) -> tuple[str | None, list[Outline]]:
    """The state of a model's job and its trials, as soon as it is there."""
    try:
        return str(store.job(job).state), store.outlines(job)
    except NotFoundError:
        return None, []


def _options(
    asked: ModelSet,
    member: Member,
    record: JobRecord,
    trials: Sequence[Outline],
    store: Store,
    boards: Boards,
) -> list[Option]:
    """All that a model may become, the dense model first; none before it is planned."""
    name, kind = asked.job_name(member), asked.budget.leading.kind
    plan = record.plan.get("jobs", {}).get(member.name)
    if plan is None:
        return []
    spec = asked.job(member).to_json()
    board = boards.of(
        JobRecord(name=name, state=record.state, spec=spec, plan=plan, created_s=record.created_s)
    )
    cost = board.scorer().cost(kind)
    timed = kind == "latency_ms"
    dense_cost = plan["dense_ms"] if timed else cost(board.coupling.space().sizes[None])[0]
    dense = Option(float(dense_cost), plan["dense_accuracy"], None, "dense")
    done = [trial for trial in trials if trial.accuracy is not None]
    if not done:
        tried = record.plan.get("tried", {}).get(member.name, {}).values()
        return [dense, *(Option(point[0], point[2], None, "tried") for point in tried if point)]
    predicted = cost(as_counts([trial.candidate for trial in done])).tolist()
    searched = {
        trial.number: Option(its_cost, float(trial.accuracy or 0), trial.number, "searched")
        for trial, its_cost in zip(done, predicted, strict=True)
    }
    return [dense, *(searched | _trained(board, store, timed, searched)).values()]


def _trained(board: Board, store: Store, timed: bool, searched: dict[int, Option]) -> dict[int, Option]:
    """The finalists, by their trials."""
    return {
        final["trial"]: Option(
            (timed and final["measured_ms"]) or searched[final["trial"]].cost,
            final["accuracy"],
            final["trial"],
            "trained",
        )
        for final in board.finalists(store)
        if final["trial"] in searched
    }


def _taken(options: Sequence[Option], taken: dict[str, int | None], model: str) -> Option | None:
    """What a model became; None before that is chosen."""
    if model not in taken:
        return None
    return next((option for option in options if option.trial == taken[model]), None)


def _best_within(options: Sequence[Option], cost: float) -> Option | None:
    within = [option for option in options if option.cost <= cost]
    return max(within, key=lambda option: (option.accuracy, -option.cost), default=None)


def _worth_it(options: Sequence[Option]) -> list[Option]:
    """Those that no other beats, cheapest first; none costs more than the dense model."""
    allowed = [option for option in options if option.cost <= options[0].cost]
    return [allowed[number] for number in _improving(_costs(allowed, 1.0))] if allowed else []


def _together(options: Sequence[Option | None], weights: Sequence[float]) -> dict[str, float] | None:
    """Total cost and mean accuracy of one option for each model; None where one is not known."""
    known = [option for option in options if option]
    if len(known) < len(options):
        return None
    accuracy = sum(weight * option.accuracy for weight, option in zip(weights, known, strict=True))
    return {"cost": sum(option.cost for option in known), "accuracy": accuracy / sum(weights)}


def _costs(options: Sequence[Option], weight: float) -> NDArray[np.float64]:
    """(options, 2): cost, and the model's weight times error."""
    return np.array([(option.cost, weight * (1 - option.accuracy)) for option in options])


def _improving(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which (cost, loss) lose less than all that cost no more, cheapest first."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    loss = points[order, 1]
    least_before = np.minimum.accumulate(np.concatenate([[np.inf], loss[:-1]]))
    return np.asarray(order[loss < least_before - 1e-12])
