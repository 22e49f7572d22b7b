"""Commands that go on until they are stopped: a service, and the agent of one on another board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.terminal import Runs, err, exit_code, make_folder, out, runs_folder, say


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for every machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    host_name: Annotated[
        list[str] | None, typer.Option(help="Another name that machines may call it by; may be repeated.")
    ] = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Make a new admin's token, when the first is lost.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Jobs that are worked on at once; 0 only takes them.")] = 1,
    runs: Runs = None,
) -> None:
    """Take jobs from many users and work on them, and measurements for agents on other boards."""
    from search.service import serve as run_service

    folder = runs_folder(runs)
    make_folder(folder)
    run_service(
        folder,
        host=host,
        port=port,
        names=host_name or [],
        new_token=new_token,
        jobs=jobs,
        say=lambda line: say(out, line),
    )


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
    try:
        run_agent(server, token, name=name or socket.gethostname(), folder=folder.expanduser())
    except KeyboardInterrupt as stop:
        say(err, "\nstopped; finished passes are kept, and the same command goes on with the next")
        raise typer.Exit(exit_code(stop)) from None
