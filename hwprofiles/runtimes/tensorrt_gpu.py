"""TensorRT 10 and 11: an ONNX network built into an engine, run as one CUDA graph, and looked into.

What is measured is what would be deployed: the network in the types it is written in (strong typing, which
is a flag in 10 and all there is in 11), TF32 on or off by the device's precision, builder level 3, detailed
layer names. Tactics come from a timing cache of board, version and precision, so that two engines of one
profile do not differ by what the builder happened to time.

Sources: "TensorRT Python API" 10.13 and 11.4; "Migrating from TensorRT 10.x to 11.x", pages "Python" and
"IEngineInspector". Nothing here has run on a GPU yet: docs/devices.md.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwprofiles.board import power_mode
from hwprofiles.device import Device
from hwprofiles.errors import RequestError, TransientError
from hwprofiles.files import FORMAT
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes.cuda import Cuda, Memory, open_cuda
from hwprofiles.runtimes.gpu import to_half
from hwprofiles.runtimes.onnx_drawing import layer_model
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network
from hwprofiles.runtimes.protocol import CALL, Run
from hwprofiles.runtimes.tensorrt_layers import engine_graph, read_layers
from hwprofiles.runtimes.tensorrt_lowering import STEPS, TensorRtLowering

BUILDER_LEVEL = 3
_MAJORS = (10, 11)


@dataclass(frozen=True, slots=True)
class _Engine:
    """An engine ready to run, with all that it needs to live as long as it."""

    name: str
    runtime: Any
    engine: Any
    context: Any
    memory: Sequence[Memory]

    def enqueue(self, stream: int) -> None:
        if not self.context.execute_async_v3(stream):
            raise TransientError(f"TensorRT could not start {self.name}; see that the GPU is free, try again")


class TensorRt(TensorRtLowering):
    """`Runtime` of TensorRT on the first GPU.

    Args:
        trt: the module `tensorrt`.
        cache: the folder of timing caches.
    """

    def __init__(self, precision: str, trt: Any, cuda: Cuda, cache: Path) -> None:
        super().__init__(STEPS[precision])
        self.precision = precision
        self._trt = trt
        self._cuda = cuda
        self._major = int(trt.__version__.partition(".")[0])
        if self._major not in _MAJORS:
            raise RequestError(
                f"TensorRT {trt.__version__} is installed; allowed: 10 and 11; install one of these versions"
            )
        self._cache = cache / _file_name(self._cuda.board, trt.__version__, precision)
        self._logger = trt.Logger(trt.Logger.ERROR)

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        return Device(
            name=name,
            runtime="tensorrt",
            board=self._cuda.board,
            precision=self.precision,
            batch=batch,
            threads=threads,
            power_mode=power_mode(),
            channel_step=self.step,
            versions={
                "tensorrt": self._trt.__version__,
                "builder_level": str(BUILDER_LEVEL),
                "launch": self._cuda.launch,
                "profile": str(FORMAT),
            },
        )

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], float]:
        model = layer_model(kernel, device.batch)
        return self._cuda.timed(self._engine(model, str(kernel), device.batch).enqueue)

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], float]:
        return self._cuda.timed(self._engine(read_network(onnx_path), str(onnx_path), device.batch).enqueue)

    def harvest(self, onnx_path: Path, device: Device) -> dict[OpSpec, Run]:
        """The kernels of a whole network, out of a single engine in place of one for each of them.

        Each is timed in its place by TensorRT's profiler, and has what a call takes added, as if it had run
        alone; see `CALL`. One run of the network times them all, so that running a kernel runs nothing while
        there is a time of it that was not told yet. Kernels that the engine does not tell apart are missing.

        Raises:
            RequestError: as `prepare_network`; or the engine's description cannot be read.
        """
        name = str(onnx_path)
        built = self._engine(read_network(onnx_path), name, device.batch)
        inspector = built.engine.create_engine_inspector()
        inspector.execution_context = built.context
        described = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        layers = read_layers(described, name)
        graph = engine_graph(layers, device.batch, name)
        profiled = self._profiled(built, [layer.name for layer in layers])
        call = self.prepare_kernel(CALL, device)

        def run() -> dict[OpSpec, float]:
            kernels_ms = graph.kernels_ms(profiled(), self)
            return {kernel: fmean(operators_ms) for kernel, operators_ms in kernels_ms.items()}

        waiting = {kernel: deque[float]() for kernel in run()}

        def next_ms(kernel: OpSpec) -> float:
            if not waiting[kernel]:
                for each, ms in run().items():
                    waiting[each].append(ms + (call() or 0.0))
            return waiting[kernel].popleft()

        return {kernel: partial(next_ms, kernel) for kernel in waiting}

    def _profiled(self, built: _Engine, layers: Sequence[str]) -> Callable[[], Mapping[str, float]]:
        """Each call of the answer runs an engine and returns milliseconds by layer.

        It runs launch by launch: a profiler does not see into a CUDA graph.
        """
        times_ms: dict[str, float] = {}
        trt = self._trt

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times_ms[layer_name] += ms

        self._cuda.once(built.enqueue)
        built.context.profiler = Profiler()

        def run() -> Mapping[str, float]:
            times_ms.update(dict.fromkeys(layers, 0.0))
            self._cuda.once(built.enqueue)
            return times_ms

        return run

    def _engine(self, model: onnx.ModelProto, name: str, batch: int) -> _Engine:
        """Build a network and give it memory with random inputs."""
        if self.precision == "fp16":
            model = to_half(model)
        feeds = network_inputs(model, name, batch)
        trt = self._trt
        runtime = trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(self._build(model, name, feeds))
        context = engine.create_execution_context()
        for tensor, values in feeds.items():
            context.set_input_shape(tensor, values.shape)
        memory = []
        for tensor in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            if tensor in feeds:
                values = feeds[tensor]
            else:  # an output, whose shape follows from the inputs'
                dtype = trt.nptype(engine.get_tensor_dtype(tensor))
                values = np.zeros(tuple(context.get_tensor_shape(tensor)), dtype=dtype)
            memory.append(self._cuda.upload(values))
            context.set_tensor_address(tensor, memory[-1].address)
        return _Engine(name, runtime, engine, context, memory)

    def _build(self, model: onnx.ModelProto, name: str, feeds: Mapping[str, NDArray[Any]]) -> Any:
        """Return the engine of a network, serialized."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if self._major == 10 else 0
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(model.SerializeToString()):
            reasons = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
            raise RequestError(f"TensorRT cannot read {name}: {reasons}; export the network again")
        config = builder.create_builder_config()
        config.builder_optimization_level = BUILDER_LEVEL
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        (config.set_flag if self.precision == "tf32" else config.clear_flag)(trt.BuilderFlag.TF32)
        shapes = builder.create_optimization_profile()
        for put, values in feeds.items():
            shapes.set_shape(put, values.shape, values.shape, values.shape)
        config.add_optimization_profile(shapes)
        known = self._cache.read_bytes() if self._cache.exists() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            raise RequestError(f"the timing cache {self._cache} is not one of this GPU; delete it")
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise RequestError(f"TensorRT cannot build {name}; its log says why: export the network again")
        self._keep_timings(bytes(config.get_timing_cache().serialize()))
        return engine

    def _keep_timings(self, timings: bytes) -> None:
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        part = self._cache.with_suffix(f".{os.getpid()}")
        part.write_bytes(timings)
        part.replace(self._cache)


def open_runtime(precision: str) -> TensorRt:
    """
    Raises:
        ImportError: the package tensorrt is not installed, or not for this machine.
        RequestError: no GPU can be used, or TensorRT is neither 10 nor 11.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return TensorRt(precision, import_module("tensorrt"), open_cuda(), caches / "prunefront" / "tensorrt")


def _file_name(*parts: str) -> str:
    return "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in parts) + ".cache"
