"""What the store knows of jobs and trials, as plain data; loads neither torch nor the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwprofiles.errors import RequestError
from hwprofiles.foreign import parse_json
from search.job import Budget, DeviceChoice
from search.place import Place
from search.wording import UNITS, budget_text
from trials.candidate import Trial, TrialState
from trials.records import JobRecord, JobState, Result
from trials.store import STATE_EVENT, TRIAL_EVENT, Store

FATES = {"exported": "exported", "final": "finalist"}
"""Kind of a trial's result → what became of the trial; the first that it has counts."""
AT_WORK = (JobState.PLANNING, JobState.SEARCHING, JobState.FINISHING)
"""States in which a process works on a job, unless it was killed."""
STOPPED = "stopped"
WAITING = (STOPPED, JobState.INTERRUPTED, JobState.PAUSED, JobState.FAILED)
"""States, as they are told, of jobs that somebody has to go on with."""


def jobs_of(record: JobRecord) -> list[str]:
    """The jobs of a set's models, whether or not they have begun; none of what is a job itself."""
    return [f"{record.name}.{model['name']}" for model in record.spec.get("models", ())]


def job_facts(store: Store, place: Place) -> dict[str, Any]:
    """State and progress of one job, or of a set of models with the trials of all of its jobs; what a killed
    process worked on is said to be stopped."""
    name = place.job
    record, known = store.job(name), {each.name for each in store.jobs()}
    models = jobs_of(record)
    trials = [trial for job in models or [name] if job in known for trial in store.trials(job)]
    done = [trial for trial in trials if trial.state is TrialState.DONE]
    best = max((trial.facts.accuracy for trial in done if trial.facts and not models), default=None)
    return {
        "job": name,
        "state": STOPPED if record.state in AT_WORK and not place.is_held() else str(record.state),
        "created": datetime.fromtimestamp(record.created_s, UTC).isoformat(timespec="seconds"),
        "trials": len(done),
        "planned": record.spec["search"]["trials"] * max(1, len(models)),
        "budget": budget_text(_budget(record), _devices(record)),
        "failed": sum(trial.state is TrialState.FAILED for trial in trials),
        "best": None if best is None else round(best, 4),
        "events": [
            f"{event.kind}: {event.message}"
            for event in store.events(name)
            if event.kind not in (STATE_EVENT, TRIAL_EVENT)
        ],
    }


def set_facts(store: Store, place: Place) -> dict[str, Any]:
    """The jobs of a set's models, and what part of the budget each has; nothing of what is a job itself."""
    record, known = store.job(place.job), {each.name for each in store.jobs()}
    jobs, shares = jobs_of(record), record.plan.get("shares", {})
    if not jobs:
        return {}
    return {
        "jobs": [job_facts(store, Place(place.runs, job)) for job in jobs if job in known],
        "shares": shares,
        "unit": UNITS[_budget(record).leading.kind],
    }


def trial_rows(store: Store, name: str) -> list[dict[str, Any]]:
    """All trials of a job in short; "then" says what became of one after the search."""
    results = store.results(name)
    return [_in_short(trial, results) for trial in store.trials(name)]


def trial_facts(store: Store, place: Place, number: int) -> dict[str, Any]:
    """Everything that is known about one trial.

    Raises:
        RequestError: the job has no such trial, or its graph or profile is gone.
    """
    record = store.job(place.job)
    trials = {trial.number: trial for trial in store.trials(place.job)}
    if number not in trials:
        shown = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise RequestError(f"job {place.job!r} has no trial {number}; its trials: {shown}")
    budget = _budget(record)
    trial, results = trials[number], store.results(place.job)
    return {
        **_in_short(trial, results),
        "target": trial.target,
        "target_unit": UNITS[budget.leading.kind],
        "seed": trial.seed,
        "attempts": trial.attempts,
        **_costs(place, record, trial),
        "results": {r.kind: dict(r.data) for r in results if r.trial == number},
    }


def _in_short(trial: Trial, results: Sequence[Result]) -> dict[str, Any]:
    kinds = {result.kind for result in results if result.trial == trial.number}
    return {
        "trial": trial.number,
        "state": str(trial.state),
        "origin": trial.origin,
        "reason": trial.reason,
        "facts": trial.facts.to_json() if trial.facts else None,
        "then": next((fate for kind, fate in FATES.items() if kind in kinds), ""),
    }


def _budget(record: JobRecord) -> Budget:
    return Budget.checked(record.spec["budget"], f"the stored job {record.name!r}")


def _devices(record: JobRecord) -> list[DeviceChoice]:
    return [DeviceChoice.checked(each, f"the stored job {record.name!r}") for each in record.spec["devices"]]


def _costs(place: Place, record: JobRecord, trial: Trial) -> dict[str, Any]:
    """What a trial keeps by the names of its groups, which of them went with a block, and its predicted
    latency on each device, from graph and profiles.
    """
    # Only who asks for one trial waits for these.
    from hwprofiles import read_profile
    from latency_models import LatencyTable
    from search.score import Scorer
    from trials.costs import Costs
    from trials.graph import Graph
    from trials.groups import analyse

    path = place.bundle / "graph.json"
    try:
        graph = Graph.from_json(parse_json(path.read_bytes()))
    except (OSError, ValueError):
        raise RequestError(
            f"{path} cannot be read; restore it, or run the job again under another name"
        ) from None
    coupling = analyse(graph, blocks=record.spec["search"].get("blocks", False)).without(
        record.plan["frozen"]
    )
    costs = Costs(coupling)

    def predicted(path: Path) -> dict[str, Any]:
        profile = read_profile(path)
        [score] = Scorer(costs, LatencyTable.from_profile(profile)).score([trial.candidate])
        return {
            "predicted": {"latency_ms": score.latency_ms, "error_ms": score.error_ms},
            "modelled": profile.device.modelled,
        }

    return {
        "widths": {
            group.name: kept for group, kept in zip(coupling.groups, trial.candidate.kept, strict=True)
        },
        "gone": coupling.gone(trial.candidate),
        "sizes": {group.name: group.size for group in coupling.groups},
        **predicted(place.profile),
        "others": {each.name: predicted(place.profile_on(each.name)) for each in _devices(record)[1:]},
    }
