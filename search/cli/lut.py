"""Commands about latency tables: look at them, check and compare them, import those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprofiles.errors import RequestError
from search.cli.terminal import FAILED, AsJson, Runs, devices_folder, out, print_json, say

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
