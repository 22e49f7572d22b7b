"""The command line: `prunefront run job.toml` and its companions.

Exit codes: 0 ok, 1 failed, 2 wrong usage or job, 3 something cannot be reached now, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hwprofiles.errors import InvariantError, PrunefrontError, RequestError, TransientError

if TYPE_CHECKING:
    from search.plan import Place, Prepared
    from trials.store import Store

app = typer.Typer(
    help="Find how much of each layer to take away: the most accurate model at every latency.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)

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
    err.print(f"error: {sentence}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _place(job: str, runs: Path | None) -> Place:
    """Where a job keeps its files; its name may be given as the folder of its run."""
    from search.plan import Place
    from search.settings import Settings

    folder = Path(job)
    if runs is None and folder.parent != Path() and (folder.parent / "prunefront.db").exists():
        return Place(folder.parent, folder.name)
    return Place(runs or Settings().runs, folder.name)


@contextmanager
def _store(place: Place) -> Iterator[Store]:
    from trials.store import Store

    place.runs.mkdir(parents=True, exist_ok=True)
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
                f"job {place.job!r} has not been planned yet; run `prunefront resume {place.job}` first"
            )
        yield prepare(Job.from_json(record.spec), place, record.plan, Silent()), store


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

    if (job_file / "bundle").is_dir() or (
        not job_file.suffix and (job_file.parent / "prunefront.db").exists()
    ):
        return _resume(str(job_file), workers, runs, as_json)
    job = Job.load(job_file)
    changes: dict[str, Any] = {"name": name} if name else {}
    if workers:
        changes["search"] = job.search.model_copy(update={"workers": workers})
    job = Job.from_json(job.model_copy(update=changes).to_json())
    _run(job, _place(job.name, runs), as_json)


@app.command()
def resume(
    job: JobName,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Trials at once.")] = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted or failed job, from its last finished trial."""
    _resume(job, workers, runs, as_json)


def _resume(name: str, workers: int | None, runs: Path | None, as_json: bool) -> None:
    from search.job import Job

    place = _place(name, runs)
    with _store(place) as store:
        job = Job.from_json(store.job(place.job).spec)
    if workers:
        job = job.model_copy(update={"search": job.search.model_copy(update={"workers": workers})})
    _run(job, place, as_json)


def _run(job: Any, place: Place, as_json: bool) -> None:
    from search import report as reports
    from search.progress import Bars, Silent
    from search.session import run_job
    from trials.store import JobState

    with _store(place) as store:
        done = any(r.name == job.name and r.state is JobState.DONE for r in store.jobs())
        if done and not as_json:
            out.print(f"job {job.name!r} is done; this is its result", markup=False, highlight=False)
        try:
            if as_json or done:
                report = run_job(job, place, store, Silent())
            else:
                with Bars(out) as bars:
                    report = run_job(job, place, store, bars)
        except KeyboardInterrupt:
            err.print(
                f"\ninterrupted; nothing finished is lost. Go on with: prunefront resume {place.folder}",
                highlight=False,
            )
            sys.exit(INTERRUPTED)
    if as_json:
        _print_json(report.to_json())
        return
    out.print(reports.table(report))
    out.print(f"report   {place.report}", highlight=False, soft_wrap=True)
    if report.export_folder:
        out.print(f"export   {report.export_folder}", highlight=False, soft_wrap=True)
        out.print(
            f'load     python -c "import search; model = search.load({report.export_folder!r})"',
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    out.print(f"open     python -m webbrowser {place.report}", highlight=False, soft_wrap=True)


@app.command()
def inspect(job_file: JobFile, as_json: AsJson = False, runs: Runs = None) -> None:
    """Print a model's groups: sizes, couplings, shares of MACs and latency, and what is frozen and why."""
    from search.inspection import inspect_job
    from search.job import Job

    job = Job.load(job_file)
    found = inspect_job(job, _place(job.name, runs))
    if as_json:
        _print_json(found)
        return
    table = Table(title=f"{job.name}: {found['macs']:,} MACs, {found['parameters']:,} parameters")
    for column in ("group", "kind", "units", "MACs share", "latency share", "coupled tensors"):
        table.add_column(
            column, justify="left" if column in ("group", "kind", "coupled tensors") else "right"
        )
    for group in found["groups"]:
        share = group["latency_share"]
        table.add_row(
            group["name"], group["kind"], str(group["size"]), f"{group['macs_share']:.1%}",
            "–" if share is None else f"{share:.1%}", ", ".join(group["members"]),
        )  # fmt: skip
    out.print(table)
    if found["profile"] is None:
        out.print(f"latency shares need a profile: prunefront profile {job_file}", highlight=False)
    for item in found["frozen"]:
        out.print(
            f"frozen: {item['name']} ({item['size']} units): {item['reason']}", highlight=False, markup=False
        )


@app.command()
def profile(job_file: JobFile, as_json: AsJson = False, runs: Runs = None) -> None:
    """Measure the job's operators on this machine, as `run` would, and print how good predictions are."""
    from search.inspection import profile_job
    from search.job import Job
    from search.progress import Bars, Silent

    job = Job.load(job_file)
    place = _place(job.name, runs)
    if as_json:
        _print_json(profile_job(job, place, Silent()))
        return
    with Bars(out) as bars:
        found = profile_job(job, place, bars)
    for key, value in found.items():
        out.print(f"{key:<16} {value}", highlight=False, markup=False)


@app.command()
def bundle(
    job_file: JobFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    as_json: AsJson = False,
) -> None:
    """Only export the model as a bundle: data without code, for another machine."""
    from search.job import Job
    from search.plan import open_bundle

    made = open_bundle(Job.load(job_file))
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
    from search.inspection import try_candidates
    from search.job import Job

    job = Job.load(job_file)
    found = try_candidates(job, _place(job.name, runs), widths, rung=rung, measured=measure)
    if as_json:
        _print_json(found)
        return
    table = Table("accuracy", "±", "predicted ms", "±", "measured ms", "MACs", "parameters")
    for item in found:
        if item.get("failed"):
            table.add_row(f"failed: {item['failed']}")
            continue
        facts, predicted = item["facts"], item["predicted"]
        table.add_row(
            f"{facts['accuracy']:.2%}", f"{facts['accuracy_error']:.2%}", f"{predicted['latency_ms']:.3g}",
            f"{predicted['error_ms']:.2g}", f"{item['measured_ms']:.3g}" if measure else "–",
            f"{facts['macs']:,}", f"{facts['parameters']:,}",
        )  # fmt: skip
    out.print(table)


@app.command()
def front(job: JobName, runs: Runs = None, as_json: AsJson = False) -> None:
    """Print a job's Pareto front, and write its picture and report again."""
    from search import report as reports
    from search.session import write_report
    from search.summary import make_report

    with _prepared(job, runs) as (prepared, store):
        report = make_report(prepared, store) if as_json else write_report(prepared, store)
        if as_json:
            _print_json(report.to_json())
            return
        table = Table(
            title=f"front of {report.job} on {report.device.name} (validation accuracy, before fine-tuning)"
        )
        for column in ("trial", "proposed by", "accuracy", "predicted ms"):
            table.add_column(column, justify="right")
        for point in sorted((p for p in report.points if p.on_front), key=lambda p: p.predicted_ms):
            table.add_row(
                str(point.number), point.origin, f"{point.accuracy:.2%}", f"{point.predicted_ms:.3g}"
            )
        out.print(table)
        hypervolume = report.hypervolume[-1] if report.hypervolume else 0.0
        out.print(f"hypervolume {hypervolume:.4f} of 1 (accuracy × time saved)", highlight=False)
        if report.rows:
            out.print(reports.table(report))
        out.print(f"report   {prepared.place.report}", highlight=False, soft_wrap=True)


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
    from search.finish import choose_winner, nearest_trial
    from search.progress import Bars, Silent
    from search.session import export_trial, finish_trial

    if trial is not None and budget:
        raise RequestError("export takes --trial or --budget, not both; leave one out")
    with _prepared(job, runs) as (prepared, store):
        number = nearest_trial(prepared, store, _latency_budget(budget)) if budget else trial
        if number is None:
            number = choose_winner(prepared, store)
        known = [t.number for t in store.trials(prepared.job.name) if t.facts is not None]
        if number is None or number not in known:
            shown = f"{known[0]} to {known[-1]}" if known else "none yet: resume the job"
            raise RequestError(
                f"job {prepared.job.name!r} has no finished trial {number}; finished trials: {shown}"
            )
        if as_json:
            finish_trial(prepared, store, number, Silent())
        else:
            with Bars(out) as bars:
                bars.stage("finishing")
                finish_trial(prepared, store, number, bars)
        folder = export_trial(
            prepared, store, number, output or prepared.place.folder / f"export-trial-{number}"
        )
    _print_json({"trial": number, "folder": str(folder)}) if as_json else out.print(
        f"trial {number} is in {folder}"
    )


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
    from search.inspection import job_facts, trial_facts

    place = _place(job, runs)
    with _store(place) as store:
        found = job_facts(store, place.job) if trial is None else trial_facts(store, place.job, trial)
    if as_json:
        _print_json(found)
        return
    for key, value in found.items():
        out.print(
            f"{key:<14} {value if isinstance(value, str | int | float) else json.dumps(value)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


@app.command()
def ls(runs: Runs = None, as_json: AsJson = False) -> None:
    """List all jobs of the runs folder."""
    from search.inspection import job_facts

    place = _place(".", runs)
    with _store(place) as store:
        found = [job_facts(store, record.name) for record in store.jobs()]
    if as_json:
        _print_json(found)
        return
    table = Table("job", "state", "trials", "failed", "started")
    for item in found:
        table.add_row(item["job"], item["state"], str(item["trials"]), str(item["failed"]), item["created"])
    out.print(table if found else f"no jobs in {place.runs}; start one with: prunefront run job.toml")


@app.command()
def rm(job: JobName, runs: Runs = None) -> None:
    """Forget a job: its trials, its profile and everything it exported into its run folder."""
    from search.session import remove_job

    place = _place(job, runs)
    with _store(place) as store:
        remove_job(place.job, place, store)
    out.print(f"removed {place.folder}", highlight=False)


if __name__ == "__main__":
    main()
