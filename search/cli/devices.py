"""Commands about devices: to measure them, list them, and predict what candidates take there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprofiles.errors import RequestError, TransientError
from search.cli.terminal import (
    AsJson,
    Runs,
    devices_folder,
    err,
    exit_code,
    out,
    print_json,
    runs_folder,
    say,
)
from search.place import Place

if TYPE_CHECKING:
    from hwprofiles.remote import Remote
    from search.bench import OpenBench

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        "-s",
        help="A server, by name or URL, whose agents are devices, too (env: PRUNEFRONT_SERVER).",
    ),
]
Token = Annotated[
    str | None, typer.Option(help="A submitter's, in place of the login's (env: PRUNEFRONT_TOKEN).")
]


@contextmanager
def _remote(server: str | None, token: str | None) -> Iterator[Remote | None]:
    """The server that was named here or in the environment, if one was; an empty name is none."""
    from hwprofiles.remote import Remote
    from search.servers import find_server
    from search.settings import Settings

    named = Settings().server if server is None else server
    if not named:
        yield None
        return
    found = find_server(named, token or "")
    with Remote(found.url, found.token) as remote:
        yield remote


@contextmanager
def _bench(server: str | None, token: str | None, *, anew: bool = False) -> Iterator[OpenBench]:
    """What finds a device: among the agents of a server if one is named, else this machine."""
    from search.bench import open_here

    with _remote(server, token) as remote:
        if remote is None:
            yield open_here
            return
        from search.service import open_on_agent

        yield partial(open_on_agent, remote, anew=anew)


def profile(
    job_file: Annotated[
        Path | None, typer.Argument(help="A job file, to measure what its run would.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Measure for the device's own profile, under this name of yours.")
    ] = "",
    model: Annotated[Path | None, typer.Option(help="With --device: a job file, or a bundle alone.")] = None,
    runtime: Annotated[str | None, typer.Option(help="With --device: such as onnxruntime.")] = None,
    precision: Annotated[str | None, typer.Option(help="With --device: such as fp32 or int8.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="With --device.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="With --device.")] = None,
    like: Annotated[
        str,
        typer.Option(help="With --device: a measured device; what its profile shows to follow is left out."),
    ] = "",
    passes: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="With --device: times everything is measured; 3 unless given."),
    ] = None,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Measure for a model: this machine for a job, as `run` would, or a device for its growing profile."""
    from search import device_tables
    from search.growth import profile_device
    from search.inspection import profile_job
    from search.job import Job
    from search.profiling import PASSES
    from search.progress import Bars, Listener, Silent

    chosen = {"runtime": runtime, "precision": precision, "batch": batch, "threads": threads}
    asked = {key: value for key, value in chosen.items() if value is not None}
    source = model or job_file
    if (
        source is None
        or (model and job_file)
        or (not device and (model or asked or like or passes or server))
    ):
        raise RequestError(
            "profile takes a job file alone, or --device NAME with --model and what else is to differ"
        )

    def measured(listener: Listener) -> list[dict[str, Any]]:
        if not device:
            job = Job.load(source)
            return profile_job(job, Place(runs_folder(runs), job.name), listener)
        with _bench(server, token) as open_bench:
            folder = devices_folder(runs)
            grown = profile_device(
                source, device, folder, asked, passes or PASSES, listener, open_bench, like
            )
            return [grown]

    try:
        if as_json:
            first, *others = measured(Silent())
            print_json([first, *others] if others else first)
            return
        with Bars(out) as bars:
            found = measured(bars)
    except KeyboardInterrupt as stop:
        say(
            err,
            "\ninterrupted; finished passes are kept, or the whole profile, and the same command goes on",
        )
        raise typer.Exit(exit_code(stop)) from None
    for number, each in enumerate(found):
        for line in ([""] if number else []) + device_tables.profile(each):
            say(out, line)


def devices(server: Server = None, token: Token = None, as_json: AsJson = False, runs: Runs = None) -> None:
    """List devices: this machine, all that have a profile with its measured error, here and at a server, and
    the server's agents."""
    from search import device_tables
    from search.devices import list_devices

    there, trouble = [], None
    try:
        with _remote(server, token) as remote:
            if remote:
                from search.service import list_devices_at

                there = list_devices_at(remote)
    except (RequestError, TransientError) as error:  # told once all that is known without a server is
        trouble = error
    found = [*list_devices(devices_folder(runs)), *there]
    if as_json:
        print_json(found)
    else:
        out.print(device_tables.devices(found))
        for item in found:
            if "wrong" in item:
                say(out, f"{item['device']}: {item['wrong']}")
    if trouble:
        raise trouble


def predict(
    model: Annotated[Path, typer.Argument(help="A job file, or a bundle alone.")],
    device: Annotated[str, typer.Option(help="A device of `prunefront devices`, or a profile's file.")],
    widths: Annotated[
        Path | None, typer.Option(help='JSON: a list of {"group": kept}; without it the dense model.')
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure each on the device, too.")] = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Predict what candidates take on a device, with error bars, operator by operator."""
    from search import device_tables
    from search.predict import predict

    if measure:
        with _bench(server, token, anew=True) as open_bench:
            found = predict(model, device, devices_folder(runs), widths, open_bench)
    else:
        found = predict(model, device, devices_folder(runs), widths)
    if as_json:
        print_json(found)
        return
    out.print(device_tables.predictions(found))
    out.print(device_tables.operators(found))
    for line in device_tables.doubts(found):
        say(out, line)
