"""Which trial to take, once it is known what it may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from math import inf
from typing import Any, get_args

import numpy as np

from hwprofiles.errors import RequestError
from search.finalists import label
from search.job import CostKind
from search.on_device import OnDevice
from search.plan import Prepared
from search.results import FINAL, results
from search.status import trial_rows
from search.wording import rounded_up
from trials.candidate import Facts, Trial, as_counts
from trials.requests import merit
from trials.store import Store

Limits = Mapping[CostKind, float]
"""What a trial may cost at most, of each kind that is limited."""
OF_SHAPES: Set[CostKind] = {"macs", "parameters", "size_bytes"}
"""Kinds that are the same on every device."""


def limits_of(asked: Mapping[CostKind, float | None], how: str) -> Limits:
    """Those kinds of which a limit is asked for.

    Args:
        how: one asks, for whoever did not.

    Raises:
        RequestError: there is none, or one that is no number above 0.
    """
    limits = {kind: limit for kind, limit in asked.items() if limit is not None}
    if not limits or not all(0 < limit < inf for limit in limits.values()):
        raise RequestError(f"{how}; give each a number above 0")
    return limits


def parse_limits(written: Sequence[str]) -> Limits:
    """Read limits such as "latency_ms=5".

    Raises:
        RequestError: one is not of this form, or of a kind that there is not, or it is there twice.
    """
    limits: dict[CostKind, float] = {}
    for text in written:
        key, _, value = text.partition("=")
        kind = next((kind for kind in get_args(CostKind) if kind == key.strip()), None)
        if kind is None or kind in limits:
            kinds = ", ".join(get_args(CostKind))
            raise RequestError(
                f"--budget {text!r} is not of the form latency_ms=5; allowed, each once: {kinds}"
            )
        try:
            limits[kind] = float(value)
        except ValueError:
            limits[kind] = 0.0
    return limits_of(limits, f"--budget {' '.join(written)} limits nothing")


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
        asked = " and ".join(f"{kind}={limit:.15g}" for kind, limit in limits.items())
        nearest = " and ".join(f"{kind}={rounded_up(float(costs[kind][best])):.4g}" for kind in limits)
        where = "" if limits.keys() <= OF_SHAPES else f" on {on.device.name}"
        raise RequestError(
            f"no trial of job {job!r} holds {asked}{where}; the nearest, trial {done[best].number}, holds "
            f"{nearest}: ask for that, or search with a lower budget"
        )
    finals = results(store, job, FINAL)
    trained = [trial for trial in fits if trial.number in finals]

    def merit_so_far(trial: Trial) -> float:
        return merit(Facts.from_json(finals[trial.number]["facts"]), prepared.splits.carved)

    # What was trained to the end is known better than what was not: the two are not compared.
    return max(trained, key=merit_so_far) if trained else max(fits, key=prepared.merit)


def picked(prepared: Prepared, store: Store, on: OnDevice, trial: Trial, limits: Limits) -> dict[str, Any]:
    """What there is to know of a trial before it is taken, and the command that takes it.

    Its accuracy and facts are those after full training where it is a finalist. "held" is what it costs of
    each kind that was limited.
    """
    job = prepared.job.name
    final, measured = results(store, job, FINAL).get(trial.number), results(store, job, on.measured)
    [score] = on.scorer.score([trial.candidate])
    [row] = [row for row in trial_rows(store, job) if row["trial"] == trial.number]
    facts = Facts.from_json(final["facts"]) if final else trial.facts
    assert facts is not None
    counts = as_counts([trial.candidate])
    return {
        "trial": trial.number,
        "label": label(trial),
        "device": on.device.name,
        "modelled": on.device.modelled,
        "predicted": {"latency_ms": score.latency_ms, "error_ms": score.error_ms},
        "measured_ms": measured[trial.number]["latency_ms"] if trial.number in measured else None,
        "held": {kind: float(on.scorer.cost(kind)(counts)[0]) for kind in limits},
        "macs": facts.macs,
        "parameters": facts.parameters,
        "validation": {"accuracy": facts.accuracy, "accuracy_error": facts.accuracy_error},
        "test": dict(final["test"]) if final and final["test"] else None,
        "finalist": final is not None,
        "then": row["then"],
        "next": f"prunefront export {prepared.place.folder} --trial {trial.number}",
    }
