"""How a model does when it is pruned further and further: a few real trials along its best allocations.

The allocations are the knapsack's for the model's sensitivities (`search.knapsack`), evenly spaced in cost
from the smallest candidate up. Unlike the sum of what groups cost alone, what a trial finds holds for groups
pruned together, can be compared between models, and has an accuracy, which is what a floor asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hwprofiles.errors import RequestError
from search.answers import answers
from search.knapsack import allocate
from search.loop import Workers
from search.plan import Prepared
from search.profiling import narrowest
from search.progress import Listener
from search.sensing import sense
from search.sets.split import Curve
from trials.candidate import as_counts
from trials.requests import Outcome, Request

POINTS = 6
"""Allocations of a model that are tried."""

Tried = Mapping[int, tuple[float, float, float] | None]
"""Number of an allocation, cheapest first → its cost in the unit of the budget, divergence and accuracy; None
where it could not be made real."""


def sweep(
    prepared: Prepared,
    workers: Workers,
    tried: Tried,
    keep: Callable[[Tried], None],
    listener: Listener,
) -> None:
    """Try what has not been tried of a model's allocations; `keep` is given all that is known each time.

    Raises:
        RequestError: none could be made real; says why.
    """
    space, cost = prepared.space, prepared.cost
    losses = sense(prepared, workers, listener).losses(space)
    least, most = cost(as_counts([narrowest(space), space.dense])).tolist()
    found, reasons = dict(tried), list[str]()
    todo = [number for number in range(POINTS) if number not in found]
    along = [
        allocate(space, losses, cost, target)
        for target in np.linspace(least, most, POINTS, endpoint=False)[todo].tolist()
    ]
    requests = [Request(candidate=candidate, seed=prepared.job.search.seed) for candidate in along]
    for done, (place, value, reason) in enumerate(answers(workers, requests), start=1):
        if isinstance(value, Outcome):
            facts, paid = value.facts, float(cost(as_counts([along[place]]))[0])
            found[todo[place]] = (paid, facts.divergence, facts.accuracy)
        else:
            found[todo[place]] = None
            reasons.append(reason)
        keep(found)
        listener.update(done / len(todo), f"{done} of {len(todo)} allocations tried")
    if not any(found.values()):
        raise RequestError(f"no candidate of {prepared.job.name!r} could be made real: {reasons[0]}")


def curve(prepared: Prepared, tried: Tried) -> Curve:
    """What was tried of a model, and the dense model behind it."""
    dense = float(prepared.cost(as_counts([prepared.space.dense]))[0])
    points = sorted(point for point in tried.values() if point and point[0] < dense)
    cost, divergence, accuracy = np.array([*points, (dense, 0.0, prepared.plan.dense_accuracy)]).T
    return Curve(cost, divergence, accuracy)
