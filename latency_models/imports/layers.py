"""Tables of layers that were timed one by one, in CSV or YAML.

A row is a layer: its `kind`, `in_channels`, `out_channels`, `in_size` and one of `latency_ms`, `latency_us`
and `latency_s`; layers with a window have `kernel` and may have `stride`, `padding`, `dilation`, `groups`,
resizes have `out_size`, and transposed convolutions have it where there is output padding.
`fused` names what ran in the same kernel, such as add+relu. Batch norms that a layer absorbs are not named.

Such tables elsewhere:

- NetAdapt (denru01/netadapt, `build_latency_lookup_table` in functions.py) keeps seconds by layer name and
  (input, output) channels in a pickle, which is refused; its rows fit the columns above.
- ProxylessNAS and Once-for-All (mit-han-lab/once-for-all, ofa/nas/efficiency_predictor/
  latency_lookup_table.py) keep YAML of `Conv_1-input:7x7x320-output:7x7x1280: {mean: 3.1}`: sizes are
  height x width x channels, means are milliseconds. Most of their rows, `expanded_conv`, are blocks of
  layers, and are left out.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hwprofiles.device import Device
from hwprofiles.errors import ProfileError, nearest
from hwprofiles.ops import ACTIVATIONS, OpSpec, Size
from latency_models.imports.record import MAX_COUNT, Imported, checked_ms, imported, read_text

WINDOWED = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d")
POINTWISE = (
    "batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm", "softmax", "cumsum", "elementwise",
    "copy",
)  # fmt: skip
KINDS = (*WINDOWED, *POINTWISE, "mean2d", "resize2d", "linear")
_BEHIND = {*ACTIVATIONS, "add", "layer_norm"}
_ARITHMETIC = (
    "add sub rsub mul div pow exp log sqrt rsqrt neg abs maximum minimum clamp_min softplus eq ne gt ge lt "
    "le masked_fill where bitwise_not bitwise_and logical_not mean sum sin cos glu prelu"
)
_MOVES = "cat diff expand gather pad repeat slice transpose roll pixel_shuffle channel_shuffle"
FUSED = {
    **dict.fromkeys(("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear", "batch_norm"), _BEHIND),
    **dict.fromkeys(("group_norm", "instance_norm"), ACTIVATIONS),
    "resize2d": {"nearest", "bilinear"},
    "elementwise": {*ACTIVATIONS, *_ARITHMETIC.split()},
    "copy": set(_MOVES.split()),
}
"""What `fused` may name, by kind, as a model's graph calls it."""
_TO_MS = {"latency_ms": 1.0, "latency_us": 1e-3, "latency_s": 1e3}
_NEEDED = ("kind", "in_channels", "out_channels", "in_size")
_COLUMNS = (*_NEEDED, "out_size", "kernel", "stride", "padding", "dilation", "groups", "fused", *_TO_MS)
_MAX_YAML_BYTES = 2**23
"""Half a minute of reading: a MiB, some ten thousand layers, takes 4 s."""
_OFA_KEY = re.compile(r"(\w+)-input:(\d+)x(\d+)x(\d+)-output:(?:\d+x)*(\d+)(?:-.*)?")


@dataclass(frozen=True, slots=True)
class _Row:
    """A layer as it was told, and where: file and line, entry or key."""

    place: str
    cells: Mapping[str, Any]

    def text(self, column: str) -> str:
        value = self.cells.get(column)
        if isinstance(value, list | dict):
            raise ProfileError(f"{self.place}: {column} holds more than one value; mend it")
        return "" if value is None else str(value).strip()

    def counts(self, column: str, length: int, default: str = "", lowest: int = 1) -> Size:
        """Whole numbers such as 3x3; a single one stands for all.

        Raises:
            ProfileError: they are missing, too many, or out of range.
        """
        told = self.text(column) or default
        parts = told.lower().split("x")
        counts = tuple(int(part) if re.fullmatch("[0-9]{1,8}", part) else -1 for part in parts)
        counts = counts * length if len(counts) == 1 else counts
        if len(counts) != length or not all(lowest <= count <= MAX_COUNT for count in counts):
            wanted = "a whole number" if length == 1 else f"{length} whole numbers such as 3x3"
            raise ProfileError(
                f"{self.place}: {column} is {told[:40]!r}, not {wanted} from {lowest} to {MAX_COUNT}; mend it"
            )
        return counts

    def count(self, column: str, default: str = "") -> int:
        return self.counts(column, 1, default)[0]


def read_csv(paths: Sequence[Path], device: Device) -> Imported:
    """Read tables whose first line names the columns."""
    return _collect(paths, _csv_rows, device)


def read_yaml(paths: Sequence[Path], device: Device) -> Imported:
    """Read lists of mappings with the same columns, and tables by key as Once-for-All has them."""
    return _collect(paths, _yaml_rows, device)


def _collect(paths: Sequence[Path], read: Callable[[Path], Iterator[_Row | str]], device: Device) -> Imported:
    """
    Args:
        read: yields each layer of a file, or a sentence about one that is left out.
    """
    if twice := [path for path, times in Counter(paths).items() if times > 1]:
        raise ProfileError(f"{twice[0]} is given twice; give each file once")
    kernels: dict[OpSpec, list[float]] = {}
    places: dict[OpSpec, str] = {}
    left_out: list[str] = []
    for row in (row for path in paths for row in read(path)):
        if isinstance(row, str):
            left_out.append(row)
            continue
        _check_columns(row)
        spec = _spec(row)
        try:
            spec.check()
        except ValueError as error:
            raise ProfileError(f"{row.place} cannot be a layer: {error}; mend it") from None
        if spec in places:
            raise ProfileError(f"{row.place} is {spec}, as is {places[spec]}; leave one of them out")
        places[spec] = row.place
        (column,) = [name for name in _TO_MS if row.text(name)]
        kernels[spec] = [checked_ms(row.text(column), row.place, _TO_MS[column])]
    if not kernels:
        told_of = ", ".join(map(str, paths)) or "no file"
        raise ProfileError(f"nothing to import from {told_of}: {next(iter(left_out), 'it holds no layer')}")
    return imported(kernels, (), left_out, device, "layers")


def _check_columns(row: _Row) -> None:
    for column in row.cells:
        _check_column(column, row.place)
    missing = [column for column in _NEEDED if not row.text(column)]
    if missing:
        raise ProfileError(f"{row.place} lacks {', '.join(missing)}; docs/import.md has the columns")
    if sum(bool(row.text(column)) for column in _TO_MS) != 1:
        raise ProfileError(f"{row.place}: a layer has exactly one of {', '.join(_TO_MS)}; mend it")


def _check_column(column: object, place: str) -> None:
    if column not in _COLUMNS:
        name = str(column)[:40]
        raise ProfileError(f"{place}: column {name!r} is not known; {nearest(name, _COLUMNS)}")


def _spec(row: _Row) -> OpSpec:
    kind = row.text("kind")
    if kind not in KINDS:
        raise ProfileError(f"{row.place}: no layer is of the kind {kind[:40]!r}; {nearest(kind, KINDS)}")
    ins, outs = row.count("in_channels"), row.count("out_channels")
    fused = tuple(name.strip() for name in row.text("fused").split("+") if name.strip())
    for name in fused:
        if name not in (known := FUSED.get(kind, {"nothing"})):
            raise ProfileError(f"{row.place}: a {kind} has no {name[:40]!r} in fused; {nearest(name, known)}")
    spec = OpSpec(kind=kind, in_channels=ins, out_channels=outs, fused=fused)
    if spec.square and kind != "depthwise_conv2d" and ins != outs:
        raise ProfileError(f"{row.place}: a {kind} writes as many channels as it reads, not {ins} and {outs}")
    if kind == "linear":
        return replace(spec, in_size=row.counts("in_size", 1))
    if kind == "resize2d":
        if len(fused) != 1:
            raise ProfileError(f"{row.place}: a resize2d has either nearest or bilinear in fused; name one")
        return replace(spec, in_size=row.counts("in_size", 2), out_size=row.counts("out_size", 2))
    if kind == "mean2d":
        size = row.counts("in_size", 2)
        return replace(spec, in_size=size, out_size=(1, 1), kernel=size, stride=size, padding=(0,) * 4)
    if kind in POINTWISE:
        size = row.counts("in_size", row.text("in_size").lower().count("x") + 1)
        part = row.counts("kernel", 1) if kind == "group_norm" else ()
        return replace(spec, in_size=size, out_size=size, kernel=part)
    return _windowed(row, spec)


def _windowed(row: _Row, spec: OpSpec) -> OpSpec:
    pool = "pool" in spec.kind
    size, kernel = row.counts("in_size", 2), row.counts("kernel", 2)
    stride = row.counts("stride", 2, row.text("kernel") if pool else "1")
    padding = row.counts("padding", 4, "0", lowest=0)
    dilation = row.counts("dilation", 2, "1")
    depthwise = spec.kind == "depthwise_conv2d"
    groups = row.count("groups", str(spec.in_channels) if depthwise else "1")
    if depthwise and groups != spec.in_channels:
        raise ProfileError(
            f"{row.place}: groups is {groups}, and a {spec.kind} has one for each of its {spec.in_channels} "
            "input channels; leave it empty"
        )
    if spec.in_channels % groups or spec.out_channels % groups:
        raise ProfileError(f"{row.place}: {groups} groups do not divide its channels; mend one of them")
    spans = [dilation[d] * (kernel[d] - 1) + 1 for d in (0, 1)]
    around = [padding[d] + padding[d + 2] for d in (0, 1)]
    if spec.kind == "conv_transpose2d":
        out_size = tuple((size[d] - 1) * stride[d] + spans[d] - around[d] for d in (0, 1))
    else:
        out_size = tuple((size[d] + around[d] - spans[d]) // stride[d] + 1 for d in (0, 1))
    if min(out_size) < 1:
        raise ProfileError(
            f"{row.place}: a window of {kernel} does not fit into {size}; mend in_size or padding"
        )
    if spec.kind == "conv_transpose2d" and row.text("out_size"):
        least, out_size = out_size, row.counts("out_size", 2)
        if not all(0 <= out_size[d] - least[d] < max(stride[d], dilation[d]) for d in (0, 1)):
            raise ProfileError(f"{row.place}: no output padding makes {out_size} of {least}; mend out_size")
    return replace(
        spec,
        in_size=size,
        out_size=out_size,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=() if pool else dilation,
        groups=0 if depthwise else groups,
    )


def _csv_rows(path: Path) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(read_text(path)), strict=True, restkey="a column too many")
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        _check_header(columns, f"{path}, line 1")
        reader.fieldnames = columns
        for cells in reader:
            yield _Row(f"{path}, line {reader.line_num}", cells)
    except csv.Error as error:
        raise ProfileError(
            f"{path}, line {reader.line_num} is no CSV ({error}); export the table again"
        ) from error


def _check_header(columns: Sequence[str], place: str) -> None:
    for separator in (";", "\t"):
        if any(separator in name for name in columns):
            raise ProfileError(f"{place} separates columns by {separator!r}; separate them by commas")
    for name, times in Counter(columns).items():
        if times > 1:
            raise ProfileError(f"{place}: column {name[:40]!r} is there twice; leave one out")
        _check_column(name, place)


def _yaml_rows(path: Path) -> Iterator[_Row | str]:
    try:
        table = yaml.load(read_text(path, _MAX_YAML_BYTES), Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ProfileError(f"{path} is no YAML ({error}); export the table again") from error
    if not isinstance(table, list | dict):
        raise ProfileError(f"{path} holds neither a list of layers nor a table by key; see docs/import.md")
    entries = table.items() if isinstance(table, dict) else enumerate(table)
    for key, cells in entries:
        place = f"{path}, entry {str(key)[:80]!r}"
        if not isinstance(cells, dict):
            raise ProfileError(f"{place} is no mapping of columns to values; see docs/import.md")
        yield _keyed(str(key), cells, place) if isinstance(table, dict) else _Row(place, cells)


def _keyed(key: str, cells: Mapping[str, Any], place: str) -> _Row | str:
    """A row of a table by key, or why it is left out; windows are those of MobileNets."""
    match = _OFA_KEY.fullmatch(key)
    if match is None:
        raise ProfileError(f"{place} is no key such as 'Conv-input:224x224x3-output:112x112x32'; mend it")
    name, height, width, ins, outs = match.groups()
    row: dict[str, Any] = {"in_channels": ins, "out_channels": outs, "in_size": f"{height}x{width}"}
    row["latency_ms"] = cells.get("mean", "absent")
    match name:
        case "Conv":
            row |= {"kind": "conv2d", "kernel": "3", "stride": "2", "padding": "1"}
        case "Conv_1" | "Conv_2":
            row |= {"kind": "conv2d", "kernel": "1"}
        case "AvgPool2D":
            row |= {"kind": "mean2d"}
        case "Logits" if (height, width) == ("1", "1"):
            row |= {"kind": "linear", "in_size": "1"}
        case _:
            return f"{place} is a block of several layers"
    return _Row(place, row)


class _PlainLoader(yaml.BaseLoader):  # type: ignore[misc]  # yaml has no types
    """Texts, lists and mappings with no key twice, of which others silently take the last.

    Aliases, with which a short file holds billions of rows, and tags, which say what a text shall be made
    into, are refused: no table needs either.
    """

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.tag is not None:
            line = event.start_mark.line + 1
            raise yaml.YAMLError(f"line {line} has an alias or a tag; write out what it stands for")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        absent = node.style is None and node.value in ("null", "~")
        return "" if absent else str(super().construct_scalar(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if str(key.value) in lines:
                name = str(key.value)[:80]
                raise yaml.YAMLError(f"{name!r} is there twice, in lines {lines[str(key.value)]} and {line}")
            lines[str(key.value)] = line
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found
