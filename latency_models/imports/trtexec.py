"""Engines that trtexec profiled, as kernels: --exportLayerInfo, --exportProfile and, if there, --exportTimes.

An engine is two or three files, told apart by what is in them, those of one engine together and the layers
first; several engines, of one model at several widths, make one profile:

    layers    {"Layers": [{"Name", "LayerType", "ParameterType", "Inputs", "Outputs", ...}], "Bindings": ...}
    profile   [{"count": runs}, {"name", "timeMs", "averageMs", "medianMs", "percentage"}, ...]
    times     [{"startEnqMs", ..., "computeMs", ..., "latencyMs"}, ...], one of each run

A fused layer, "Conv_5 + Add_6 + Relu_7", is one kernel: the convolution, with a sum where it reads a second
tensor, and its activation. Batch norms are in its weights. A reformat is a kernel of its own, `fused` names
the two formats. Layers whose shape does not say what they do (fused regions of Myelin, plugins) are left
out. With its times an engine is a whole network to calibrate with, if no layer had to be left out.

The engine has to be built with --profilingVerbosity=detailed; times are best exported in a run of their own,
as profiling slows an engine down.

Sources: NVIDIA/TensorRT, samples/common/sampleReporting.cpp (`exportJSONProfile`, `exportJSONTrace`) and the
engines under tools/experimental/trt-engine-explorer/examples/pytorch/resnet; TensorRT 8.4 to 10.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwprofiles.device import Device
from hwprofiles.errors import ProfileError
from hwprofiles.files import MeasuredNetwork
from hwprofiles.ops import INPUT, OpGraph, OpSpec, Size
from latency_models.imports.record import MAX_COUNT, Imported, checked_ms, imported, read_text, told

_ACTIVATIONS = {"NONE": (), "RELU": ("relu",), "SIGMOID": ("sigmoid",), "TANH": ("tanh",), "CLIP": ("clamp",)}
_POOLS = {"MAX": "max_pool2d", "AVERAGE": "avg_pool2d"}
Layer = Mapping[str, Any]


@dataclass(slots=True)
class _Engine:
    """What the files of one engine say; `path` is that of its layers."""

    path: Path
    layers: list[Layer]
    layer_ms: dict[str, float] = field(default_factory=dict)
    runs_ms: list[float] = field(default_factory=list)


def read_engines(paths: Sequence[Path], device: Device) -> Imported:
    """
    Raises:
        RequestError: a file cannot be read.
        ProfileError: a file is none of the three, misses its others, or says something impossible.
    """
    kernels: dict[OpSpec, list[float]] = defaultdict(list)
    networks: list[MeasuredNetwork] = []
    left_out: list[str] = []
    for engine in _engines(paths):
        operators: dict[str, OpSpec] = {}
        told_before = len(left_out)
        for layer in engine.layers:
            name, place = layer["Name"], f"{engine.path}, layer {layer['Name'][:80]!r}"
            if name not in engine.layer_ms and layer["LayerType"] != "NoOp":
                raise ProfileError(f"{place} is not in its engine's profile; export both from one engine")
            spec = _spec(layer, place, device.batch)
            latency_ms = engine.layer_ms.get(name, 0.0)
            if not latency_ms and (spec is None or spec.kind == "reformat"):
                continue  # it is there by name only, as constants, shapes and copies that were saved are
            if spec is None:
                left_out.append(f"{place} ({layer['LayerType']}) is no operator that can be told")
                continue
            kernels[spec].append(checked_ms(latency_ms, place))
            if spec.kind != "reformat":
                operators[name] = spec
        if engine.runs_ms and len(left_out) == told_before:
            graph = _graph(engine.layers, operators)
            networks.append(MeasuredNetwork(name=engine.path.stem, graph=graph, rounds=told(engine.runs_ms)))
    if not kernels:
        told_of = ", ".join(map(str, paths)) or "no file"
        raise ProfileError(f"nothing to import from {told_of}: {next(iter(left_out), 'no layer takes time')}")
    return imported(kernels, networks, left_out, device, "trtexec")


def _engines(paths: Sequence[Path]) -> list[_Engine]:
    found: list[_Engine] = []
    for path in paths:
        match _json(path):
            case {"Layers": [*layers]}:
                found.append(_Engine(path, [_layer(layer, path) for layer in layers]))
            case [{"count": _}, *rows] if found and not found[-1].layer_ms:
                found[-1].layer_ms = _layer_ms(rows, path)
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
        if not engine.layer_ms:
            raise ProfileError(f"no profile follows {engine.path}; export it with --exportProfile")
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path} is no JSON ({error}); export it again") from error


def _layer(layer: object, path: Path) -> Layer:
    if isinstance(layer, dict):
        match layer:
            case {"Name": str(), "LayerType": str(), "Inputs": [*_], "Outputs": [*_]}:
                return layer
    raise ProfileError(
        f"{path} tells nothing of layer {str(layer)[:80]!r}; build the engine with "
        "--profilingVerbosity=detailed"
    )


def _layer_ms(rows: Sequence[object], path: Path) -> dict[str, float]:
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


def _check_same(engine: _Engine, profile: Path) -> None:
    """Refuse a profile of another engine than the layers before it."""
    names = {layer["Name"] for layer in engine.layers}
    other = next((name for name in engine.layer_ms if name not in names), None)
    if other is not None:
        raise ProfileError(
            f"{profile} times layer {other[:80]!r}, which {engine.path} lacks; export both from one engine"
        )


def _field(row: object, name: str, place: str) -> Any:
    if not isinstance(row, dict) or name not in row:
        raise ProfileError(f"{place} lacks {name!r}; export it again")
    return row[name]


def _spec(layer: Layer, place: str, batch: int) -> OpSpec | None:
    """The kernel that a layer is, or None where it cannot be told."""
    makers = {"Convolution": _convolution, "Pooling": _pool, "Reformat": _reformat}
    make = makers.get(layer.get("ParameterType", ""))
    if make is None:
        return None
    try:
        reads, writes = (
            [_counts(put, "Dimensions") for put in layer[puts]] for puts in ("Inputs", "Outputs")
        )
        if reads[0][0] != batch:
            raise ProfileError(
                f"{place} runs a batch of {reads[0][0]}, and the device is said to run {batch}; describe the "
                "device with the engine's batch"
            )
        flat = make is not _reformat and len(reads[0]) != 4
        return None if flat else make(layer, reads, writes)
    except (KeyError, TypeError, ValueError, IndexError):
        raise ProfileError(
            f"{place} lacks what a {layer['LayerType']} has, or has impossible sizes; export it again"
        ) from None


def _counts(told: Layer, name: str, lowest: int = 1) -> Size:
    """Whole numbers; ValueError where they are something else."""
    counts = tuple(told[name])
    if not all(type(count) is int and lowest <= count <= MAX_COUNT for count in counts):
        raise ValueError(name)
    return counts


def _padding(layer: Layer) -> Size:
    """(top, left, bottom, right)."""
    return (*_counts(layer, "PrePadding", lowest=0), *_counts(layer, "PostPadding", lowest=0))


def _reformat(layer: Layer, reads: list[Size], writes: list[Size]) -> OpSpec:
    formats = tuple(str(layer[puts][0]["Format/Datatype"]) for puts in ("Inputs", "Outputs"))
    _, channels, *size = reads[0]
    return OpSpec(
        kind="reformat",
        in_channels=channels,
        out_channels=channels,
        in_size=tuple(size),
        out_size=tuple(size),
        fused=formats,
    )


def _convolution(layer: Layer, reads: list[Size], writes: list[Size]) -> OpSpec | None:
    (source, *beside), (result, *more) = reads, writes
    kernel, stride, dilation = (_counts(layer, name) for name in ("Kernel", "Stride", "Dilation"))
    padding, groups = _padding(layer), layer["Groups"]
    if type(groups) is not int or groups < 1:
        raise ValueError("Groups")
    sizes = tuple(
        (source[2 + d] + padding[d] + padding[d + 2] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d in (0, 1)
    )
    activation = _ACTIVATIONS.get(layer.get("Activation", "NONE"))
    if activation is None or result[1:] != (layer["OutMaps"], *sizes) or beside not in ([], [result]) or more:
        return None  # it does more than a convolution does, such as the pooling behind it
    fused = (*(["add"] if beside else []), *activation)
    if (source[2:], kernel) == ((1, 1), (1, 1)) and groups == 1:  # how TensorRT runs the product of a vector
        return OpSpec(kind="linear", in_channels=source[1], out_channels=result[1], in_size=(1,), fused=fused)
    depthwise = groups == source[1] > 1
    return OpSpec(
        kind="depthwise_conv2d" if depthwise else "conv2d",
        in_channels=source[1],
        out_channels=result[1],
        in_size=source[2:],
        out_size=sizes,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=0 if depthwise else groups,
        fused=fused,
    )


def _pool(layer: Layer, reads: list[Size], writes: list[Size]) -> OpSpec:
    (source,), (result,) = reads, writes
    kind, window = _POOLS[layer["PoolingType"]], _counts(layer, "WindowSize")
    stride, padding = _counts(layer, "Stride"), _padding(layer)
    if kind == "avg_pool2d" and window == source[2:]:
        kind, stride = "mean2d", window
    return OpSpec(
        kind=kind,
        in_channels=source[1],
        out_channels=source[1],
        in_size=source[2:],
        out_size=result[2:],
        kernel=window,
        stride=stride,
        padding=padding,
    )


def _graph(layers: Sequence[Layer], operators: Mapping[str, OpSpec]) -> OpGraph:
    """The operators of an engine and who reads whose results; other layers hand on what they read."""
    made_by: dict[str, int] = {}
    sources: list[tuple[int, ...]] = []
    for layer in layers:
        read = [made_by.get(put["Name"], INPUT) for put in layer["Inputs"]]
        if layer["Name"] in operators:
            sources.append(tuple(read))
            read = [len(sources) - 1]
        made_by |= dict.fromkeys((put["Name"] for put in layer["Outputs"]), read[0])
    last = len(sources) - 1
    return OpGraph(operators=tuple(operators.values()), sources=tuple(sources), outputs=(last,))
