"""Commands that only a service has: submit a job to it, watch and steer it there, log in."""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprofiles.errors import RequestError
from search.cli.jobs import JobFile
from search.cli.remote import RemoteName, ServerName, again, service_of, steer
from search.cli.terminal import (
    FAILED,
    TERMINATED,
    AsJson,
    Terminated,
    err,
    fail,
    out,
    print_json,
    say,
)

if TYPE_CHECKING:
    from search.client import RemoteJob, Told

DAY_S = 86_400


def submit(
    job_file: JobFile,
    name: Annotated[str, typer.Option(help="Another name for the job, to run the same file again.")] = "",
    server: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Send a job to a service, which runs it: the same file as for `run`. The same again is the same job."""
    from search.progress import Bars, Silent

    client = service_of(server)
    with nullcontext(Silent()) if as_json else Bars(out) as listener:
        listener.stage("sending")
        job = client.submit(job_file, name=name, progress=listener.update)
    if as_json:
        print_json({**job.told, "url": job.url, "server": client.server.url, "new": job.is_new})
        return
    was = "" if job.is_new else f"; it was submitted before, and is {job.told['state']}"
    say(out, f"job {job.name!r} is at {client.server.name}{was}")
    if job.name != job.wanted:
        say(out, f"{job.wanted!r} is another job there, such as an earlier form of this file")
    say(out, f"page     {job.url}")
    say(out, f"watch    {again('watch', job)}")
    say(out, f"front    {again('pareto', job)}")
    say(out, f"export   {again('export', job, '-o', f'{job.name}-export')}")
    if job.told["state"] in ("failed", "cancelled"):
        say(out, f"go on    {again('retry', job)}")


def watch(job: RemoteName, server: ServerName = None, as_json: AsJson = False) -> None:
    """Follow a job until nothing more happens to it. Ctrl-C only ends the watching.

    Exit code 1 where it failed, or was cancelled or paused. With --json each line is one thing that happened.
    """
    found = service_of(server).job(job)
    try:
        if as_json:
            for told in found.watch():
                data = {"job": told.data} if told.kind == "job" else told.data
                print(json.dumps({"kind": told.kind, **data}), flush=True)
        else:
            _show_live(found)
    except KeyboardInterrupt as stop:
        say(err, f"\ndetached; job {job!r} goes on at {found.client.server.name}")
        say(err, f"come back with: {again('watch', found)}")
        raise typer.Exit(TERMINATED if isinstance(stop, Terminated) else 0) from None
    state, reason = found.told["state"], found.told["reason"]
    if state != "done":
        sentence = f"job {job!r} is {state}" + (f": {reason}" if reason else "")
        fail(f"{sentence}; go on with: {again('resume' if state == 'paused' else 'retry', found)}", FAILED)
    if not as_json:
        say(out, f"job {job!r} is done")
        say(out, f"front    {again('pareto', found)}")
        say(out, f"export   {again('export', found, '-o', f'{job}-export')}")


def _show_live(job: RemoteJob) -> None:
    """A bar for each stage on a terminal, lines elsewhere, and what the job says of itself."""
    from search.progress import Bars

    at = None
    with Bars(out) as bars:
        for told in job.watch():
            if told.kind != "job":
                if line := _line(told):
                    bars.note(line)
                continue
            progress = told.data["progress"]
            stage = progress.get("stage", "starting") if told.data["at_work"] else told.data["state"]
            if stage != at:
                bars.stage(stage)
                at = stage
            bars.update(progress.get("share", 0.0) if told.data["at_work"] else 0.0, progress.get("text", ""))


def _line(told: Told) -> str:
    """What is said of an event; what became of single trials is in the progress."""
    kind, message = told.data["kind"], told.data["message"]
    if kind == "trial":
        return ""
    return str(message if kind == "note" else f"{kind}: {message}")


def logs(
    job: RemoteName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until nothing more happens to the job.")
    ] = False,
    server: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Print what a job's processes have printed, the end of it; errors that no sentence tells are there."""
    if follow and as_json:
        raise RequestError("logs takes --follow or --json, not both; leave one out")
    found = service_of(server).job(job)
    if as_json:
        print_json({"job": job, "log": b"".join(found.log()).decode(errors="replace")})
        return
    try:
        for part in found.log(follow=follow):
            sys.stdout.buffer.write(part)
            sys.stdout.flush()
    except KeyboardInterrupt:
        say(err, f"\ndetached; job {job!r} goes on at {found.client.server.name}")
        raise typer.Exit(0) from None


def pause(job: RemoteName, server: ServerName = None, as_json: AsJson = False) -> None:
    """Let a job start no new trials: those that run finish, and it waits for `resume`."""
    steer(service_of(server), job, "pause", as_json)


def stop(job: RemoteName, server: ServerName = None, as_json: AsJson = False) -> None:
    """End a job's search: the best of what is there is trained, measured and exported."""
    steer(service_of(server), job, "stop", as_json)


def cancel(job: RemoteName, server: ServerName = None, as_json: AsJson = False) -> None:
    """End a job now; what it has found stays, and `retry` goes on with it."""
    steer(service_of(server), job, "cancel", as_json)


def retry(job: RemoteName, server: ServerName = None, as_json: AsJson = False) -> None:
    """Start a job again that has failed or was cancelled, with all that it has found."""
    steer(service_of(server), job, "retry", as_json)


def diff(
    first: Annotated[str, typer.Argument(help="JOB/TRIAL, such as mine/3.")],
    second: Annotated[str, typer.Argument(help="JOB/TRIAL, or the number of a trial of the same job.")],
    device: Annotated[str, typer.Option(help="Where latency counts: any device with a profile there.")] = "",
    server: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Compare two trials at a service: what they keep of each group, and what each layer takes."""
    from search import remote_tables
    from search.comparison import compare

    job, number = _trial_of(first, "")
    other, other_number = _trial_of(second, job)
    client = service_of(server)
    names = (f"{job}/{number}", f"{other}/{other_number}")
    trials = [client.job(job).trial(number, device), client.job(other).trial(other_number, device)]
    found = compare(names, *trials)
    if as_json:
        print_json(found)
        return
    for table in remote_tables.differences(found):
        out.print(table)


def _trial_of(named: str, job: str) -> tuple[str, int]:
    job, number = named.rsplit("/", 1) if "/" in named else (job, named)
    if not job or not number.isdecimal():
        raise RequestError(f"{named!r} names no trial; give JOB/TRIAL, such as mine/3")
    return job, int(number)


def login(
    name: Annotated[str, typer.Argument(help="What to call the server from now on.")],
    url: Annotated[str, typer.Argument(help="Its address, such as https://lab.example.")],
    token: Annotated[str, typer.Option(help="Your token; else it is asked for, or read from a pipe.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a server known by a name, and the default of commands that only a server has."""
    from search.client import Client
    from search.servers import Server, Servers, servers_file

    if not token and sys.stdin.isatty():
        token = typer.prompt("token", hide_input=True)
    server = Server(name, url.rstrip("/"), (token or sys.stdin.readline()).strip())
    user = Client.of(server).user()
    Servers.read().logged_in(server)
    if as_json:
        print_json({"server": name, "url": server.url, "user": user["user"], "role": user["role"]})
        return
    days = (user["expires_s"] - time.time()) / DAY_S
    say(out, f"logged in to {server.url} as {user['user']} ({user['role']}), for {days:.0f} days")
    say(out, f"{servers_file()} keeps the token; {name!r} is the default server now")


token = typer.Typer(help="Make, list and revoke tokens of a service, as an admin.", no_args_is_help=True)


@token.command("make")
def token_make(
    user: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[str, typer.Argument(help="viewer, submitter, admin or agent.")],
    days: Annotated[float, typer.Option(min=0, help="How long it holds.")] = 90,
    server: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Its text is shown this once."""
    wanted = {"user": user, "role": role, "days": days}
    made = _call(server, "POST", "/tokens", json.dumps(wanted))
    if as_json:
        print_json(made)
    else:
        say(out, f"token    {made['token']}  ({made['role']} {made['user']}, {days:g} days; shown this once)")
        say(out, f"revoke   {shlex.join(['prunefront', 'token', 'revoke', made['id'], *_named(server)])}")


@token.command("ls")
def token_ls(server: ServerName = None, as_json: AsJson = False) -> None:
    """List every token that was made, without its text."""
    from search import remote_tables

    found = _call(server, "GET", "/tokens")
    print_json(found) if as_json else out.print(remote_tables.tokens(found, time.time()))


@token.command("revoke")
def token_revoke(
    id: Annotated[str, typer.Argument(help="As `prunefront token ls` lists it.")],
    server: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a token, and the sessions that stand for it."""
    _call(server, "DELETE", f"/tokens/{id}")
    print_json({"revoked": id}) if as_json else say(out, f"token {id} is revoked")


def _call(server: str | None, method: str, path: str, content: str = "") -> Any:
    """What a service answers; None where it says nothing."""
    answer = service_of(server).remote.call(method, path, content, patience_s=0)
    return answer.json() if answer.content else None


def _named(server: str | None) -> list[str]:
    return ["-s", server] if server else []
