"""The command line: `prunefront run job.toml` and its companions.

Exit codes: 0 ok, 1 failed, 2 wrong usage or job, 3 something cannot be reached now, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from hwprofiles.errors import InvariantError, PrunefrontError, RequestError, TransientError
from search.place import Place

if TYPE_CHECKING:
    from search.job import Job
    from search.plan import Prepared
    from trials.store import Store


class _Commands(TyperGroup):
    """The commands, one of which Ctrl-C may end."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say(err, "\ninterrupted before there was anything new to resume; run the same command again")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    help="Find how much of each layer to take away: the most accurate model at every latency.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# In a file or a pipe nothing cuts lines, so tables there are as wide as they need.
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
out, err = Console(width=_width), Console(stderr=True)

JobFile = Annotated[Path, typer.Argument(help="A job file; docs/job.md explains its keys.")]
JobName = Annotated[str, typer.Argument(help="A job's name, or the folder of its run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Runs = Annotated[
    Path | None, typer.Option("--runs", help="Folder of runs [env: PRUNEFRONT_RUNS; default: runs].")
]

INTERRUPTED = 130
"""What shells expect of a program that Ctrl-C ended."""


def main() -> None:
    """Run the command line; every error on purpose becomes one sentence and an exit code."""
    try:
        app()
    except RequestError as error:
        _fail(str(error), 2)
    except TransientError as error:
        _fail(str(error), 3)
    except InvariantError as error:
        _fail(f"{error} (this is a bug in prunefront: please report it)", 1)
    except PrunefrontError as error:
        _fail(str(error), 1)


def _fail(sentence: str, code: int) -> None:
    _say(err, f"error: {sentence}")
    sys.exit(code)


def _runs(runs: Path | None) -> Path:
    from search.settings import Settings

    return runs or Settings().runs


def _run_folder(path: Path) -> Place | None:
    """The run whose folder this is: one that lies beside a store."""
    folder = path.resolve()
    place = Place(folder.parent, folder.name)
    return place if folder.is_dir() and place.store.exists() else None


def _place(job: str, runs: Path | None) -> Place:
    """Where a job keeps its files; its name may be given as the folder of its run."""
    named = None if runs else _run_folder(Path(job))
    return named or Place(_runs(runs), Path(job).name)


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


def _devices(runs: Path | None) -> Path:
    return Place(_runs(runs), "").devices


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


@app.command()
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
    _run(job, Place(_runs(runs), job.name), workers, as_json)


@app.command()
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
    from search import tables
    from search.progress import Bars, Silent
    from search.session import run_job
    from trials.store import JobState, Store

    if workers:
        job = job.model_copy(update={"search": job.search.model_copy(update={"workers": workers})})
    _make_folder(place.runs)
    with Store.open(place.store) as store:
        done = any(r.name == job.name and r.state is JobState.DONE for r in store.jobs())
        try:
            if as_json or done:
                report = run_job(job, place, store, Silent())
            else:
                with Bars(out) as bars:
                    report = run_job(job, place, store, bars)
        except KeyboardInterrupt:
            if job.name not in [record.name for record in store.jobs()]:
                raise
            _say(err, "\ninterrupted; nothing finished is lost")
            _say(err, f"go on with: prunefront resume {place.folder}")
            sys.exit(INTERRUPTED)
    if as_json:
        _print_json(report.to_json())
    else:
        if done:
            _say(out, f"job {job.name!r} is done; this is its result")
        out.print(tables.networks(report))
        _say(out, f"report   {place.report}")
        if report.export_folder:
            _say(out, f"export   {report.export_folder}")
            code = f"import search; model = search.load({report.export_folder!r})"
            _say(out, f'load     {_python()} -c "{code}"')
        _say(out, f"open     {_python()} -m webbrowser {place.report}")
    if not report.export_folder:
        failed = [point.failed for point in report.points if point.failed]
        reason = f"; {len(failed)} failed, the first because {failed[0]}" if failed else ""
        _fail(f"job {job.name!r} found nothing to export in {len(report.points)} trials{reason}", 1)


def _python() -> str:
    """The interpreter that runs, as a command for this folder: another may know neither package nor path."""
    return shlex.quote(min(sys.executable, os.path.relpath(sys.executable), key=len))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"the folder of runs {folder} cannot be made: {error.strerror}; choose another with --runs"
        ) from None


def _say(console: Console, line: str) -> None:
    """Print a line as it is: paths are not cut, coloured or taken for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def inspect(job_file: JobFile, as_json: AsJson = False, runs: Runs = None) -> None:
    """Print a model's groups: sizes, couplings, shares of MACs and latency, and what is frozen and why."""
    from search import tables
    from search.inspection import inspect_job
    from search.job import Job

    job = Job.load(job_file)
    found = inspect_job(job, Place(_runs(runs), job.name))
    if as_json:
        _print_json(found)
        return
    _say(out, f"{job.name}: {found['macs']:,} MACs, {found['parameters']:,} parameters")
    out.print(tables.groups(found))
    if found["profile"] is None:
        _say(out, f"latency shares need a profile: prunefront profile {job_file}")
    for line in (*tables.dear(found), *tables.small(found), *tables.frozen(found)):
        _say(out, line)


@app.command()
def profile(
    job_file: Annotated[
        Path | None, typer.Argument(help="A job file, to measure what its run would.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Measure for the device's own profile, under this name of yours.")
    ] = "",
    model: Annotated[Path | None, typer.Option(help="With --device: a job file, or a bundle alone.")] = None,
    runtime: Annotated[str | None, typer.Option(help="With --device: such as onnxruntime.")] = None,
    precision: Annotated[str | None, typer.Option(help="With --device: such as fp32.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="With --device.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="With --device.")] = None,
    passes: Annotated[
        int | None, typer.Option(min=1, max=100, help="With --device: times everything is measured.")
    ] = None,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Measure this machine for a model: for a job as `run` would, or for a device's own growing profile."""
    from search import tables
    from search.inspection import profile_job
    from search.job import Job
    from search.profiling import PASSES, profile_device
    from search.progress import Bars, Listener, Silent

    chosen = {"runtime": runtime, "precision": precision, "batch": batch, "threads": threads}
    asked = {key: value for key, value in chosen.items() if value is not None}
    source = model or job_file
    if source is None or (model and job_file) or (not device and (model or asked or passes)):
        raise RequestError(
            "profile takes a job file alone, or --device NAME with --model and what else is to differ"
        )

    def measured(listener: Listener) -> dict[str, Any]:
        if not device:
            job = Job.load(source)
            return profile_job(job, Place(_runs(runs), job.name), listener)
        return profile_device(source, device, _devices(runs), asked, passes or PASSES, listener)

    try:
        if as_json:
            _print_json(measured(Silent()))
            return
        with Bars(out) as bars:
            found = measured(bars)
    except KeyboardInterrupt:
        _say(err, "\ninterrupted; finished passes are kept, and the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    for line in tables.profile(found):
        _say(out, line)


@app.command()
def devices(as_json: AsJson = False, runs: Runs = None) -> None:
    """List devices: this machine, and all that have a profile, with its age and its measured error."""
    from search import tables
    from search.devices import list_devices

    found = list_devices(_devices(runs))
    if as_json:
        _print_json(found)
        return
    out.print(tables.devices(found))
    for item in found:
        if "wrong" in item:
            _say(out, f"{item['device']}: {item['wrong']}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A job file, or a bundle alone.")],
    device: Annotated[str, typer.Option(help="A device of `prunefront devices`, or a profile's file.")],
    widths: Annotated[
        Path | None, typer.Option(help='JSON: a list of {"group": kept}; without it the dense model.')
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure each on this machine, too.")] = False,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Predict what candidates take on a device, with error bars, operator by operator."""
    from search import tables
    from search.predict import predict

    found = predict(model, device, _devices(runs), widths, measured=measure)
    if as_json:
        _print_json(found)
        return
    out.print(tables.predictions(found))
    out.print(tables.operators(found))


lut = typer.Typer(help="Look at latency tables.", no_args_is_help=True)
app.add_typer(lut, name="lut")
DeviceName = Annotated[str, typer.Argument(help="A device of `prunefront devices`, or a profile's file.")]


@lut.command("show")
def lut_show(
    device: DeviceName,
    operator: Annotated[
        int | None, typer.Option(help="Number of an operator in the list: show its latency over its width.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="With --operator: draw it into this file, too.")] = None,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Show a table: its families of kernels, or the stairs and cliffs of one operator."""
    from search import tables
    from search.lut import show, show_operator, stairs_facts

    if operator is None:
        if svg:
            raise RequestError("--svg draws one operator; name it with --operator and its number in the list")
        found = show(device, _devices(runs))
        if as_json:
            _print_json(found)
            return
        out.print(tables.families(found))
        out.print(tables.numbered(found["operators"]))
        return
    stairs = show_operator(device, _devices(runs), operator)
    if svg:
        from search.figures import write_stairs

        write_stairs(stairs, svg)
    if as_json:
        _print_json([stairs_facts(each) for each in stairs])
        return
    for each in stairs:
        for line in tables.stairs(each):
            out.print(line)


@lut.command("check")
def lut_check(device: DeviceName, as_json: AsJson = False, runs: Runs = None) -> None:
    """Check a table for damage, and name measurements that were disturbed."""
    from search import tables
    from search.lut import check

    found = check(device, _devices(runs))
    if as_json:
        _print_json(found)
        return
    for line in tables.checked(found):
        _say(out, line)


@lut.command("diff")
def lut_diff(before: DeviceName, after: DeviceName, as_json: AsJson = False, runs: Runs = None) -> None:
    """Compare two profiles of one model: what moved by more than the noise of both."""
    from dataclasses import asdict

    from search import tables
    from search.lut import diff

    differing, comparison = diff(before, after, _devices(runs))
    if as_json:
        _print_json({"differing": differing, **asdict(comparison)})
        return
    for key, (old, new) in differing.items():
        _say(out, f"{key}: {old} → {new}")
    _say(out, tables.compared(comparison))
    if comparison.moved:
        out.print(tables.moves(comparison))


@lut.command("import")
def lut_import(
    files: Annotated[list[Path], typer.Argument(help="Tables; of an engine: layers, profile, times.")],
    form: Annotated[str, typer.Option("--format", help="csv, yaml or trtexec.")],
    device: Annotated[str, typer.Option(help="What to call the device.")],
    board: Annotated[str, typer.Option(help="The board that it was measured on.")],
    runtime: Annotated[str, typer.Option(help="The runtime that it was measured with.")] = "tensorrt",
    precision: Annotated[str, typer.Option(help="Such as fp16.")] = "fp32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Make a profile of a table that somebody else measured; docs/import.md says of which."""
    from hwprofiles import Device
    from search.lut import import_table

    described = Device(name=device, runtime=runtime, board=board, precision=precision, batch=batch)
    path, imported = import_table(files, form, described, _devices(runs))
    found = {
        "profile": str(path),
        "kernels": len(imported.profile.kernels),
        "networks": len(imported.profile.networks),
        "calibrated": imported.calibrated,
        "left_out": list(imported.left_out),
    }
    if as_json:
        _print_json(found)
        return
    for sentence in imported.left_out:
        _say(out, f"left out: {sentence}")
    _say(out, f"{found['kernels']} kernels and {found['networks']} networks are in {path}")
    if not imported.calibrated:
        _say(out, "it makes no predictions: that needs two whole networks, and an error bar of 90 % nine")


@app.command()
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
    _print_json(found) if as_json else out.print(
        f"bundle {output}: {found['nodes']} nodes, {found['tensors']} tensors"
    )


@app.command()
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
    found = try_candidates(job, Place(_runs(runs), job.name), widths, rung=rung, measured=measure)
    if as_json:
        _print_json(found)
        return
    for number, item in enumerate(found, start=1):
        if "failed" in item:
            _say(out, f"candidate {number} failed: {item['failed']}")
    table = tables.candidates(found)
    if table.row_count:
        out.print(table)
    if any("failed" in item for item in found):
        sys.exit(1)


@app.command()
def front(job: JobName, runs: Runs = None, as_json: AsJson = False) -> None:
    """Print a job's Pareto front as far as it has come, and write its picture and report."""
    from search import tables
    from search.session import write_report

    with _prepared(job, runs) as (prepared, store):
        report = write_report(prepared, store)
    if as_json:
        _print_json(report.to_json())
        return
    if report.hypervolume:
        _say(
            out,
            f"the search's front of {report.job} on {report.device.name}, before finalists were fine-tuned",
        )
        out.print(tables.front(report))
        _say(out, f"hypervolume {report.hypervolume[-1]:.4f} of 1 (accuracy × time saved)")
    else:
        _say(out, f"job {report.job} has no finished trial yet")
    if report.rows:
        _say(out, "\nfinalists and baselines beside the dense network")
        out.print(tables.networks(report))
    _say(out, f"report   {prepared.place.report}")


@app.command()
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
        _print_json({"trial": number, "folder": str(folder)})
    else:
        rule = "the most accurate on validation that is predicted to hold it, finalists before other trials"
        _say(out, f"{line}; of {budget}: {rule}" if budget else line)
        _say(out, f"trial {number} is in {folder}")


def _latency_budget(text: str) -> float:
    key, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if key != "latency_ms" or not 0 < number < float("inf"):
        raise RequestError(f"--budget {text!r} is not of the form latency_ms=5; give milliseconds above 0")
    return number


@app.command()
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
        _print_json(found)
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
        _say(out, line)


def _show_trial(found: Mapping[str, Any]) -> None:
    from search import tables
    from search.report import count, significant

    wanted = significant(found["target"]) if found["target_unit"] == "ms" else count(found["target"])
    _say(
        out,
        f"trial {found['trial']}: {found['state']}, proposed by {found['origin']} for at most {wanted} "
        f"{found['target_unit']} (seed {found['seed']}, attempts {found['attempts']})",
    )
    if found["reason"]:
        _say(out, f"failed: {found['reason']}")
    if found["facts"]:
        out.print(tables.stages(found))
    out.print(tables.widths(found))
    if "exported" in found["results"]:
        _say(out, f"exported to {found['results']['exported']['folder']}")


@app.command()
def ls(runs: Runs = None, as_json: AsJson = False) -> None:
    """List all jobs of the runs folder."""
    from search import tables
    from search.status import job_facts

    place = Place(_runs(runs), "")
    found = []
    if place.store.exists():
        with _store(place) as store:
            found = [job_facts(store, Place(place.runs, record.name)) for record in store.jobs()]
    if as_json:
        _print_json(found)
        return
    if not found:
        _say(out, f"no jobs in {place.runs}; start one with: prunefront run job.toml")
        return
    out.print(tables.jobs(found))


@app.command()
def rm(job: JobName, runs: Runs = None, as_json: AsJson = False) -> None:
    """Forget a job: its trials, its profile and everything it exported into its run folder."""
    from search.session import remove_job

    place = _place(job, runs)
    with _store(place) as store:
        remove_job(place, store)
    if as_json:
        _print_json({"removed": str(place.folder)})
    else:
        _say(out, f"removed {place.folder}")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for every machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    host_name: Annotated[
        list[str] | None, typer.Option(help="Another name that machines may call it by; may be repeated.")
    ] = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Make a new admin's token, when the first is lost.")
    ] = False,
    runs: Runs = None,
) -> None:
    """Serve measurements to agents on other boards; docs/agent.md explains how to set them up."""
    from search.service import serve as run_service

    folder = _runs(runs)
    _make_folder(folder)
    run_service(
        folder,
        host=host,
        port=port,
        names=host_name or [],
        new_token=new_token,
        say=lambda line: _say(out, line),
    )


@app.command()
def agent(
    server: Annotated[str, typer.Option(help="Its address, such as https://lab.example:8321.")],
    token: Annotated[str, typer.Option(envvar="PRUNEFRONT_TOKEN", help="An agent's token.")],
    name: Annotated[str, typer.Option(help="What jobs call this board; default: its host name.")] = "",
    folder: Annotated[Path, typer.Option(help="Where finished passes wait for the network.")] = Path(
        "~/.cache/prunefront/agent"
    ),
) -> None:
    """Measure on this board what a server asks for, until it is stopped."""
    import logging
    import socket

    from hwprofiles.agent import run_agent

    logging.basicConfig(format="%(message)s")
    logging.getLogger("hwprofiles").setLevel(logging.INFO)
    run_agent(server, token, name=name or socket.gethostname(), folder=folder.expanduser())


if __name__ == "__main__":
    main()
