"""Commands about what jobs have found: fronts, trials and exports."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprofiles.errors import RequestError
from search.cli import sets
from search.cli.stored import JobName, is_set, open_planned, open_store, place_of
from search.cli.terminal import (
    AsJson,
    Runs,
    err,
    exit_code,
    out,
    print_json,
    print_networks,
    runs_folder,
    say,
)
from search.place import Place

if TYPE_CHECKING:
    from search.job import CostKind
    from search.picking import Limits
    from search.report import Report


def front(
    job: JobName,
    device: Annotated[str, typer.Option(help="Another of the job's devices than the first.")] = "",
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's Pareto front as far as it has come, and write its picture and report."""
    from search.session import write_report

    if is_set(job, runs):
        sets.front(job, runs, as_json)
        return
    with open_planned(job, runs) as (prepared, store):
        whole = write_report(prepared, store)
    report = whole.on(device)
    if as_json:
        print_json(report.to_json())
        return
    _print_front(report)
    if whole.others and not device:
        names = ", ".join(other.device.name for other in whole.others)
        say(out, f"other devices, each with --device NAME: {names}")
    say(out, f"report   {prepared.place.report}")


def rescore(
    job: JobName,
    device: Annotated[
        str, typer.Option(help="A device that has a profile (see `prunefront devices`), or a profile's file.")
    ],
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Print the front of a job's trials on a device that it did not search for; runs no trial."""
    from search.session import rescore

    with open_planned(job, runs) as (prepared, store):
        on = prepared.on(device)
        report = rescore(prepared, store, on)
    if as_json:
        print_json(report.to_json())
        return
    _print_front(report)
    say(out, f"picture  {prepared.place.folder / f'front-{on.device.name}.svg'}")


def _print_front(report: Report) -> None:
    from search import tables

    say(out, f"budget: {report.budget}")
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
        print_networks(report)


def pick(
    job: JobName,
    latency_ms: Annotated[float | None, typer.Option(min=0, help="At most, with its error bar.")] = None,
    macs: Annotated[float | None, typer.Option(min=0, help="At most.")] = None,
    parameters: Annotated[float | None, typer.Option(min=0, help="At most.")] = None,
    device: Annotated[
        str, typer.Option(help="Where latency counts: another device of the job, or one that has a profile.")
    ] = "",
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Say which trial is the most accurate within what it may cost, and how to export it."""
    from search import tables
    from search.picking import pick, picked

    asked: dict[CostKind, float | None] = {"latency_ms": latency_ms, "macs": macs, "parameters": parameters}
    limits = {kind: limit for kind, limit in asked.items() if limit is not None}
    if not limits or not all(0 < limit < inf for limit in limits.values()):
        raise RequestError(
            "pick takes one or more of --latency-ms, --macs and --parameters; give each a number above 0"
        )
    with open_planned(job, runs) as (prepared, store):
        on = prepared.on(device)
        found = picked(prepared, store, on, pick(prepared, store, on, limits))
    if as_json:
        print_json(found)
        return
    for line in tables.picked(found):
        say(out, line)


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
    from search.exported import export_line
    from search.finish import EXPORTED, choose_winner, results
    from search.picking import pick
    from search.progress import Bars, Silent
    from search.session import export_trial, finish_trial, write_report

    if trial is not None and budget:
        raise RequestError("export takes --trial or --budget, not both; leave one out")
    with open_planned(job, runs) as (prepared, store), prepared.place.lock():
        number = trial
        if budget:
            limits: Limits = {"latency_ms": _latency_budget(budget)}
            number = pick(prepared, store, prepared.devices[0], limits).number
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


def tune(
    job: JobName,
    trial: Annotated[int, typer.Option(help="Number of the trial to train.")],
    trials: Annotated[
        int, typer.Option(min=2, max=1000, help="Recipes to try, the job's own among them.")
    ] = 8,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for trying them.")] = 60.0,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Search the fine-tuning recipe of one trial and train it by the best. Goes on after Ctrl-C."""
    from search.exported import export_line
    from search.progress import Bars, Silent
    from search.tuning import tune_trial

    with open_planned(job, runs) as (prepared, store), prepared.place.lock():
        known = [t.number for t in store.trials(prepared.job.name) if t.facts is not None]
        if trial not in known:
            shown = ", ".join(map(str, known)) or "none yet; go on with `prunefront resume`"
            raise RequestError(
                f"job {prepared.job.name!r} has no finished trial {trial}; finished trials: {shown}"
            )
        try:
            with nullcontext(Silent()) if as_json else Bars(out) as listener:
                listener.stage("finishing")
                ended = tune_trial(prepared, store, trial, count=trials, minutes=minutes, listener=listener)
        except KeyboardInterrupt as stop:
            say(err, "\ninterrupted; no recipe that has ended is lost: run the same command again")
            sys.exit(exit_code(stop))
        line = export_line(prepared, store, trial)
    if as_json:
        print_json({"trial": trial, "recipes": [asdict(one) for _, one in sorted(ended.items())]})
    else:
        for number, one in sorted(ended.items()):
            say(out, f"recipe {number}: {one}")
        say(out, line)


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
    from search.status import job_facts, set_facts, trial_facts, trial_rows

    place = place_of(job, runs)
    with open_store(place) as store:
        if trial is not None:
            found = trial_facts(store, place, trial)
        else:
            found = {**job_facts(store, place), **set_facts(store, place)}
            found["all_trials"] = trial_rows(store, place.job)
    if as_json:
        print_json(found)
    elif trial is not None:
        _show_trial(found)
    else:
        _show_job(found)


def _show_job(found: Mapping[str, Any]) -> None:
    from search import tables
    from search.sets import tables as set_tables

    out.print(tables.jobs([found, *found.get("jobs", ())]))
    say(out, f"budget: {found['budget']}")
    for line in set_tables.shares(found):
        say(out, line)
    if found["all_trials"]:
        out.print(tables.trials(found["all_trials"]))
    for line in (*tables.failures(found["all_trials"]), *found["events"]):
        say(out, line)


def _show_trial(found: Mapping[str, Any]) -> None:
    from search import tables
    from search.report import amount

    wanted = amount(found["target"], found["target_unit"])
    say(
        out,
        f"trial {found['trial']}: {found['state']}, proposed by {found['origin']} for at most {wanted} "
        f"{found['target_unit']} (seed {found['seed']}, attempts {found['attempts']})",
    )
    if found["reason"]:
        say(out, f"failed: {found['reason']}")
    if found["facts"]:
        out.print(tables.stages(found))
        if found["others"]:
            out.print(tables.others(found))
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
        with open_store(place) as store:
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
    from search.sets.run import remove

    place = place_of(job, runs)
    with open_store(place) as store:
        remove(place, store)
    if as_json:
        print_json({"removed": str(place.folder)})
    else:
        say(out, f"removed {place.folder}")
