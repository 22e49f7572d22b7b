"""Commands about devices: their profiles, what tables predict, and measuring on other boards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprofiles.errors import RequestError, TransientError
from search.cli.terminal import (
    FAILED,
    AsJson,
    Runs,
    devices_folder,
    err,
    exit_code,
    make_folder,
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


lut = typer.Typer(help="Look at latency tables.", no_args_is_help=True)
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
    from search import device_tables
    from search.lut import show, show_operator, stairs_facts

    if operator is None:
        if svg:
            raise RequestError("--svg draws one operator; name it with --operator and its number in the list")
        found = show(device, devices_folder(runs))
        if as_json:
            print_json(found)
            return
        out.print(device_tables.families(found))
        if found["networks"]:
            out.print(device_tables.whole_networks(found))
        if found["operators"]:
            out.print(device_tables.numbered(found["operators"]))
        return
    stairs = show_operator(device, devices_folder(runs), operator)
    if svg:
        from search.figures import write_stairs

        write_stairs(stairs, svg)
    if as_json:
        print_json([stairs_facts(each) for each in stairs])
        return
    for each in stairs:
        for line in device_tables.stairs(each):
            out.print(line)


@lut.command("check")
def lut_check(device: DeviceName, as_json: AsJson = False, runs: Runs = None) -> None:
    """Check a table for damage, and name measurements that were disturbed; exit code 1 where some were."""
    from search import device_tables
    from search.lut import check

    found = check(device, devices_folder(runs))
    if as_json:
        print_json(found)
    else:
        for line in device_tables.checked(found):
            say(out, line)
    if found["restless"]:
        raise typer.Exit(FAILED)


@lut.command("diff")
def lut_diff(before: DeviceName, after: DeviceName, as_json: AsJson = False, runs: Runs = None) -> None:
    """Compare two profiles of one model: what moved by more than the noise of both."""
    from dataclasses import asdict

    from search import device_tables
    from search.lut import diff

    differing, comparison = diff(before, after, devices_folder(runs))
    if as_json:
        print_json({"differing": differing, **asdict(comparison)})
        return
    for key, (old, new) in differing.items():
        say(out, f"{key}: {old} → {new}")
    say(out, device_tables.compared(comparison))
    if comparison.moved:
        out.print(device_tables.moves(comparison))


@lut.command("import")
def lut_import(
    files: Annotated[list[Path], typer.Argument(help="Tables; of an engine: layers, profile, times.")],
    form: Annotated[str, typer.Option("--format", help="csv, yaml or trtexec.")],
    device: Annotated[str, typer.Option(help="What to call the device.")],
    board: Annotated[str, typer.Option(help="The board that it was measured on.")],
    runtime: Annotated[
        str | None, typer.Option(help="The runtime that it was measured with; of trtexec tensorrt.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Such as fp16 or int8.")] = "fp32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    as_json: AsJson = False,
    runs: Runs = None,
) -> None:
    """Make a profile of a table that somebody else measured; docs/import.md says of which."""
    from hwprofiles import Device
    from search.device_tables import counted
    from search.lut import import_table

    runtime = runtime or ("tensorrt" if form == "trtexec" else None)
    if runtime is None:
        raise RequestError("--runtime is missing; say what the table was measured with, such as tflite")
    described = Device(
        name=device, runtime=runtime, board=board, precision=precision, batch=batch, threads=threads
    )
    path, imported = import_table(files, form, described, devices_folder(runs))
    found = {
        "profile": str(path),
        "kernels": len(imported.profile.kernels),
        "networks": len(imported.profile.networks),
        "calibrated": imported.calibrated,
        "left_out": list(imported.left_out),
    }
    if as_json:
        print_json(found)
        return
    for sentence in imported.left_out:
        say(out, f"left out: {sentence}")
    kernels, networks = len(imported.profile.kernels), len(imported.profile.networks)
    say(out, f"{path} holds {counted(kernels, 'kernel')} and {counted(networks, 'network')}")
    if not imported.calibrated:
        say(out, "its predictions have no error bar: that needs two whole networks, and one of 90 % nine")


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
