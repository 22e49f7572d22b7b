"""Which trial to take, once it is known what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwprofiles.errors import RequestError
from search.finish import FINAL, label, results
from search.job import CostKind
from search.on_device import OnDevice
from search.plan import Prepared
from search.report import amount
from search.status import trial_rows
from search.wording import UNITS
from trials.candidate import Facts, Trial, as_counts
from trials.run import merit
from trials.store import Store

Limits = Mapping[CostKind, float]
"""What a trial may cost at most, of each kind that is limited."""


def pick(prepared: Prepared, store: Store, on: OnDevice, limits: Limits) -> Trial:
    """The most accurate trial that holds all limits, latency with its error bar; finalists come first.

    Raises:
        RequestError: none does; names the one that comes nearest, and what that costs.
    """
    job = prepared.job.name
    done = [trial for trial in store.trials(job) if trial.facts is not None]
    if not done:
        raise RequestError(f"job {job!r} has no finished trial yet; resume it first")
    counts = as_counts([trial.candidate for trial in done])
    costs = {kind: on.scorer.cost(kind)(counts) for kind in limits}
    excess = np.max([costs[kind] / limit for kind, limit in limits.items()], axis=0)
    fits = [trial for trial, over in zip(done, excess, strict=True) if over <= 1]
    if not fits:
        best = int(excess.argmin())
        asked = " and ".join(told(kind, limit) for kind, limit in limits.items())
        nearest = " and ".join(told(kind, float(costs[kind][best])) for kind in limits)
        raise RequestError(
            f"no trial of job {job!r} is predicted to hold {asked} on {on.device.name}; the nearest, trial "
            f"{done[best].number}, takes up to {nearest}: ask for that, or search with a lower budget"
        )
    finals = results(store, job, FINAL)
    trained = [trial for trial in fits if trial.number in finals]

    def merit_so_far(trial: Trial) -> float:
        return merit(Facts.from_json(finals[trial.number]["facts"]), prepared.splits.carved)

    # What was trained to the end is known better than what was not: the two are not compared.
    return max(trained, key=merit_so_far) if trained else max(fits, key=prepared.merit)


def told(kind: CostKind, cost: float) -> str:
    """A cost as people say it, such as "5.00 ms" or "2.00 M MACs"."""
    return f"{amount(cost, UNITS[kind])} {UNITS[kind]}"


def picked(prepared: Prepared, store: Store, on: OnDevice, trial: Trial) -> dict[str, Any]:
    """What there is to know of a trial before it is taken, and the command that takes it.

    Its accuracy and facts are those after full training where it is a finalist.
    """
    job = prepared.job.name
    final, measured = results(store, job, FINAL).get(trial.number), results(store, job, on.measured)
    [score] = on.scorer.score([trial.candidate])
    [row] = [row for row in trial_rows(store, job) if row["trial"] == trial.number]
    facts = Facts.from_json(final["facts"]) if final else trial.facts
    assert facts is not None
    return {
        "trial": trial.number,
        "label": label(trial),
        "device": on.device.name,
        "modelled": on.device.modelled,
        "predicted": {"latency_ms": score.latency_ms, "error_ms": score.error_ms},
        "measured_ms": measured[trial.number]["latency_ms"] if trial.number in measured else None,
        "macs": facts.macs,
        "parameters": facts.parameters,
        "validation": {"accuracy": facts.accuracy, "accuracy_error": facts.accuracy_error},
        "test": dict(final["test"]) if final and final["test"] else None,
        "finalist": final is not None,
        "then": row["then"],
        "next": f"prunefront export {prepared.place.folder} --trial {trial.number}",
    }
