"""Engines that trtexec profiled, as kernels: --exportLayerInfo, --exportProfile and, if there, --exportTimes.

An engine is two or three files, told apart by what is in them, those of one engine together and the layers
first; several engines, of one model at several widths, make one profile:

    layers    {"Layers": [{"Name", "LayerType", "ParameterType", "Inputs", "Outputs", ...}], "Bindings": ...}
    profile   [{"count": runs}, {"name", "timeMs", "averageMs", "medianMs", "percentage"}, ...]
    times     [{"startEnqMs", ..., "computeMs", ..., "latencyMs"}, ...], one of each run

What operators the layers are, `hwprofiles.runtimes.tensorrt_layers` says, and by which keys a model asks for
them, `tensorrt_lowering`. A kernel that several layers become takes what they take on average, so that the
kernels of an engine add up to its layers. With its times an engine is a whole network to calibrate with, if
no layer had to be left out.

The engine has to be built with --profilingVerbosity=detailed; times are best exported in a run of their own,
as profiling slows an engine down.

Source: NVIDIA/TensorRT, samples/common/sampleReporting.cpp (`exportJSONProfile`, `exportJSONTrace`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hwprofiles.device import Device
from hwprofiles.errors import ProfileError, RequestError, nearest
from hwprofiles.files import MeasuredNetwork
from hwprofiles.foreign import parse_json
from hwprofiles.ops import OpSpec
from hwprofiles.runtimes.tensorrt_layers import EngineGraph, engine_graph, read_layers
from hwprofiles.runtimes.tensorrt_lowering import STEPS, TensorRtLowering
from hwprofiles.runtimes.tensorrt_operators import Layer
from latency_models.imports.record import Imported, checked_ms, imported, read_text, told


@dataclass(slots=True)
class _Engine:
    """What the files of one engine say; `path` is that of its layers."""

    path: Path
    layers: tuple[Layer, ...]
    layers_ms: dict[str, float] = field(default_factory=dict)
    runs_ms: list[float] = field(default_factory=list)


def read_engines(paths: Sequence[Path], device: Device) -> Imported:
    """
    Raises:
        RequestError: a file cannot be read, or the device is not one of TensorRT.
        ProfileError: a file is none of the three, misses its others, or says something impossible.
    """
    device = _of_tensorrt(device)
    rules = TensorRtLowering(device.channel_step)
    kernels: dict[OpSpec, list[float]] = defaultdict(list)
    networks: list[MeasuredNetwork] = []
    left_out: list[str] = []
    for engine in _engines(paths):
        found = engine_graph(engine.layers, device.batch, str(engine.path))
        _check_timed(engine, found)
        for kernel, operators_ms in found.kernels_ms(engine.layers_ms, rules).items():
            kernels[kernel] += operators_ms
        left_over = [layer for layer in found.left_over if engine.layers_ms.get(layer.name)]
        left_out += [
            f"{engine.path}, layer {layer.name[:80]!r} ({layer.kind}) is no operator that can be told"
            for layer in left_over
        ]
        if engine.runs_ms and not left_over:
            networks.append(
                MeasuredNetwork(name=engine.path.stem, graph=found.graph, rounds=told(engine.runs_ms))
            )
    if not kernels:
        told_of = ", ".join(map(str, paths)) or "no file"
        raise ProfileError(f"nothing to import from {told_of}: {next(iter(left_out), 'no layer takes time')}")
    means_ms = {kernel: [fmean(operators_ms)] for kernel, operators_ms in kernels.items()}
    return imported(means_ms, networks, left_out, device, "trtexec")


def _of_tensorrt(device: Device) -> Device:
    """The device with the step in which TensorRT fills up channels.

    Raises:
        RequestError: it runs something else, or in a precision for which no step is known.
    """
    if device.runtime != "tensorrt":
        raise RequestError(f"engines run in tensorrt, not in {device.runtime!r}; say --runtime tensorrt")
    if device.precision not in STEPS:
        raise RequestError(
            f"no step is known for engines in {device.precision!r}; {nearest(device.precision, STEPS)}"
        )
    return replace(device, channel_step=STEPS[device.precision])


def _check_timed(engine: _Engine, found: EngineGraph) -> None:
    """Refuse an engine with a layer that the profile lacks, or an operator that takes nothing."""
    for layer in engine.layers:
        if layer.name not in engine.layers_ms and layer.kind != "NoOp":
            place = f"{engine.path}, layer {layer.name[:80]!r}"
            raise ProfileError(f"{place} is not in its engine's profile; export both from one engine")
        engine.layers_ms.setdefault(layer.name, 0.0)
    for layer_name in (next(iter(parts)) for parts in found.parts):
        checked_ms(engine.layers_ms[layer_name], f"{engine.path}, layer {layer_name[:80]!r}")


def _engines(paths: Sequence[Path]) -> list[_Engine]:
    found: list[_Engine] = []
    for path in paths:
        match _json(path):
            case {"Layers": [*_]} as described:
                found.append(_Engine(path, read_layers(described, str(path))))
                _check_names(found[-1])
            case [{"count": _}, *rows] if found and not found[-1].layers_ms:
                found[-1].layers_ms = _layers_ms(rows, path)
                _check_same(found[-1], path)
            case [{"computeMs": _}, *_] as runs if found and not found[-1].runs_ms:
                found[-1].runs_ms = [
                    checked_ms(_field(run, "computeMs", f"{path}, run {number}"), f"{path}, run {number}")
                    for number, run in enumerate(runs)
                ]
            case _:
                raise ProfileError(
                    f"{path} is not the layers of an engine, nor the one profile or the times behind them; "
                    "give the files of --exportLayerInfo, --exportProfile and --exportTimes in this order"
                )
    for engine in found:
        if not engine.layers_ms:
            raise ProfileError(f"no profile follows {engine.path}; export it with --exportProfile")
    return found


def _json(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise ProfileError(f"{path} is no JSON ({error}); export it again") from error


def _layers_ms(rows: Sequence[object], path: Path) -> dict[str, float]:
    """Milliseconds by layer, the median where there is one; those of layers that do nothing are zero."""
    found: dict[str, float] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        name = str(_field(row, "name", place))
        if name in found:
            raise ProfileError(f"{place}: layer {name[:80]!r} is there twice; export the profile again")
        column = "medianMs" if isinstance(row, dict) and "medianMs" in row else "averageMs"
        value = _field(row, column, place)
        found[name] = 0.0 if value == 0 else checked_ms(value, place)
    return found


def _check_names(engine: _Engine) -> None:
    """Refuse an engine of whose layers two have one name, as a profile tells them by their names."""
    for name, times in Counter(layer.name for layer in engine.layers).items():
        if times > 1:
            raise ProfileError(f"{engine.path}: layer {name[:80]!r} is there twice; export the layers again")


def _check_same(engine: _Engine, profile: Path) -> None:
    """Refuse a profile of another engine than the layers before it."""
    names = {layer.name for layer in engine.layers}
    other = next((name for name in engine.layers_ms if name not in names), None)
    if other is not None:
        raise ProfileError(
            f"{profile} times layer {other[:80]!r}, which {engine.path} lacks; export both from one engine"
        )


def _field(row: object, name: str, place: str) -> Any:
    if not isinstance(row, dict) or name not in row:
        raise ProfileError(f"{place} lacks {name!r}; export it again")
    return row[name]
