"""A set of models from start to end: the budget divided, each model searched, one network of each chosen.

The models' jobs are ordinary ones, `<set>.<model>`, and run one after another. Resumes whatever is there:
what is decided of the set is in its plan, and all else its jobs know.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from hwprofiles.errors import RequestError, one_line
from search.export import write_export
from search.exported import export_config
from search.place import Place
from search.plan import prepare
from search.progress import Listener, Prefixed, Silent
from search.report import Report
from search.session import open_job, remove_job, run_job
from search.sets.asked import ModelSet
from search.sets.plan import OpenSet, SetPlan
from search.sets.report import SetReport, cost_of
from search.sets.shares import limit, plan_shares
from search.sets.split import Choice, choose
from search.sets.summary import rows, write_report
from search.status import jobs_of
from search.wording import UNITS
from trials.bundle import read_bundle
from trials.store import JobState, Store


def run_set(asked: ModelSet, place: Place, store: Store, listener: Listener) -> SetReport:
    """Run a set to its end, from wherever it is; one that is done is only reported.

    Raises:
        RequestError: it cannot be run as asked; a new one leaves nothing behind but profiles.
        TransientError: another process works on it, or on the job of one of its models.
        KeyboardInterrupt: the user stopped it; it is marked as interrupted and can be resumed.
    """
    with place.lock():
        is_new = asked.name not in {record.name for record in store.jobs()}
        state = _open(asked, place, store)
        opened = OpenSet(asked, place, store, SetPlan.of(store, asked.name))
        if state is JobState.DONE:
            return write_report(opened, _searched(opened, Silent()))
        try:
            return _run(opened, listener)
        except KeyboardInterrupt:
            store.set_job_state(asked.name, JobState.INTERRUPTED)
            raise
        except Exception as error:
            if isinstance(error, RequestError) and is_new and not opened.plan.shares:
                store.remove_job(asked.name)
                shutil.rmtree(place.folder, ignore_errors=True)
                raise
            store.set_job_state(asked.name, JobState.FAILED)
            store.add_event(asked.name, "failed", one_line(f"{type(error).__name__}: {error}"))
            raise


def _open(asked: ModelSet, place: Place, store: Store) -> JobState:
    known = {record.name for record in store.jobs()}
    taken = known.intersection(asked.jobs)
    if asked.name not in known and taken:
        raise RequestError(
            f"the job of a model of set {asked.name!r} would be called {min(taken)!r}, and {place.runs} has "
            "one; run the set under another name with --name"
        )
    return open_job(asked, place, store).state


def finished_set(place: Place, store: Store) -> SetReport:
    """The report of a set that is done.

    Raises:
        RequestError: it is not.
    """
    record = store.job(place.job)
    if record.state is not JobState.DONE:
        raise RequestError(
            f"the set {place.job!r} is not done, and has no report before; look at it with `prunefront show "
            f"{place.job}` or at one of its jobs, {', '.join(jobs_of(record))}"
        )
    return run_set(ModelSet.from_json(record.spec), place, store, Silent())


def _run(opened: OpenSet, listener: Listener) -> SetReport:
    name, store, plan = opened.asked.name, opened.store, opened.plan
    store.set_job_state(name, JobState.PLANNING)
    plan_shares(opened, listener)
    store.set_job_state(name, JobState.SEARCHING)
    reports = _searched(opened, listener)
    store.set_job_state(name, JobState.FINISHING)
    listener.stage("choosing")
    if not plan.taken:
        plan.taken |= _chosen(opened.asked, reports)
        opened.keep()
    export(opened, listener)
    report = write_report(opened, reports)
    store.set_job_state(name, JobState.DONE)
    return report


def _searched(opened: OpenSet, listener: Listener) -> list[Report]:
    """What came of each model's job; runs those that are not done."""
    return [
        run_job(opened.job(member), opened.place_of(member), opened.store, Prefixed(listener, member.name))
        for member in opened.asked.models
    ]


def _chosen(asked: ModelSet, reports: Sequence[Report]) -> dict[str, int | None]:
    """The trial that each model becomes, None for the dense model: by accuracies on validation, and by costs
    as they were measured."""
    unit, choices = UNITS[asked.budget.leading.kind], []
    for member, report in zip(asked.models, reports, strict=True):
        floor = member.least_accuracy(report.dense.validation_accuracy)
        choices.append(
            [
                Choice(
                    cost_of(row, unit),
                    member.weight * (1 - row.validation_accuracy),
                    max(0.0, floor - row.validation_accuracy),
                )
                for row in rows(report)
            ]
        )
    numbers = choose(choices, limit(asked, [cost_of(report.dense, unit) for report in reports]))
    taken = [rows(report)[number].trial for report, number in zip(reports, numbers, strict=True)]
    return dict(zip([member.name for member in asked.models], taken, strict=True))


def export(opened: OpenSet, listener: Listener) -> None:
    """Write what each model became into a folder of its name, with the report of its job."""
    for done, member in enumerate(opened.asked.models):
        number, place, store = opened.plan.taken[member.name], opened.place_of(member), opened.store
        folder, job = opened.place.export / member.name, opened.job(member)
        listener.update(done / len(opened.asked.models), f"converting and checking {member.name}")
        prepared = prepare(job, place, store.job(job.name).plan, Silent())
        bundle, config = prepared.bundle, {"job": job.name, "trial": None}
        if number is not None:
            bundle, config = (
                read_bundle(place.finalist(number)),
                export_config(prepared, store, number),
            )
        write_export(folder, bundle=bundle, config=config)
        shutil.copy(place.report, folder)


def remove(place: Place, store: Store) -> None:
    """Forget a job, or a set with the jobs of its models, and all of their files.

    Raises:
        RequestError: the store has no such job, or it is one of a set.
        TransientError: another process works on it, or on one of its jobs.
    """
    record, known = store.job(place.job), {each.name: each for each in store.jobs()}
    of_set, _, model = place.job.rpartition(".")
    if of_set in known and place.job in jobs_of(known[of_set]):
        raise RequestError(
            f"job {place.job!r} is that of {model!r} in the set {of_set!r}, which needs it; remove the "
            f"whole set with: prunefront rm {of_set}"
        )
    with place.lock():
        for name in jobs_of(record):
            its = Place(place.runs, name)
            if name in known:
                remove_job(its, store)
            shutil.rmtree(its.folder, ignore_errors=True)  # of a job that was only planned
    remove_job(place, store)
