"""One job from start to end: prepare, search, finish, measure, export, report. Resumes whatever is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hwprofiles.errors import RequestError
from search import controllers
from search.controllers.protocol import Proposal
from search.export import write_export
from search.finish import (
    EXPORTED,
    FINAL,
    choose_finalists,
    choose_winner,
    final_request,
    measure_finalists,
    results,
    train_finalists,
)
from search.job import Job
from search.loop import Loop
from search.plan import Place, Prepared, features, prepare
from search.progress import Listener
from search.report import Report, draw_front, render_html
from search.settings import Settings
from search.summary import export_config, make_report
from trials.bundle import read_bundle
from trials.candidate import Facts, Space, Trial
from trials.pool import Pool
from trials.run import Outcome, Request, Workbench, merit
from trials.store import JobState, Store


def _prepare_or_forget(job: Job, place: Place, store: Store, listener: Listener) -> Prepared:
    """Prepare a job; one that turns out wrong before its first trial leaves nothing behind."""
    record = store.job(job.name)
    try:
        return prepare(job, place, record.plan, listener)
    except RequestError:
        if not record.plan:
            remove_job(job.name, place, store)
        raise


def remove_job(name: str, place: Place, store: Store) -> None:
    """Forget a job and all of its files."""
    store.remove_job(name)
    shutil.rmtree(place.folder, ignore_errors=True)


class TrialRequests:
    """Trials as requests to `trials.run.Workbench`."""

    def __init__(self, carved: bool) -> None:
        self.carved = carved

    def request(self, trial: Trial) -> Request:
        return Request(candidate=trial.candidate, seed=trial.seed)

    def facts(self, value: Outcome) -> Facts:
        return value.facts

    def merit(self, facts: Facts) -> float:
        return merit(facts, self.carved)


def open_job(job: Job, place: Place, store: Store) -> None:
    """Create the job in the store, or check that the one there is this very job.

    Raises:
        RequestError: a job of this name was started from another job file.
    """
    known = {record.name: record for record in store.jobs()}
    if job.name not in known:
        store.create_job(job.name, job.to_json(), {})
        return
    stored = Job.from_json(known[job.name].spec)
    if stored.fingerprint() != job.fingerprint():
        changed = ", ".join(_differences(stored.to_json(), job.to_json()))
        raise RequestError(
            f"job {job.name!r} in {place.runs} was started from another job file ({changed} differ); choose "
            "another name, or remove it with `prunefront rm`"
        )


def _differences(one: Any, other: Any, path: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in (one | other) if path or key not in ("folder", "name", "version")]
        return [
            found
            for key in keys
            for found in _differences(one.get(key), other.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if one == other or path == "search.workers" else [path]


def run_job(job: Job, place: Place, store: Store, listener: Listener) -> Report:
    """Run a job to its end, from wherever it is; a job that is done is only reported.

    Raises:
        RequestError: the job cannot be run as asked; nothing is left half-written.
        KeyboardInterrupt: the user stopped it; it is marked as interrupted and can be resumed.
    """
    open_job(job, place, store)
    record = store.job(job.name)
    if record.state is JobState.DONE:
        return make_report(prepare(job, place, record.plan, listener), store)
    try:
        store.set_job_state(job.name, JobState.PLANNING)
        prepared = _prepare_or_forget(job, place, store, listener)
        store.set_plan(job.name, prepared.plan.to_json())
        store.set_job_state(job.name, JobState.SEARCHING)
        listener.stage("searching")
        listener.update(0.0, f"starting {job.search.workers} workers")
        shared = {"bundle": prepared.bundle, "splits": prepared.splits, "recipe": prepared.recipe}
        threads = max(1, (os.cpu_count() or 1) // job.search.workers)
        address = Settings().ray_address
        with Pool(Workbench, shared, workers=job.search.workers, threads=threads, address=address) as pool:
            trials = make_loop(prepared, store, listener).run(pool)
            store.set_job_state(job.name, JobState.FINISHING)
            listener.stage("finishing")
            train_finalists(prepared, store, pool, choose_finalists(prepared, trials), listener)
        listener.stage("measuring")
        measure_finalists(prepared, store, listener)
        listener.stage("reporting")
        export_winner(prepared, store, listener)
        report = write_report(prepared, store)
        store.set_job_state(job.name, JobState.DONE)
        return report
    except KeyboardInterrupt:
        store.set_job_state(job.name, JobState.INTERRUPTED)
        raise
    except Exception as error:
        if job.name in {record.name for record in store.jobs()}:
            store.set_job_state(job.name, JobState.FAILED)
            store.add_event(job.name, "failed", f"{type(error).__name__}: {error}")
        raise


def make_loop(prepared: Prepared, store: Store, listener: Listener) -> Loop:
    """The job's search: uniform baselines, then its controller."""
    job, cost = prepared.job, prepared.scorer.cost(prepared.kind)
    space: Space = prepared.space

    def controller(name: str) -> controllers.Controller:
        return controllers.make(
            name,
            space=space,
            cost=cost,
            targets=prepared.plan.targets,
            seed=job.search.seed,
            trials=job.search.trials,
            features=features(prepared.scorer),
        )

    baselines: list[Proposal] = [
        proposal
        for proposal in controller("uniform").ask(len(prepared.plan.targets))
        if proposal.candidate != space.dense
    ]
    return Loop(
        store,
        job.name,
        controller(job.search.controller),
        baselines,
        name=job.search.controller,
        space=space,
        cost=cost,
        trials=job.search.trials,
        in_flight=prepared.plan.in_flight,
        seed=job.search.seed,
        requests=TrialRequests(prepared.splits.carved),
        listener=listener,
    )


def export_winner(prepared: Prepared, store: Store, listener: Listener) -> Path | None:
    number = choose_winner(prepared, store)
    if number is None:
        listener.note("no finalist could be trained and measured, so nothing is exported")
        return None
    return export_trial(prepared, store, number, prepared.place.export)


def export_trial(prepared: Prepared, store: Store, number: int, folder: Path) -> Path:
    """Write one finalist as a folder to deploy."""
    write_export(
        folder,
        bundle=read_bundle(prepared.place.finalist(number)),
        config=export_config(prepared, store, number),
    )
    if number not in results(store, prepared.job.name, EXPORTED):
        store.add_result(prepared.job.name, number, EXPORTED, {"folder": str(folder)})
    return folder


def finish_trial(prepared: Prepared, store: Store, number: int, listener: Listener) -> None:
    """Train and measure one trial that was not among the finalists, here in this process."""
    if number not in results(store, prepared.job.name, FINAL):
        trial = {trial.number: trial for trial in store.trials(prepared.job.name)}[number]
        bench = Workbench(prepared.bundle, prepared.splits, prepared.recipe)
        outcome = bench(final_request(prepared, trial))
        store.add_result(prepared.job.name, number, FINAL, outcome.to_json())
    measure_finalists(prepared, store, listener)


def write_report(prepared: Prepared, store: Store) -> Report:
    """Write the report page and the picture of the front; returns what is in them."""
    report = make_report(prepared, store)
    prepared.place.report.write_text(render_html(report), encoding="utf-8")
    for suffix in ("svg", "png"):
        draw_front(report, prepared.place.folder / f"front.{suffix}")
    return report
