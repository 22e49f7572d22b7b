"""Commands about jobs at a service in place of this machine's runs: what `--server` makes of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwprofiles.errors import RequestError
from search.cli.terminal import err, out, print_json, say

if TYPE_CHECKING:
    from search.client import Client, RemoteJob
    from search.picking import Limits

PICKED_BY = ("latency_ms", "macs", "parameters")
"""What a service tells of each trial."""
UNDONE_BY = {"pause": "resume", "cancel": "retry"}
"""What makes a job go on that was asked to do the first."""

ServerName = Annotated[
    str | None,
    typer.Option(
        "--server", "-s", help="A server that was logged in to, or its URL (env: PRUNEFRONT_SERVER)."
    ),
]
RemoteName = Annotated[str, typer.Argument(help="The name of a job of the service.")]


def service_of(server: str | None) -> Client:
    """The service that a command is for that only a service has: the default one unless one is named."""
    from search.client import Client

    return Client.named(server or "")


def service_instead(server: str | None, runs: Path | None) -> Client | None:
    """The service that was named in place of a folder of runs; "" is none, whatever the environment says."""
    from search.settings import Settings

    if server and runs:
        raise RequestError("--server and --runs name two places; give one of them")
    named = Settings().server if server is None and runs is None else server
    return service_of(named) if named else None


def only_here(command: str, **options: object) -> None:
    """Refuse options that mean something for this machine's runs only."""
    if given := [name for name, value in options.items() if value]:
        raise RequestError(f"{command} at a server takes no --{given[0].replace('_', '-')}; leave it out")


def again(command: str, job: RemoteJob, *more: str) -> str:
    """A command about a job, to be copied."""
    return shlex.join(["prunefront", command, job.name, *more, "-s", job.client.server.name])


def ls(client: Client, as_json: bool) -> None:
    from search import remote_tables

    found = [job.told for job in client.jobs()]
    if as_json:
        print_json(found)
    elif not found:
        server = client.server.name
        say(out, f"no jobs at {server}; submit one with: prunefront submit job.toml -s {shlex.quote(server)}")
    else:
        out.print(remote_tables.jobs(found))


def show(client: Client, name: str, trial: int | None, as_json: bool) -> None:
    from search import remote_tables, tables

    job = client.job(name)
    if trial is not None:
        found = job.trial(trial)
        if as_json:
            print_json(found)
            return
        for line in remote_tables.trial(found):
            say(out, line)
        out.print(tables.widths(found))
        return
    rows = job.rows()
    notes = [f"{each['kind']}: {each['message']}" for each in job.events() if each["kind"] != "trial"]
    if as_json:
        print_json({**job.told, "all_trials": rows, "events": notes})
        return
    out.print(remote_tables.jobs([job.told]))
    say(out, f"budget: {job.told['budget']}")
    if rows:
        out.print(tables.trials(rows))
    for line in (*tables.failures(rows), *notes):
        say(out, line)


def pareto(client: Client, name: str, device: str, as_json: bool) -> None:
    """Print the front of a job's trials on one of its devices, or on any that has a profile there."""
    from search import remote_tables

    board = client.job(name).board(device)
    if as_json:
        print_json(board)
        return
    say(out, f"budget: {board['budget']}")
    if board["hypervolume"]:
        say(out, f"the front of {board['job']} on {board['device']}, before finalists were fine-tuned")
        out.print(remote_tables.front(board))
        say(out, f"hypervolume {board['hypervolume'][-1]:.4f} of 1 (accuracy × time saved)")
    else:
        say(out, f"job {board['job']} has no finished trial yet")
    if board["finalists"]:
        out.print(remote_tables.finalists(board))
    if len(board["devices"]) > 1 and not device:
        say(out, f"other devices, each with --device NAME: {', '.join(board['devices'][1:])}")


def steer(client: Client, name: str, verb: str, as_json: bool) -> None:
    """Ask something of a job, and say what became of it."""
    from search.remote_tables import doing

    job = client.job(name)
    state = job.steer(verb)
    if as_json:
        print_json(job.told)
    else:
        told = doing(job.told)
        say(out, f"job {name!r} is {state}" + (f", {told}" if told else ""))
        if verb in UNDONE_BY:
            say(out, f"go on with: {again(UNDONE_BY[verb], job)}")


def rm(client: Client, name: str, as_json: bool) -> None:
    client.job(name).remove()
    print_json({"removed": name}) if as_json else say(out, f"removed {name} at {client.server.name}")


def pick(client: Client, name: str, limits: Limits, device: str, as_json: bool) -> None:
    """Say which trial of a job is the most accurate within what it may cost."""
    from search.numbers import count, percent
    from search.tables import latency

    unknown = [kind for kind in limits if kind not in PICKED_BY]
    if unknown:
        options = ", ".join(f"--{kind.replace('_', '-')}" for kind in PICKED_BY)
        raise RequestError(f"pick at a server takes no --{unknown[0].replace('_', '-')}; allowed: {options}")
    job = client.job(name)
    found = job.pick(limits, device)
    found["next"] = again("export", job, "--trial", str(found["number"]))
    if as_json:
        print_json(found)
        return
    then = "trained to the end" if found["finalist"] else "as the search saw it, before it is fine-tuned"
    size = f"{count(found['macs'])} MACs, {count(found['parameters'])} parameters"
    say(out, f"trial {found['number']}: {then}")
    say(out, f"validation {percent(found['accuracy'])} %, {size}")
    say(out, f"predicted {latency(found['latency_ms'], found['error_ms'])} ms on {found['device']}")
    say(out, f"export it with: {found['next']}")


def export(client: Client, name: str, trial: int | None, output: Path | None, as_json: bool) -> None:
    job = client.job(name)
    folder = output or Path(f"{name}-export" if trial is None else f"{name}-trial-{trial}")
    options = ["-o", str(folder)] if trial is None else ["--trial", str(trial), "-o", str(folder)]
    if not as_json:
        say(out, f"fetching from {client.server.name}; a trial that is not exported there is trained first")
    try:
        job.export(folder, trial)
    except KeyboardInterrupt:
        say(err, f"\ninterrupted; {client.server.name} goes on with what it has begun")
        say(err, f"fetch it with: {again('export', job, *options)}")
        raise typer.Exit(130) from None
    if as_json:
        print_json({"job": name, "trial": trial, "folder": str(folder)})
        return
    say(out, f"export   {folder}")
    say(out, f'load     python -c "import search; model = search.load({str(folder)!r})"')
