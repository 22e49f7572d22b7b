"""The command line: `prunefront run job.toml` and its companions.

Exit codes: 0 ok, 1 failed, 2 wrong usage or job, 3 something cannot be reached now, 130 ended by Ctrl-C,
143 by SIGTERM.

A command imports what it needs when it is called: `prunefront --help` waits for no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hwprofiles.errors import InvariantError, PrunefrontError, RequestError, TransientError
from search.cli import devices, jobs, lut, results, runs, service, serving
from search.cli.terminal import err, exit_code, fail, heeding_sigterm, say


class _Commands(TyperGroup):
    """The commands, one of which Ctrl-C or SIGTERM may end."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with heeding_sigterm():
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say(err, "\ninterrupted before there was anything new to resume; run the same command again")
            raise typer.Exit(exit_code(stop)) from None


app = typer.Typer(
    cls=_Commands,
    help="Find how much of each layer to take away: the most accurate model at every latency.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Search": (jobs.run, jobs.resume, jobs.inspect, jobs.bundle, jobs.trial),
    "What came of it": (
        runs.ls,
        runs.show,
        results.pareto,
        results.pick,
        results.rescore,
        results.export,
        results.tune,
        runs.rm,
    ),
    "Devices": (devices.profile, devices.devices, devices.predict),
    "A service": (
        serving.serve,
        serving.agent,
        service.login,
        service.submit,
        service.watch,
        service.logs,
        service.pause,
        service.stop,
        service.cancel,
        service.retry,
        service.diff,
    ),
}
"""As `--help` lists them, panel by panel."""
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(lut.lut, name="lut", rich_help_panel="Devices")
app.add_typer(service.token, name="token", rich_help_panel="A service")


def _version(is_asked: bool) -> None:
    if is_asked:
        print(version("prunefront"))
        raise typer.Exit


@app.callback()
def everywhere(
    show: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every error on purpose becomes one sentence and an exit code."""
    try:
        app()
    except RequestError as error:
        fail(str(error), 2)
    except TransientError as error:
        fail(str(error), 3)
    except InvariantError as error:
        fail(f"{error} (this is a bug in prunefront: please report it)", 1)
    except PrunefrontError as error:
        fail(str(error), 1)
