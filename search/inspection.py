"""Answers about a job without searching: groups, profile, named candidates, state in the store."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hwprofiles import measure, read_profile
from hwprofiles.errors import RequestError, TrialError
from latency_models import LatencyTable
from search.job import Job
from search.plan import (
    Place,
    features,
    make_space,
    open_bundle,
    open_coupling,
    open_device,
    open_profile,
    open_splits,
    recipe_of,
)
from search.progress import Listener, Silent
from search.score import Scorer
from trials.bundle import Bundle, read_bundle
from trials.candidate import Candidate, TrialState, as_counts
from trials.costs import Costs
from trials.groups import Coupling, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune
from trials.run import Request, Workbench
from trials.store import Store


def _model(job: Job, place: Place) -> tuple[Bundle, Coupling]:
    bundle = read_bundle(place.bundle) if place.bundle.exists() else open_bundle(job)
    return bundle, open_coupling(bundle, seed=job.search.seed)


def inspect_job(job: Job, place: Place) -> dict[str, Any]:
    """A model's groups and what is frozen; latency shares where the job has a profile."""
    _, coupling = _model(job, place)
    costs = Costs(coupling)
    dense = as_counts([Candidate(tuple(group.size for group in coupling.groups))])
    shares: list[float | None] = [None] * len(coupling.groups)
    identity = None
    if place.profile.exists():
        runtime, device = open_device(job)
        stored = read_profile(place.profile)
        table = LatencyTable.from_profile(stored, runtime)
        table.check(device)
        shares = features(Scorer(costs, table))[:, 4].tolist()
        identity = device.identity
    return {
        "macs": int(costs.macs(dense)[0]),
        "parameters": int(costs.parameters(dense)[0]),
        "profile": identity,
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "size": group.size,
                "macs_share": float(share),
                "latency_share": latency,
                "members": list(group.members),
            }
            for group, share, latency in zip(coupling.groups, costs.macs_shares(), shares, strict=True)
        ],
        "frozen": [{"name": f.name, "size": f.size, "reason": f.reason} for f in coupling.frozen],
    }


def profile_job(job: Job, place: Place, listener: Listener) -> dict[str, Any]:
    """Measure the job's profile if it is not there, and say how good it is."""
    listener.stage("exporting")
    bundle, coupling = _model(job, place)
    _, device = open_device(job)
    space = make_space(job, coupling, device)
    listener.stage("profiling")
    place.folder.mkdir(parents=True, exist_ok=True)
    profile, runtime = open_profile(job, place, bundle, coupling, space, listener)
    calibration = LatencyTable.from_profile(profile, runtime).calibration
    return {
        "profile": str(place.profile),
        "device": f"{device.name}: {device.board}, {device.runtime}",
        "batch": device.batch,
        "threads": device.threads,
        "identity": device.identity,
        "operators": len(profile.operators),
        "networks": len(profile.networks),
        "scale": round(calibration.scale, 4),
        "error bar": f"±{calibration.relative_error:.1%} for {calibration.coverage:.0%} of candidates",
        "created": profile.created.isoformat(timespec="seconds"),
    }


def try_candidates(
    job: Job, place: Place, widths: Path, *, rung: int, measured: bool
) -> list[dict[str, Any]]:
    """Facts of named candidates, one dictionary each; a candidate that fails says why under "failed".

    Raises:
        RequestError: the file is not a list of `{group: kept}`, or names something unknown.
    """
    bundle, coupling = _model(job, place)
    runtime, device = open_device(job)
    space = make_space(job, coupling, device)
    candidates = [space.parse(item) for item in _read_widths(widths)]
    splits = open_splits(job, bundle)
    place.folder.mkdir(parents=True, exist_ok=True)
    profile, runtime = open_profile(job, place, bundle, coupling, space, Silent())
    scorer = Scorer(Costs(coupling), LatencyTable.from_profile(profile, runtime))
    refused = {item.name: item.reason for item in coupling.frozen}
    recipe = recipe_of(job, refused, "float32")
    if rung == 1:
        recipe = replace(recipe, brief_steps=0)
    bench = Workbench(bundle, splits, recipe)
    found: list[dict[str, Any]] = []
    for candidate in candidates:
        item: dict[str, Any] = {"widths": space.named(candidate)}
        try:
            outcome = bench(Request(candidate=candidate, seed=job.search.seed))
        except TrialError as error:
            found.append({**item, "failed": str(error)})
            continue
        score = scorer.score([candidate])[0]
        item |= {
            "facts": outcome.facts.to_json(),
            "predicted": {"latency_ms": score.latency_ms, "error_ms": score.error_ms},
        }
        found.append(item)
    if measured:
        with TemporaryDirectory() as folder:
            runs = {}
            for position, candidate in enumerate(candidates):
                path = Path(folder) / f"{position}.onnx"
                write_onnx(*prune(coupling, bundle.tensors, even_kept(coupling, candidate)), path)
                runs[position] = runtime.prepare_network(path, device)
            rounds = measure(runs, passes=3, rounds=20, seed=0)
        for position, item in enumerate(found):
            item["measured_ms"] = rounds[position].summary().latency_ms
    return found


def _read_widths(path: Path) -> list[dict[str, int]]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}; give a JSON file") from None
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}; mend that place") from None
    data = [data] if isinstance(data, dict) else data
    if not isinstance(data, list) or not data or not all(isinstance(item, dict) for item in data):
        raise RequestError(f'{path} holds no candidates; write a list such as [{{"layer1.0.conv1": 8}}]')
    return data


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
