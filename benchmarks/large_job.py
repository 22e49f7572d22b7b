"""Jobs as large as jobs become, whose trials were made up: for pages and timings, not for what they say."""

from __future__ import annotations

import shutil

import numpy as np

from search.board import Board
from search.place import Place
from search.profiling import make_space
from search.sets.asked import ModelSet
from trials.candidate import Candidate, Facts, Trial
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.store import Store

AT_ONCE = 500
"""Trials in one transaction."""
REASON = "a value <b>that is not finite</b> came out of layer {0|bold}"
"""Why some fail: in letters that a careless page would take for its own."""


def add_large_job(store: Store, planned: Place, name: str, owner: str, trials: int) -> None:
    """Add a job to a store, beside a planned one from which it has its model, its profile and its plan.

    Its trials keep random widths, and their accuracy falls the faster the more units are gone.
    """
    _add_job(store, planned, name, trials, 0)
    ServiceJobs(store).adopt(name, owner)


def add_set(store: Store, planned: Place, name: str, owner: str, trials: int) -> None:
    """Add a set of two models that share 60 % of their latency; the second one loses twice as much."""
    record, names = store.job(planned.job), ("camera", "radar")
    both = [{"name": each, "model": record.spec["model"], "data": record.spec["data"]} for each in names]
    kept = {key: record.spec[key] for key in ("folder", "devices", "finetune")}
    search, budget = {**record.spec["search"], "trials": trials}, {"latency": ["60%"]}
    asked = ModelSet.checked({"name": name, "models": both, "search": search, "budget": budget, **kept}, name)
    dense_ms = record.plan["dense_ms"]
    shares = {
        each: {"cost": part * dense_ms, "equal": 0.6 * dense_ms, "levels": [part * dense_ms, 0.6 * dense_ms]}
        for each, part in zip(names, (0.4, 0.8), strict=True)
    }
    plan = {"version": 1, "jobs": dict.fromkeys(names, record.plan), "shares": shares}
    store.create_job(name, asked.to_json(), {**plan, "tried": {}, "taken": {}})
    ServiceJobs(store).adopt(name, owner)
    for seed, each in enumerate(names, start=1):
        _add_job(store, planned, f"{name}.{each}", trials, seed)
    store.set_job_state(name, JobState.SEARCHING)


def _add_job(store: Store, planned: Place, name: str, trials: int, seed: int) -> None:
    record, place = store.job(planned.job), Place(planned.runs, name)
    shutil.copytree(planned.folder, place.folder, ignore=shutil.ignore_patterns("export*", "finalists"))
    spec = {**record.spec, "name": name, "search": {**record.spec["search"], "trials": trials}}
    store.create_job(name, spec, record.plan)
    store.set_job_state(name, JobState.SEARCHING)
    queued = _queued(Board.open(store.job(name), place), trials, seed)
    for begin in range(0, trials, AT_ONCE):
        running = [trial.start() for trial, _ in queued[begin : begin + AT_ONCE]]
        store.save(name, *(trial for trial, _ in queued[begin : begin + AT_ONCE]))
        store.save(name, *running)
        ended = zip(running, (facts for _, facts in queued[begin : begin + AT_ONCE]), strict=True)
        store.save(name, *(trial.finish(facts) if facts else trial.fail(REASON) for trial, facts in ended))
    store.set_job_state(name, JobState.INTERRUPTED)


def _queued(board: Board, trials: int, seed: int) -> list[tuple[Trial, Facts | None]]:
    """Trials beside what they will have found; every hundredth fails."""
    draw, space = (
        np.random.default_rng(seed),
        make_space(board.job, board.coupling, [board.scorer().table.device]),
    )
    keeps = np.clip(
        draw.uniform(0.1, 1, (trials, 1)) + draw.normal(0, 0.12, (trials, len(space.axes))), 0.1, 1
    )
    counts = space.round(keeps * space.sizes)
    macs, parameters = board.costs.macs(counts), board.costs.parameters(counts)
    left = (counts / space.sizes).mean(axis=1)
    accuracy = np.clip(
        0.98 - 0.6 * max(1, seed) * (1 - left) ** 3 - np.abs(draw.normal(0, 0.02, trials)), 0.05, 1
    )
    queued = []
    for number in range(trials):
        facts = Facts(
            accuracy=float(accuracy[number]),
            accuracy_error=0.006,
            loss=float(1 - accuracy[number]),
            divergence=float(1 - accuracy[number]),
            macs=int(macs[number]),
            parameters=int(parameters[number]),
            class_accuracy=tuple(np.clip(draw.normal(accuracy[number], 0.02, 10), 0, 1).tolist()),
        )
        trial = Trial(
            number=number,
            candidate=Candidate(tuple(counts[number].tolist())),
            seed=number,
            target=float(board.plan["targets"][number % len(board.plan["targets"])]),
            origin="uniform" if number < len(board.plan["targets"]) else "auto",
        )
        queued.append((trial, None if number % 100 == 99 else facts))
    return queued
