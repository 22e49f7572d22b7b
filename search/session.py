"""One job from start to end: prepare, search, finish, measure, export, report. Resumes whatever is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from hwprofiles.disk import is_full
from hwprofiles.errors import RequestError, TransientError, one_line
from search import controllers
from search.budget import count_within
from search.controllers.protocol import Proposal
from search.finalists import choose_finalists
from search.finish import measure_finalists, train_finalists
from search.job import Job
from search.job.submission import Submission
from search.loop import Loop, Workers
from search.outcome import export_winner, finished_report, write_report
from search.place import Place
from search.plan import Prepared, prepare
from search.profiling import is_measured
from search.progress import Listener
from search.report import Report
from search.score import FrontSoFar, features
from search.sensing import sense
from search.sensitivity import Losses
from search.settings import Settings
from trials.candidate import Facts, Trial
from trials.pool import Pool, threads_each
from trials.records import JobRecord, JobState
from trials.requests import Outcome, Request, merit
from trials.run import Workbench
from trials.steering import Wishes, nothing_wished
from trials.store import Store


def run_job(
    job: Job,
    place: Place,
    store: Store,
    listener: Listener,
    *,
    wish: Wishes = nothing_wished,
    forget: bool = True,
) -> Report:
    """Run a job to its end, from wherever it is; a job that is done is only reported.

    Args:
        wish: what its owner asks of the search.
        forget: whether a new job is forgotten that cannot be run as asked, or of which nothing has come when
            it is stopped; else it has failed, or is interrupted.

    Raises:
        RequestError: the job cannot be run as asked; a new one leaves nothing behind but what was measured,
            an old one stays as it was.
        TransientError: another process works on this job.
        KeyboardInterrupt: the user stopped it; it is marked as interrupted and can be resumed, or it leaves
            nothing behind where nothing has come of it yet.
    """
    with place.lock():
        record = open_job(job, place, store)
        if record.state is JobState.DONE:
            return finished_report(job, place, record.plan, store)
        try:
            prepared = _prepare(job, place, record.plan, store, listener, forget=forget)
            return _search_and_finish(prepared, store, listener, wish)
        except KeyboardInterrupt:
            if forget and not store.job(job.name).plan and place.remove_if_empty():
                store.remove_job(job.name)
            else:
                store.requeue_running(job.name)
                store.set_job_state(job.name, JobState.INTERRUPTED)
            raise


def _prepare(
    job: Job, place: Place, stored: Mapping[str, Any], store: Store, listener: Listener, *, forget: bool
) -> Prepared:
    """Prepare a job and keep its plan; one that turns out wrong before it has one can be forgotten, but for
    profiles of this machine, with which another job of its name goes on."""
    if not stored:
        store.set_job_state(job.name, JobState.PLANNING)
    try:
        prepared = prepare(job, place, stored, listener)
    except RequestError as error:
        if is_full(error):
            raise
        if not stored and not forget:
            _fail(job, store, error)
        elif not stored:
            if is_measured(place, job):
                listener.note(f"what was measured stays in {place.folder}, for this job as it is asked next")
            else:
                shutil.rmtree(place.folder, ignore_errors=True)
            store.remove_job(job.name)
        raise
    if not stored:
        store.set_plan(job.name, prepared.plan.to_json())
    return prepared


def _fail(job: Job, store: Store, error: Exception) -> None:
    store.set_job_state(job.name, JobState.FAILED)
    store.add_event(job.name, "failed", one_line(f"{type(error).__name__}: {error}"))


def _search_and_finish(prepared: Prepared, store: Store, listener: Listener, wish: Wishes) -> Report:
    job = prepared.job
    try:
        store.set_job_state(job.name, JobState.SEARCHING)
        listener.stage("searching")
        _note_small_space(prepared, listener)
        listener.update(0.0, "starting workers")
        with open_pool(prepared) as pool:
            losses = _losses(prepared, pool, listener)
            trials = make_loop(prepared, store, listener, losses).run(pool, wish)
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
    except Exception as error:
        if not (isinstance(error, TransientError) or is_full(error)):  # those may go well the next time
            _fail(job, store, error)
        raise


def open_pool(prepared: Prepared) -> Pool:
    """The workers of a job, to be closed by whoever asked for them."""
    shared = {"bundle": prepared.bundle, "splits": prepared.splits, "recipe": prepared.recipe}
    workers = prepared.job.search.workers
    address = Settings().ray_address
    return Pool(Workbench, shared, workers=workers, threads=threads_each(workers), address=address)


def _note_small_space(prepared: Prepared, listener: Listener) -> None:
    """Say so when there is less to try than the job asks for."""
    cost, trials = prepared.cost, prepared.job.search.trials
    found = count_within(prepared.space, cost, max(prepared.plan.targets))
    if found is not None and found < trials:
        meet = "candidate meets" if found == 1 else "candidates meet"
        listener.note(f"{found} {meet} the budget on the grid of counts, fewer than {trials} trials")


def open_job(job: Submission, place: Place, store: Store) -> JobRecord:
    """Create the job, or set of them, in the store, or check that the one there is this very job.

    Raises:
        RequestError: a job of this name was started from another job file.
    """
    known = {record.name: record for record in store.jobs()}
    if job.name not in known:
        store.create_job(job.name, job.to_json(), {})
        return store.job(job.name)
    stored = type(job).from_json(known[job.name].spec)
    if stored.fingerprint() != job.fingerprint():
        changes = ", ".join(_differences(stored.to_json(), job.to_json()))
        raise RequestError(
            f"job {job.name!r} in {place.runs} was started from another job file ({changes}); run this one "
            f"under another name with --name, or forget that one with: prunefront rm {place.folder}"
        )
    return known[job.name]


def _differences(stored: Any, given: Any, key: str = "") -> Iterator[str]:
    """Say which keys differ that count for the fingerprint of a job, and how."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in stored | given:
            if key or name not in ("folder", "name", "version"):
                yield from _differences(stored.get(name), given.get(name), f"{key}.{name}".strip("."))
    elif stored != given and key != "search.workers":
        yield f"{key} was {json.dumps(stored)} and is {json.dumps(given)}"


class TrialRequests:
    """Trials as requests to `trials.run.Workbench`."""

    def __init__(self, carved: bool) -> None:
        self.carved = carved

    def request(self, trial: Trial, needed: float) -> Request:
        # On a carved split merit is no accuracy.
        needed = 0.0 if self.carved else needed
        return Request(candidate=trial.candidate, seed=trial.seed, needed=needed)

    def facts(self, value: Outcome) -> Facts:
        return value.facts

    def merit(self, facts: Facts) -> float:
        return merit(facts, self.carved)


def _losses(prepared: Prepared, workers: Workers, listener: Listener) -> Losses:
    """What each group alone costs the model, if the job's controller wants to know."""
    if prepared.job.search.controller not in controllers.BY_LOSSES:
        return ()
    return sense(prepared, workers, listener).losses(prepared.space)


def make_loop(prepared: Prepared, store: Store, listener: Listener, losses: Losses = ()) -> Loop:
    """The job's search: uniform baselines, then its controller."""
    job, cost = prepared.job, prepared.cost
    space = prepared.space
    # What tells groups apart is of the first device, which leads; what they may cost, by `cost`, of all.
    told = features(prepared.scorer)

    def controller(name: str) -> controllers.Controller:
        return controllers.make(
            name,
            space=space,
            cost=cost,
            targets=prepared.plan.targets,
            seed=job.search.seed,
            trials=job.search.trials,
            features=told,
            losses=losses,
            reward=job.search.reward,
        )

    baselines: list[Proposal] = [
        proposal
        for proposal in controller("uniform").ask(len(prepared.plan.targets))
        if proposal.candidate != space.dense
    ]
    device = prepared.job.device.name if len(prepared.devices) > 1 else ""
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
        finalists=job.search.finalists,
        seed=job.search.seed,
        requests=TrialRequests(prepared.splits.carved),
        add_to_front=FrontSoFar(prepared.scorer, prepared.plan.dense_ms, device).add,
        listener=listener,
        memory=prepared.place.controller,
    )
