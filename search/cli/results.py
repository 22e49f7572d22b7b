"""Commands about what a job has found: its front, its trials, its exports."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwprofiles.errors import RequestError
from search.cli import remote, sets
from search.cli.remote import ServerName, only_here, service_instead
from search.cli.stored import JobName, is_set, open_planned
from search.cli.terminal import (
    AsJson,
    Runs,
    err,
    exit_code,
    out,
    print_json,
    print_networks,
    say,
)

if TYPE_CHECKING:
    from search.job import CostKind
    from search.plan import Prepared
    from search.report import Report
    from trials.store import Store


def pareto(
    job: JobName,
    device: Annotated[str, typer.Option(help="Another of the job's devices than the first.")] = "",
    server: ServerName = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's Pareto front as far as it has come, and write its picture and report."""
    from search.outcome import write_report

    if service := service_instead(server, runs):
        remote.pareto(service, job, device, as_json)
        return
    if is_set(job, runs):
        sets.pareto(job, runs, as_json)
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
    server: ServerName = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Print the front of a job's trials on a device that it did not search for; runs no trial."""
    from search.outcome import rescore

    if service := service_instead(server, runs):
        remote.pareto(service, job, device, as_json)
        return
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
    latency_p99_ms: Annotated[float | None, typer.Option(min=0, help="At most, of 99 runs in 100.")] = None,
    macs: Annotated[float | None, typer.Option(min=0, help="At most.")] = None,
    parameters: Annotated[float | None, typer.Option(min=0, help="At most.")] = None,
    size_bytes: Annotated[float | None, typer.Option(min=0, help="At most, of all weights.")] = None,
    memory_bytes: Annotated[
        float | None, typer.Option(min=0, help="At most, of weights and activations.")
    ] = None,
    energy_mj: Annotated[float | None, typer.Option(min=0, help="At most, of one run.")] = None,
    device: Annotated[
        str, typer.Option(help="What it is for: another device of the job, or one that has a profile.")
    ] = "",
    server: ServerName = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Say which trial is the most accurate within what it may cost, and how to export it."""
    from search import tables
    from search.picking import limits_of, pick, picked

    asked: dict[CostKind, float | None] = {
        "latency_ms": latency_ms,
        "latency_p99_ms": latency_p99_ms,
        "macs": macs,
        "parameters": parameters,
        "size_bytes": size_bytes,
        "memory_bytes": memory_bytes,
        "energy_mj": energy_mj,
    }
    options = ", ".join(f"--{kind.replace('_', '-')}" for kind in asked)
    limits = limits_of(asked, f"pick takes one or more of {options}")
    if service := service_instead(server, runs):
        remote.pick(service, job, limits, device, as_json)
        return
    with open_planned(job, runs) as (prepared, store):
        on = prepared.on(device)
        found = picked(prepared, store, on, pick(prepared, store, on, limits), limits)
    if as_json:
        print_json(found)
        return
    for line in tables.picked(found):
        say(out, line)


def export(
    job: JobName,
    trial: Annotated[int | None, typer.Option(help="Number of the trial to export.")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="latency_ms=5 or the like: the most accurate trial that holds it, and all others."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.")] = None,
    server: ServerName = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Export a trial, by default the winner; one that is no finalist is trained and measured first."""
    from search.export import holds_whole
    from search.exported import export_line
    from search.finalists import choose_winner
    from search.finish import finish_trial
    from search.outcome import export_trial, write_report
    from search.picking import parse_limits, pick
    from search.progress import Bars, Silent
    from search.results import EXPORTED, results

    if trial is not None and budget:
        raise RequestError("export takes --trial or --budget, not both; leave one out")
    if service := service_instead(server, runs):
        only_here("export", budget=budget)
        remote.export(service, job, trial, output, as_json)
        return
    with open_planned(job, runs) as (prepared, store), prepared.place.lock():
        number = trial
        if budget:
            number = pick(prepared, store, prepared.devices[0], parse_limits(budget)).number
        exported = results(store, prepared.job.name, EXPORTED)
        if number is None:
            number = next(iter(exported), choose_winner(prepared, store))
        number = _finished(prepared, store, number)
        if as_json:
            finish_trial(prepared, store, number, Silent())
        else:
            with Bars(out) as bars:
                bars.stage("finishing")
                finish_trial(prepared, store, number, bars)
        folder = prepared.place.export
        if output or number not in exported or not holds_whole(folder, number):
            folder = output or prepared.place.folder / f"export-trial-{number}"
            export_trial(prepared, store, number, folder, replace=not output)
        write_report(prepared, store)
        line = export_line(prepared, store, number)
    if as_json:
        print_json({"trial": number, "folder": str(folder)})
    else:
        rule = "the most accurate on validation that holds it, finalists before other trials"
        say(out, f"{line}; of {' and '.join(budget)}: {rule}" if budget else line)
        say(out, f"trial {number} is in {folder}")


def _finished(prepared: Prepared, store: Store, number: int | None) -> int:
    """The trial of this number, which was tried to its end; None is no finalist.

    Raises:
        RequestError: there is none; names those that there are.
    """
    known = [trial.number for trial in store.trials(prepared.job.name) if trial.facts is not None]
    if number is None or number not in known:
        wanted = "finalist to export yet" if number is None else f"finished trial {number}"
        shown = ", ".join(map(str, known)) or "none yet; go on with `prunefront resume`"
        raise RequestError(f"job {prepared.job.name!r} has no {wanted}; finished trials: {shown}")
    return number


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
        _finished(prepared, store, trial)
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
