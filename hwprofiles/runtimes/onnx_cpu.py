"""ONNX Runtime on this machine's CPU: which kernels it makes of an operator, and each kernel run alone.

At its highest optimisation level ONNX Runtime folds batch norm into the convolution before it, runs a
following sum and activation in the same kernel, and keeps activations in blocks of 8 or 16 channels (NCHWc).
The rules, read from optimised graphs of ONNX Runtime 1.31 and held by tests that read them again:

    conv2d, below one block of input channels      conv2d_from_nchw       output channels padded to blocks
    conv2d, input channels a multiple of 4         conv2d_nchwc           input and output padded to blocks
    conv2d, any other input channels               conv2d_nchw            nothing padded, and slower
    grouped conv2d, whole blocks in every group    conv2d_nchwc           else conv2d_nchw
    depthwise_conv2d, a multiple of 4              depthwise_conv2d_nchwc padded, else depthwise_conv2d_nchw
    max_pool2d and avg_pool2d, whole blocks        …_nchwc
    batch_norm behind a blocked kernel             depthwise_conv2d_nchwc of 1x1
    sums and the functions in `_BLOCKED`           on blocks where all that they read lies in blocks
    concatenation                                  on blocks where all that it reads lies in whole blocks
    linear                                         output padded to panels of 16, by a measured staircase
    everything else                                as it is

Whoever wants plain memory behind a blocked kernel, or the other way round, pays for a `reorder`: one width
off the grid costs more than its own layer. A sum is part of a blocked convolution only where the other
summand lies in blocks, too; an activation behind it only if it is in `_FUSED_WITH_SUM`.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from hwprofiles.device import Device
from hwprofiles.errors import RequestError
from hwprofiles.files import FORMAT
from hwprofiles.ops import OpGraph, OpSpec, Size
from hwprofiles.runtimes.onnx_drawing import ACTIVATIONS, NCHWC, Sketch, draw_blocked, draw_plain
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network
from hwprofiles.runtimes.protocol import PLAIN, Lowered
from hwprofiles.runtimes.rules import check_known, fold_batch_norm, up_to, whole_heads

_ALIGNED = 4  # the NCHWc convolution reads input channels in fours
_PANEL = 16  # the matrix product packs columns of weights by sixteen, on every CPU

_FUSED_WITH_SUM = {"relu", "sigmoid", "tanh", "hardsigmoid", "hardswish"}
_BLOCKED = {*_FUSED_WITH_SUM, "add", "silu", "gelu"}
"""What leaves blocked tensors as they lie; `mul` is not among them, as most often it is a gate's."""
# Layouts: blocks of channels, the last of them filled up with zeros or not.
_PADDED, _WHOLE = "padded blocks", "whole blocks"


class OnnxRuntimeCpu:
    """`Runtime` of ONNX Runtime's CPU provider in fp32, with denormals as zero."""

    @cached_property
    def block(self) -> int:
        """Channels in a block on this CPU (16 with AVX-512, 8 with AVX2); 1 where layouts are not blocked.

        Found by letting ONNX Runtime optimise a convolution of 4 filters and counting what it made of them.
        """
        sketch = Sketch()
        sketch.node("Conv", sketch.input(1, 4, 4, 4), sketch.weight(4, 4, 1, 1), kernel_shape=(1, 1))
        graph = optimised_graph(sketch.model())
        filters = {tensor.name: tensor.dims[0] for tensor in graph.initializer}
        blocked = [node for node in graph.node if node.domain == NCHWC and node.op_type == "Conv"]
        return filters[blocked[0].input[1]] if blocked else 1

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        return Device(
            name=name,
            runtime="onnxruntime",
            board=_cpu_name(),
            batch=batch,
            threads=threads,
            channel_step=self.block,
            cache_mb=_cache_mb(),
            versions={"onnxruntime": ort.__version__, "profile": str(FORMAT)},
        )

    layouts = (PLAIN, _PADDED, _WHOLE)

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        check_known(spec, "onnxruntime")
        spec = fold_batch_norm(spec)
        channels = spec.out_channels
        match spec.kind:
            case "conv2d" | "depthwise_conv2d":
                return self._convolution(spec, layout)
            case "max_pool2d" | "avg_pool2d" if self._lies(channels) == _WHOLE:
                return Lowered((_kernel(spec, "nchwc", channels, channels),), PLAIN, _WHOLE, _WHOLE)
            case "batch_norm" if layout != PLAIN:
                kernel = _kernel(_as_convolution(spec), "nchwc", self._pad(channels), self._pad(channels))
                return Lowered((kernel,), PLAIN, layout, self._lies(channels))
            case "elementwise" if layout != PLAIN and _BLOCKED.issuperset(spec.fused):
                padded = self._pad(channels)
                return Lowered((spec.with_channels(padded, padded),), PLAIN, layout, layout)
            case "copy" if layout == _WHOLE and spec.fused == ("cat",):
                return Lowered((spec,), PLAIN, _WHOLE, _WHOLE)
            case "linear":
                return Lowered((spec.with_channels(spec.in_channels, up_to(channels, _PANEL)),))
        return Lowered((whole_heads(spec),))

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        kind = "reorder_output" if layout == PLAIN else "reorder_input"
        if layout != PLAIN:
            channels = up_to(channels, _ALIGNED)  # whoever reads blocks has no other counts
        return OpSpec(kind=kind, in_channels=channels, out_channels=channels, in_size=size, out_size=size)

    def _convolution(self, spec: OpSpec, layout: str) -> Lowered:
        inputs, outputs = spec.in_channels, spec.out_channels
        read, how = self._blocked(spec)
        if not how:
            return Lowered((_kernel(spec, "nchw", inputs, outputs),))
        inside, behind = _split_epilogue(spec.fused, adds=layout != PLAIN)
        lies, size = self._lies(outputs), spec.result_size
        kernel = replace(spec, fused=inside)
        kernels = [
            _kernel(kernel, how, inputs if how == "from_nchw" else self._pad(inputs), self._pad(outputs))
        ]
        for name in behind:
            if lies != PLAIN and (name not in _BLOCKED or name == "add"):
                kernels.append(self.reorder(outputs, size, PLAIN))
                lies = PLAIN
            count = outputs if lies == PLAIN else self._pad(outputs)
            kernels.append(
                OpSpec(
                    kind="elementwise",
                    in_channels=count,
                    out_channels=count,
                    in_size=size,
                    out_size=size,
                    fused=(name,),
                )
            )
        return Lowered(tuple(kernels), read, PLAIN if "add" in behind else layout, lies)

    def _blocked(self, spec: OpSpec) -> tuple[str, str]:
        """The layout that a convolution reads, and its blocked kernel; "" if it has none for its channels."""
        inputs, outputs = spec.in_channels, spec.out_channels
        if self.block == 1:
            return PLAIN, ""
        if spec.kind == "depthwise_conv2d":
            return (_WHOLE, "nchwc") if outputs % _ALIGNED == 0 else (PLAIN, "")
        if spec.groups > 1:
            whole = inputs // spec.groups % self.block == 0 and outputs // spec.groups % self.block == 0
            return (_WHOLE, "nchwc") if whole else (PLAIN, "")
        if inputs < self.block:
            return PLAIN, "from_nchw"
        return (_WHOLE, "nchwc") if inputs % _ALIGNED == 0 else (PLAIN, "")

    def _lies(self, channels: int) -> str:
        return PLAIN if self.block == 1 else _PADDED if channels % self.block else _WHOLE

    def _pad(self, channels: int) -> int:
        return up_to(channels, self.block)

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], None]:
        if kernel.kind.endswith(("_nchwc", "_from_nchw")) or kernel.kind.startswith("reorder"):
            # The graph is already what the optimiser would make of it; left to it, it would add reorders.
            level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            sketch = draw_blocked(kernel, device.batch, self._pad(kernel.in_channels))
        else:
            # One level below the highest fuses everything but leaves the layout alone.
            level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            sketch = draw_plain(kernel, device.batch)
        session = _session(sketch.model().SerializeToString(), device.threads, level)
        return _bound(session, sketch.inputs)

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], None]:
        session = _load(onnx_path, device.threads)
        return _bound(session, network_inputs(read_network(onnx_path), str(onnx_path), device.batch))


def open_runtime(precision: str) -> OnnxRuntimeCpu:
    return OnnxRuntimeCpu()


def run_onnx(onnx_path: Path, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a network once, optimised as far as it is when it is measured; returns its outputs in order.

    Raises:
        RequestError: the file does not load, or its inputs are not those of `feeds`.
    """
    session = _load(onnx_path, threads=1)
    try:
        return list(session.run(None, dict(feeds)))
    except Exception as error:  # as in _load
        raise RequestError(f"onnxruntime cannot run {onnx_path}: {error}; export it again") from error


def optimised_graph(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the graph that ONNX Runtime runs for `model` on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3  # it warns that such a file suits only this CPU, which is the point
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path).graph


def _kernel(spec: OpSpec, layout: str, in_channels: int, out_channels: int) -> OpSpec:
    return replace(spec, kind=f"{spec.kind}_{layout}", in_channels=in_channels, out_channels=out_channels)


def _split_epilogue(fused: tuple[str, ...], *, adds: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a blocked convolution does to its own result, and what others do behind it."""
    inside = ("add",) if fused[:1] == ("add",) and adds else ()
    behind = fused[len(inside) :]
    if behind and behind[0] in (_FUSED_WITH_SUM if inside else ACTIVATIONS):
        return (*inside, behind[0]), behind[1:]
    return inside, behind


def _as_convolution(norm: OpSpec) -> OpSpec:
    """A batch norm as the depthwise convolution of 1x1 that it is."""
    return replace(
        norm,
        kind="depthwise_conv2d",
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0,) * 4,
        dilation=(1, 1),
        groups=0,
    )


def _load(onnx_path: Path, threads: int) -> ort.InferenceSession:
    try:
        return _session(str(onnx_path), threads, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    except Exception as error:  # onnxruntime raises a class of its own for each way to fail
        raise RequestError(
            f"onnxruntime cannot load {onnx_path}: {error}; export the network again"
        ) from error


def _session(model: str | bytes, threads: int, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = level
    # Random weights make denormals that trained ones do not have, and each costs a hundred cycles.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bound(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
    """Bind inputs and outputs to fixed memory, so that a call allocates and copies nothing."""
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
    names = [put.name for put in session.get_outputs()]
    for name, values in zip(names, session.run(names, dict(feeds)), strict=True):
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(np.empty_like(values)))
    return lambda: session.run_with_iobinding(binding)


def _cache_mb() -> float:
    """The last-level cache that this CPU's cores share; 0 where the system does not tell."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    told = [size.read_text().strip() for size in sizes]
    return max(
        (int(size[:-1]) * 1024 / 1e6 for size in told if size[:-1].isdigit() and size[-1] == "K"), default=0.0
    )


def _cpu_name() -> str:
    """The CPU's model name and instruction set, such as "AMD EPYC (x86_64)"."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()
