"""Commands about jobs: run one, look at it, export its winner."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprofiles.errors import RequestError
from search.cli.terminal import (
    AsJson,
    Runs,
    err,
    exit_code,
    fail,
    make_folder,
    out,
    print_json,
    runs_folder,
    say,
)
from search.place import Place

if TYPE_CHECKING:
    from search.job import Job
    from search.plan import Prepared
    from search.report import Report
    from trials.store import Store

JobFile = Annotated[Path, typer.Argument(help="A job file; docs/job.md explains its keys.")]
JobName = Annotated[str, typer.Argument(help="A job's name, or the folder of its run.")]


def run(
    job_file: JobFile,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Trials at once; overrides search.workers.")
    ] = None,
    name: Annotated[str, typer.Option(help="Another name for the job, to run the same file again.")] = "",
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Search, train the finalists, measure them and export the winner. Resumes a job that was interrupted."""
    from search.job import Job

    if _run_folder(job_file):
        return resume(str(job_file), workers, runs, as_json)
    job = Job.load(job_file)
    if name:
        job = Job.from_json({**job.to_json(), "name": name})
    _run(job, Place(runs_folder(runs), job.name), workers, as_json)


def resume(
    job: JobName,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Trials at once.")] = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted or failed job, from its last finished trial."""
    from search.job import Job

    place = _place(job, runs)
    with _store(place) as store:
        stored = Job.from_json(store.job(place.job).spec)
    _run(stored, place, workers, as_json)


def _run(job: Job, place: Place, workers: int | None, as_json: bool) -> None:
    from search.progress import Bars, Silent
    from search.session import run_job
    from trials.store import JobState, Store

    if workers:
        job = job.model_copy(update={"search": job.search.model_copy(update={"workers": workers})})
    make_folder(place.runs)
    with Store.open(place.store) as store:
        done = any(r.name == job.name and r.state is JobState.DONE for r in store.jobs())
        try:
            if as_json or done:
                report = run_job(job, place, store, Silent())
            else:
                with Bars(out) as bars:
                    report = run_job(job, place, store, bars)
        except KeyboardInterrupt as stop:
            if job.name not in [record.name for record in store.jobs()]:
                raise
            say(err, "\ninterrupted; nothing finished is lost")
            say(err, f"go on with: prunefront resume {place.folder}")
            sys.exit(exit_code(stop))
    if as_json:
        print_json(report.to_json())
    else:
        if done:
            say(out, f"job {job.name!r} is done; this is its result")
        _print_networks(report)
        say(out, f"report   {place.report}")
        if report.export_folder:
            say(out, f"export   {report.export_folder}")
            code = f"import search; model = search.load({report.export_folder!r})"
            say(out, f'load     {_python()} -c "{code}"')
        say(out, f"open     {_python()} -m webbrowser {place.report}")
    if not report.export_folder:
        failed = [point.failed for point in report.points if point.failed]
        reason = f"; {len(failed)} failed, the first because {failed[0]}" if failed else ""
        fail(f"job {job.name!r} found nothing to export in {len(report.points)} trials{reason}", 1)


def _print_networks(report: Report) -> None:
    from search import tables

    out.print(tables.networks(report))
    if report.doubt:
        say(out, f"warning: {report.doubt}")


def _python() -> str:
    """The interpreter that runs, as a command for this folder: another may know neither package nor path."""
    return shlex.quote(min(sys.executable, os.path.relpath(sys.executable), key=len))


def inspect(job_file: JobFile, as_json: AsJson = False, runs: Runs = None) -> None:
    """Print a model's groups: sizes, couplings, shares of MACs and latency, and what is frozen and why."""
    from search import tables
    from search.inspection import inspect_job
    from search.job import Job

    job = Job.load(job_file)
    found = inspect_job(job, Place(runs_folder(runs), job.name))
    if as_json:
        print_json(found)
        return
    say(out, f"{job.name}: {found['macs']:,} MACs, {found['parameters']:,} parameters")
    out.print(tables.groups(found))
    if found["profile"] is None:
        say(out, f"latency shares need a profile: prunefront profile {job_file}")
    told = (*tables.dear(found), *tables.small(found), *tables.frozen(found), *tables.blocks(found))
    for line in told:
        say(out, line)


def bundle(
    job_file: JobFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    as_json: AsJson = False,
) -> None:
    """Only export the model as a bundle: data without code, for another machine."""
    from search.job import Job
    from search.model import open_model

    made = open_model(Job.load(job_file))
    made.write(output)
    found = {
        "bundle": str(output),
        "sha256": made.sha256,
        "nodes": len(made.graph.nodes),
        "tensors": len(made.tensors),
    }
    print_json(found) if as_json else out.print(
        f"bundle {output}: {found['nodes']} nodes, {found['tensors']} tensors"
    )


def trial(
    job_file: JobFile,
    widths: Annotated[
        Path, typer.Option(help='JSON: a list of {"group": kept}; a group left out stays whole.')
    ],
    rung: Annotated[
        int, typer.Option(min=1, max=2, help="1: pruned and repaired; 2: also fine-tuned briefly.")
    ] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure each candidate on the device, too.")
    ] = False,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Make named candidates real: their facts and predicted latency."""
    from search import tables
    from search.inspection import try_candidates
    from search.job import Job

    job = Job.load(job_file)
    found = try_candidates(job, Place(runs_folder(runs), job.name), widths, rung=rung, measured=measure)
    if as_json:
        print_json(found)
        return
    for number, item in enumerate(found, start=1):
        if "failed" in item:
            say(out, f"candidate {number} failed: {item['failed']}")
    table = tables.candidates(found)
    if table.row_count:
        out.print(table)
    if any("failed" in item for item in found):
        sys.exit(1)


def front(job: JobName, runs: Runs = None, as_json: AsJson = False) -> None:
    """Print a job's Pareto front as far as it has come, and write its picture and report."""
    from search import tables
    from search.session import write_report

    with _prepared(job, runs) as (prepared, store):
        report = write_report(prepared, store)
    if as_json:
        print_json(report.to_json())
        return
    if report.hypervolume:
        say(
            out,
            f"the search's front of {report.job} on {report.device.name}, before finalists were fine-tuned",
        )
        out.print(tables.front(report))
        say(out, f"hypervolume {report.hypervolume[-1]:.4f} of 1 (accuracy × time saved)")
    else:
        say(out, f"job {report.job} has no finished trial yet")
    if report.rows:
        say(out, "\nfinalists and baselines beside the dense network")
        _print_networks(report)
    say(out, f"report   {prepared.place.report}")


def export(
    job: JobName,
    trial: Annotated[int | None, typer.Option(help="Number of the trial to export.")] = None,
    budget: Annotated[
        str, typer.Option(help="latency_ms=5: the most accurate trial predicted to hold it.")
    ] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.")] = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Export a trial, by default the winner; one that is no finalist is trained and measured first."""
    from search.export import holds_whole
    from search.finish import EXPORTED, choose_winner, nearest_trial, results
    from search.progress import Bars, Silent
    from search.session import export_trial, finish_trial, write_report
    from search.summary import export_line

    if trial is not None and budget:
        raise RequestError("export takes --trial or --budget, not both; leave one out")
    with _prepared(job, runs) as (prepared, store), prepared.place.lock():
        number = nearest_trial(prepared, store, _latency_budget(budget)) if budget else trial
        if number is None:
            exported = results(store, prepared.job.name, EXPORTED)
            number = next(iter(exported), choose_winner(prepared, store))
        known = [t.number for t in store.trials(prepared.job.name) if t.facts is not None]
        if number is None or number not in known:
            wanted = "finalist to export yet" if number is None else f"finished trial {number}"
            shown = ", ".join(map(str, known)) or "none yet; go on with `prunefront resume`"
            raise RequestError(f"job {prepared.job.name!r} has no {wanted}; finished trials: {shown}")
        if as_json:
            finish_trial(prepared, store, number, Silent())
        else:
            with Bars(out) as bars:
                bars.stage("finishing")
                finish_trial(prepared, store, number, bars)
        folder = prepared.place.export
        if output or not holds_whole(folder, number):
            own_folder = prepared.place.folder / f"export-trial-{number}"
            folder = export_trial(prepared, store, number, output or own_folder)
        write_report(prepared, store)
        line = export_line(prepared, store, number)
    if as_json:
        print_json({"trial": number, "folder": str(folder)})
    else:
        rule = "the most accurate on validation that is predicted to hold it, finalists before other trials"
        say(out, f"{line}; of {budget}: {rule}" if budget else line)
        say(out, f"trial {number} is in {folder}")


def _latency_budget(text: str) -> float:
    key, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if key != "latency_ms" or not 0 < number < float("inf"):
        raise RequestError(f"--budget {text!r} is not of the form latency_ms=5; give milliseconds above 0")
    return number


def show(
    job: JobName,
    trial: Annotated[int | None, typer.Option(help="One trial instead of the job.")] = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's state and trials, or everything about one trial."""
    from search.status import job_facts, trial_facts, trial_rows

    place = _place(job, runs)
    with _store(place) as store:
        if trial is not None:
            found = trial_facts(store, place, trial)
        else:
            found = {**job_facts(store, place), "all_trials": trial_rows(store, place.job)}
    if as_json:
        print_json(found)
    elif trial is not None:
        _show_trial(found)
    else:
        _show_job(found)


def _show_job(found: Mapping[str, Any]) -> None:
    from search import tables

    out.print(tables.jobs([found]))
    if found["all_trials"]:
        out.print(tables.trials(found["all_trials"]))
    for line in (*tables.failures(found["all_trials"]), *found["events"]):
        say(out, line)


def _show_trial(found: Mapping[str, Any]) -> None:
    from search import tables
    from search.report import count, significant

    wanted = significant(found["target"]) if found["target_unit"] == "ms" else count(found["target"])
    say(
        out,
        f"trial {found['trial']}: {found['state']}, proposed by {found['origin']} for at most {wanted} "
        f"{found['target_unit']} (seed {found['seed']}, attempts {found['attempts']})",
    )
    if found["reason"]:
        say(out, f"failed: {found['reason']}")
    if found["facts"]:
        out.print(tables.stages(found))
        for line in tables.answers(found):
            say(out, line)
    out.print(tables.widths(found))
    if "exported" in found["results"]:
        say(out, f"exported to {found['results']['exported']['folder']}")


def ls(runs: Runs = None, as_json: AsJson = False) -> None:
    """List all jobs of the runs folder."""
    from search import tables
    from search.status import job_facts

    place = Place(runs_folder(runs), "")
    found = []
    if place.store.exists():
        with _store(place) as store:
            found = [job_facts(store, Place(place.runs, record.name)) for record in store.jobs()]
    if as_json:
        print_json(found)
        return
    if not found:
        say(out, f"no jobs in {place.runs}; start one with: prunefront run job.toml")
        return
    out.print(tables.jobs(found))


def rm(job: JobName, runs: Runs = None, as_json: AsJson = False) -> None:
    """Forget a job: its trials, its profile and everything it exported into its run folder."""
    from search.session import remove_job

    place = _place(job, runs)
    with _store(place) as store:
        remove_job(place, store)
    if as_json:
        print_json({"removed": str(place.folder)})
    else:
        say(out, f"removed {place.folder}")


def _run_folder(path: Path) -> Place | None:
    """The run whose folder this is: one that lies beside a store."""
    folder = path.resolve()
    place = Place(folder.parent, folder.name)
    return place if folder.is_dir() and place.store.exists() else None


def _place(job: str, runs: Path | None) -> Place:
    """Where a job keeps its files; its name may be given as the folder of its run."""
    named = None if runs else _run_folder(Path(job))
    return named or Place(runs_folder(runs), Path(job).name)


@contextmanager
def _store(place: Place) -> Iterator[Store]:
    """The store of a runs folder that is there."""
    from trials.store import Store

    if not place.store.exists():
        raise RequestError(
            f"there are no runs in {place.runs}; start one with `prunefront run job.toml`, or name their "
            "folder with --runs"
        )
    with Store.open(place.store) as store:
        yield store


@contextmanager
def _prepared(job: str, runs: Path | None) -> Iterator[tuple[Prepared, Store]]:
    """A job that has been planned, ready to be asked about."""
    from search.job import Job
    from search.plan import prepare
    from search.progress import Silent

    place = _place(job, runs)
    with _store(place) as store:
        record = store.job(place.job)
        if not record.plan:
            raise RequestError(
                f"job {place.job!r} has not been planned yet; run `prunefront resume {place.folder}` first"
            )
        yield prepare(Job.from_json(record.spec), place, record.plan, Silent()), store
