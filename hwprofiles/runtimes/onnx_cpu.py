"""ONNX Runtime on this machine's CPU, and each of its kernels run alone; `onnx_cpu_lowering` names them."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from hwprofiles.board import power_mode
from hwprofiles.device import Device
from hwprofiles.errors import RequestError
from hwprofiles.files import FORMAT
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes.onnx_cpu_lowering import OnnxCpuLowering
from hwprofiles.runtimes.onnx_drawing import NCHWC, Sketch, draw_blocked, draw_plain
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network


class OnThisCpu:
    """What ONNX Runtime's CPU provider tells of this machine, in any precision."""

    precision: str
    block: int

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        return Device(
            name=name,
            runtime="onnxruntime",
            board=_cpu_name(),
            precision=self.precision,
            batch=batch,
            threads=threads,
            power_mode=power_mode(),
            channel_step=self.block,
            cache_mb=_cache_mb(),
            versions={"onnxruntime": ort.__version__, "profile": str(FORMAT)},
        )


class OnnxRuntimeCpu(OnThisCpu, OnnxCpuLowering):
    """`Runtime` of ONNX Runtime's CPU provider in fp32, with denormals as zero."""

    precision = "fp32"

    def __init__(self) -> None:
        super().__init__(own_block())

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], None]:
        if kernel.kind.endswith(("_nchwc", "_from_nchw")) or kernel.kind.startswith("reorder"):
            # The graph is already what the optimiser would make of it; left to it, it would add reorders.
            level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            sketch = draw_blocked(kernel, device.batch, self.pad(kernel.in_channels))
        else:
            # One level below the highest fuses everything but leaves the layout alone.
            level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            sketch = draw_plain(kernel, device.batch)
        session = open_session(sketch.model().SerializeToString(), device.threads, level)
        return bound(session, sketch.inputs)

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], None]:
        session = _load(onnx_path, device.threads)
        return bound(session, network_inputs(read_network(onnx_path), str(onnx_path), device.batch))


def open_runtime(precision: str) -> OnnxRuntimeCpu:
    return OnnxRuntimeCpu()


@cache
def own_block() -> int:
    """Channels in a block on this machine's CPU.

    Found by letting ONNX Runtime optimise a convolution of 4 filters and counting what it made of them.
    """
    sketch = Sketch()
    sketch.node("Conv", sketch.input(1, 4, 4, 4), sketch.weight(4, 4, 1, 1), kernel_shape=(1, 1))
    graph = optimised_graph(sketch.model())
    filters = {tensor.name: tensor.dims[0] for tensor in graph.initializer}
    blocked = [node for node in graph.node if node.domain == NCHWC and node.op_type == "Conv"]
    return filters[blocked[0].input[1]] if blocked else 1


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


def _load(onnx_path: Path, threads: int) -> ort.InferenceSession:
    try:
        return open_session(str(onnx_path), threads)
    except Exception as error:  # onnxruntime raises a class of its own for each way to fail
        raise RequestError(
            f"onnxruntime cannot load {onnx_path}: {error}; export the network again"
        ) from error


def open_session(
    model: str | bytes,
    threads: int,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = level
    # Random weights make denormals that trained ones do not have, and each costs a hundred cycles.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bound(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
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
