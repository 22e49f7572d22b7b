"""A set of models from start to end: the budget divided, each model searched, one network of each chosen.

The models' jobs are ordinary ones, `<set>.<model>`, and run one after another. Resumes whatever is there:
what is decided of the set is in its plan, and all else its jobs know.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from hwprofiles.disk import is_full
from hwprofiles.errors import RequestError, TransientError, one_line
from search.export import write_export
from search.exported import export_config
from search.place import Place
from search.plan import prepare
from search.progress import Listener, Prefixed, Silent
from search.report import Report
from search.session import open_job, run_job
from search.sets.asked import ModelSet
from search.sets.plan import OpenSet, SetPlan
from search.sets.report import SetReport, cost_of
from search.sets.shares import limit, plan_shares
from search.sets.split import Choice, choose
from search.sets.summary import rows, write_report
from search.status import jobs_of
from trials.bundle import read_bundle
from trials.records import JobState
from trials.steering import Wishes, nothing_wished
from trials.store import Store


def run_set(
    asked: ModelSet,
    place: Place,
    store: Store,
    listener: Listener,
    *,
    wish: Wishes = nothing_wished,
    forget: bool = True,
) -> SetReport:
    """Run a set to its end, from wherever it is; one that is done is only reported.

    Args:
        wish: what its owner asks of the searches.
        forget: whether a new one that cannot be run as asked, or of which nothing has come when it is
            stopped, leaves nothing behind but profiles; else it has failed, or is interrupted.

    Raises:
        RequestError: it cannot be run as asked.
        TransientError: another process works on it, or on the job of one of its models.
        KeyboardInterrupt: the user stopped it; it is marked as interrupted and can be resumed, or it leaves
            nothing behind where nothing has come of it yet.
    """
    with place.lock():
        is_new = asked.name not in {record.name for record in store.jobs()}
        state = _open(asked, place, store)
        opened = OpenSet(asked, place, store, SetPlan.of(store, asked.name))
        if state is JobState.DONE:
            return write_report(opened, _searched(opened, Silent(), nothing_wished))
        try:
            return _run(opened, listener, wish)
        except KeyboardInterrupt:
            begun = any(opened.place_of(member).folder.exists() for member in asked.models)
            if forget and not begun and place.remove_if_empty():
                store.remove_job(asked.name)
            else:
                store.set_job_state(asked.name, JobState.INTERRUPTED)
            raise
        except Exception as error:
            if isinstance(error, RequestError) and is_new and forget and not opened.plan.shares:
                shutil.rmtree(place.folder, ignore_errors=True)
                store.remove_job(asked.name)
                raise
            if not (isinstance(error, TransientError) or is_full(error)):
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


def _run(opened: OpenSet, listener: Listener, wish: Wishes) -> SetReport:
    name, store, plan = opened.asked.name, opened.store, opened.plan
    store.set_job_state(name, JobState.PLANNING)
    plan_shares(opened, listener)
    store.set_job_state(name, JobState.SEARCHING)
    reports = _searched(opened, listener, wish)
    store.set_job_state(name, JobState.FINISHING)
    listener.stage("choosing")
    if not plan.taken:
        plan.taken |= _chosen(opened.asked, reports)
        opened.keep()
    export(opened, listener)
    report = write_report(opened, reports)
    store.set_job_state(name, JobState.DONE)
    return report


def _searched(opened: OpenSet, listener: Listener, wish: Wishes) -> list[Report]:
    """What came of each model's job; runs those that are not done."""
    return [
        run_job(
            opened.job(member),
            opened.place_of(member),
            opened.store,
            Prefixed(listener, member.name),
            wish=wish,
        )
        for member in opened.asked.models
    ]


def _chosen(asked: ModelSet, reports: Sequence[Report]) -> dict[str, int | None]:
    """The trial that each model becomes, None for the dense model: by accuracies on validation, and by costs
    as they were measured."""
    kind, choices = asked.budget.leading.kind, []
    for member, report in zip(asked.models, reports, strict=True):
        floor = member.least_accuracy(report.dense.validation_accuracy)
        choices.append(
            [
                Choice(
                    cost_of(row, kind),
                    member.weight * (1 - row.validation_accuracy),
                    max(0.0, floor - row.validation_accuracy),
                )
                for row in rows(report)
            ]
        )
    numbers = choose(choices, limit(asked, [cost_of(report.dense, kind) for report in reports]))
    taken = [rows(report)[number].trial for report, number in zip(reports, numbers, strict=True)]
    return dict(zip([member.name for member in asked.models], taken, strict=True))


def export(opened: OpenSet, listener: Listener) -> None:
    """Write what each model became into a folder of its name, with the report of its job."""
    for done, member in enumerate(opened.asked.models):
        number, place, store = opened.plan.taken[member.name], opened.place_of(member), opened.store
        folder, job = opened.place.export / member.name, opened.job(member)
        listener.update(done / len(opened.asked.models), f"converting and checking {member.name}")
        prepared = prepare(job, place, store.job(job.name).plan, Silent())
        whole = {"job": job.name, "trial": None, "preparation": prepared.splits.train.preparation}
        bundle, config = prepared.bundle, whole
        if number is not None:
            bundle, config = (
                read_bundle(place.finalist(number)),
                export_config(prepared, store, number),
            )
        write_export(folder, bundle=bundle, config=config, replace=True)
        shutil.copy(place.report, folder)
