"""Commands about job files: run one, look at its model, try candidates of your own."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import remote, sets
from search.cli.remote import ServerName, only_here, service_instead
from search.cli.stored import JobName, open_store, place_of, run_at
from search.cli.terminal import (
    AsJson,
    Runs,
    err,
    exit_code,
    fail,
    make_folder,
    out,
    print_json,
    print_networks,
    runs_folder,
    say,
)
from search.place import Place

if TYPE_CHECKING:
    from search.job import Job
    from search.report import Report
    from search.sets.asked import ModelSet
    from search.sets.report import SetReport

JobFile = Annotated[Path, typer.Argument(help="A job file; docs/job.md explains its keys.")]


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
    from search.sets.asked import load

    if run_at(job_file):
        return resume(str(job_file), workers, server="", runs=runs, as_json=as_json)
    asked = load(job_file)
    if name:
        asked = asked.from_json({**asked.to_json(), "name": name})
    _run(asked, Place(runs_folder(runs), asked.name), workers, as_json)


def resume(
    job: JobName,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Trials at once.")] = None,
    server: ServerName = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted or failed job, from its last finished trial; at a server a paused one."""
    from search.sets.asked import read

    if service := service_instead(server, runs):
        only_here("resume", workers=workers)
        return remote.steer(service, job, "resume", as_json)

    place = place_of(job, runs)
    with open_store(place) as store:
        stored = read(store.job(place.job).spec)
    _run(stored, place, workers, as_json)


def _run(job: Job | ModelSet, place: Place, workers: int | None, as_json: bool) -> None:
    from search.progress import Bars, Listener, Silent
    from search.session import run_job
    from search.sets.asked import ModelSet
    from search.sets.report import SetReport
    from search.sets.run import run_set
    from trials.records import JobState
    from trials.service_jobs import ServiceJobs
    from trials.store import Store

    def ran(listener: Listener) -> Report | SetReport:
        if isinstance(job, ModelSet):
            return run_set(job, place, store, listener, forget=forget)
        return run_job(job, place, store, listener, forget=forget)

    if workers:
        job = job.model_copy(update={"search": job.search.model_copy(update={"workers": workers})})
    make_folder(place.runs)
    with Store.open(place.store) as store:
        done = any(r.name == job.name and r.state is JobState.DONE for r in store.jobs())
        forget = not ServiceJobs(store).is_one(job.name)  # only the service forgets what is its own
        try:
            if as_json or done:
                report = ran(Silent())
            else:
                with Bars(out) as bars:
                    report = ran(bars)
        except KeyboardInterrupt as stop:
            if job.name not in [record.name for record in store.jobs()]:
                raise
            say(err, "\ninterrupted; nothing finished is lost")
            say(err, f"go on with: prunefront resume {place.folder}")
            sys.exit(exit_code(stop))
    if as_json:
        print_json(report.to_json())
    elif done:
        say(out, f"job {job.name!r} is done; this is its result")
    if isinstance(report, SetReport):
        if not as_json:
            sets.show(report, place)
        return
    if not as_json:
        _show_run(report, place)
    if not report.export_folder:
        failed = [point.failed for point in report.points if point.failed]
        reason = f"; {len(failed)} failed, the first because {failed[0]}" if failed else ""
        fail(f"job {job.name!r} found nothing to export in {len(report.points)} trials{reason}", 1)


def _show_run(report: Report, place: Place) -> None:
    for each in report.on_devices:
        if report.others:
            say(out, f"\n{each.result}")
        print_networks(each)
    if report.others:
        say(out, report.headline)
    say(out, f"report   {place.report}")
    if report.export_folder:
        say(out, f"export   {place.export}")
        code = f"import search; model = search.load({str(place.export)!r})"
        say(out, f'load     {_python()} -c "{code}"')
    say(out, f"open     {_python()} -m webbrowser {place.report}")


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
