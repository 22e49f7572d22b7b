"""A made-up accelerator: what a kernel takes is worked out from its operator, and nothing is run.

It shows what real ones do to pruned networks, with answers that are known in closed form:

    a network     CALL_MS and what each of its kernels takes
    a kernel      LAUNCH_MS and the longer of MACs / rate and bytes / bandwidth
    stairs        channels are filled up to whole tiles of `TILE`
    a cliff       input channels above one tile that are no multiple of `ALIGNED` take the scalar kernel of
                  their operator: nothing is filled up, and each MAC takes `SCALAR` times as long
    fusion        what follows a layer is part of its kernel; a sum only reads one more tensor
    noise         each run is off by a normal factor of `NOISE`, seeded by device and kernel

Convolutions, transposed or not, and linear layers are bound by compute where they are wide, everything else
by memory. Whatever is told of this device must be called modelled, as its board says.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hwprofiles.device import Device
from hwprofiles.errors import InvariantError
from hwprofiles.files import FORMAT
from hwprofiles.lowering import lower
from hwprofiles.ops import OpGraph, OpSpec, Size
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network
from hwprofiles.runtimes.protocol import CALL, PLAIN, Lowered
from hwprofiles.runtimes.rules import check_known, fold_batch_norm, padded, whole_parts

BYTES = {"fp32": 4, "fp16": 2}

CALL_MS = 0.02
LAUNCH_MS = 0.003
TILE = 16
ALIGNED = 4
SCALAR = 4.0
MACS_PER_MS = 50e6
"""In fp32; half the bytes of a number double it."""
BYTES_PER_MS = 20e6
NOISE = 0.01
VERSION = "1"
"""Of the numbers and rules above: profiles from before a change must not mix with those after it."""

_SCALAR = "scalar_"


class Synthetic:
    """`Runtime` of the made-up accelerator."""

    layouts: tuple[str, ...] = (PLAIN,)
    period = TILE
    points = 4

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        return Device(
            name=name,
            runtime="synthetic",
            board="synthetic (modelled)",
            precision=self.precision,
            batch=batch,
            threads=threads,
            channel_step=TILE,
            versions={"synthetic": VERSION, "profile": str(FORMAT)},
        )

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        check_known(spec, "synthetic")
        spec = whole_parts(fold_batch_norm(spec))
        dense = spec.kind in ("conv2d", "conv_transpose2d", "linear")
        if dense and spec.in_channels > TILE and spec.in_channels % ALIGNED:
            return Lowered((replace(spec, kind=_SCALAR + spec.kind),))
        return Lowered((padded(spec, TILE),))

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        raise InvariantError("the synthetic accelerator knows one layout and reorders nothing")

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], float]:
        return self._prepare([kernel], device)

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], float]:
        network_inputs(read_network(onnx_path), str(onnx_path), device.batch)  # refuses what could not run
        return self._prepare([kernel for kernels in lower(graph, self) for kernel in kernels], device)

    def _prepare(self, kernels: Sequence[OpSpec], device: Device) -> Callable[[], float]:
        exact_ms = CALL_MS + sum(self.kernel_ms(kernel, device.batch) for kernel in kernels)
        noise = random.Random(f"{device.identity} {kernels}")
        return lambda: exact_ms * max(0.5, noise.gauss(1.0, NOISE))

    def kernel_ms(self, kernel: OpSpec, batch: int) -> float:
        """What a kernel takes in a network, without noise."""
        if kernel == CALL:
            return 0.0
        spec = replace(kernel, kind=kernel.kind.removeprefix(_SCALAR))
        slower = SCALAR if spec.kind != kernel.kind else 1.0
        number = BYTES[self.precision]
        compute_ms = batch * spec.macs * slower / (MACS_PER_MS * 4 / number)
        memory_ms = number * _numbers_moved(spec, batch) / BYTES_PER_MS
        return LAUNCH_MS + max(compute_ms, memory_ms)


def open_runtime(precision: str) -> Synthetic:
    return Synthetic(precision)


def lowering_of(device: Device) -> Synthetic:
    return Synthetic(device.precision)


def _numbers_moved(spec: OpSpec, batch: int) -> int:
    """How many numbers a kernel reads and writes, each once."""
    reads, writes = (
        spec.in_channels * math.prod(spec.in_size),
        spec.out_channels * math.prod(spec.result_size),
    )
    match spec.kind:
        case "attention":
            (queries, keys), (width, value_width) = spec.in_size, spec.head_widths
            reads = spec.out_channels * (width * (queries + keys) + value_width * keys)
        case "matmul":
            rows, inner, columns = spec.lengths
            reads = spec.out_channels * inner * (rows + columns)
    return batch * (reads + writes * (1 + spec.fused.count("add"))) + spec.weights
