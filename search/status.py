"""What the store knows of jobs and trials, as plain data; loads neither torch nor a model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hwprofiles.errors import RequestError
from trials.candidate import TrialState
from trials.store import Store


def job_facts(store: Store, name: str) -> dict[str, Any]:
    """State and progress of one job."""
    record = store.job(name)
    trials = store.trials(name)
    done = [trial for trial in trials if trial.state is TrialState.DONE]
    best = max((trial.facts.accuracy for trial in done if trial.facts), default=None)
    return {
        "job": name,
        "state": str(record.state),
        "created": datetime.fromtimestamp(record.created_s, UTC).isoformat(timespec="seconds"),
        "trials": len(done),
        "planned": record.spec["search"]["trials"],
        "failed": sum(trial.state is TrialState.FAILED for trial in trials),
        "best": None if best is None else round(best, 4),
        "events": [f"{event.kind}: {event.message}" for event in store.events(name)],
    }


def trial_facts(store: Store, name: str, number: int) -> dict[str, Any]:
    """Everything stored about one trial.

    Raises:
        RequestError: the job has no such trial.
    """
    trials = {trial.number: trial for trial in store.trials(name)}
    if number not in trials:
        shown = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise RequestError(f"job {name!r} has no trial {number}; its trials: {shown}")
    trial = trials[number]
    return {
        "trial": number,
        "state": str(trial.state),
        "origin": trial.origin,
        "target": trial.target,
        "seed": trial.seed,
        "attempts": trial.attempts,
        "reason": trial.reason,
        "kept": list(trial.candidate.kept),
        "facts": trial.facts.to_json() if trial.facts else None,
        "results": {r.kind: dict(r.data) for r in store.results(name) if r.trial == number},
    }
