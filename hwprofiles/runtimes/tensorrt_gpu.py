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
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
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
from hwprofiles.runtimes.gpu import OWN_STEP, GpuLowering, to_half
from hwprofiles.runtimes.onnx_drawing import layer_model
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network

BUILDER_LEVEL = 3
_MAJORS = (10, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensor:
    """What a layer of an engine reads or writes; `layout` is TensorRT's own description of it."""

    name: str
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine; its name tells which of the model became it, and `ms` is None if not timed."""

    name: str
    kind: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    tactic: str
    ms: float | None


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


class TensorRt(GpuLowering):
    """`Runtime` of TensorRT on the first GPU.

    Args:
        trt: the module `tensorrt`.
        cache: the folder of timing caches.
    """

    def __init__(self, precision: str, trt: Any, cuda: Cuda, cache: Path) -> None:
        super().__init__("tensorrt", OWN_STEP[precision])
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

    def layers(self, onnx_path: Path, device: Device) -> tuple[Layer, ...]:
        """The layers of a network's engine in running order, each with the time of one run.

        Raises:
            RequestError: as `prepare_network`.
        """
        built = self._engine(read_network(onnx_path), str(onnx_path), device.batch)
        inspector = built.engine.create_engine_inspector()
        inspector.execution_context = built.context
        described = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return read_layers(described, self._layer_times(built))

    def _layer_times(self, built: _Engine) -> Mapping[str, float]:
        """Milliseconds of each layer in one run, launch by launch: a profiler does not see into a graph."""
        times_ms: dict[str, float] = defaultdict(float)
        trt = self._trt

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times_ms[layer_name] += ms

        self._cuda.once(built.enqueue)
        built.context.profiler = Profiler()
        self._cuda.once(built.enqueue)
        return times_ms

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


def read_layers(described: str, times_ms: Mapping[str, float]) -> tuple[Layer, ...]:
    """Return the layers that an engine inspector describes, of TensorRT 10 or 11, with their times.

    In 10 a tensor has one field "Format/Datatype"; in 11 it has "Format" and "DataType".

    Args:
        described: JSON of an engine built with detailed profiling verbosity.
        times_ms: by layer name, as a profiler is told them or `trtexec --exportProfile` writes them.

    Raises:
        RequestError: it is not such JSON, or it holds names alone.
    """
    try:
        layers = json.loads(described)["Layers"]
        if any(isinstance(layer, str) for layer in layers):
            raise RequestError(
                "the layers of an engine are names alone; build it with profiling verbosity DETAILED "
                "(trtexec: --profilingVerbosity=detailed)"
            )
        return tuple(
            Layer(
                name=layer["Name"],
                kind=layer["LayerType"],
                inputs=tuple(map(_tensor, layer["Inputs"])),
                outputs=tuple(map(_tensor, layer["Outputs"])),
                tactic=layer.get("TacticName", ""),
                ms=times_ms.get(layer["Name"]),
            )
            for layer in layers
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"the layers of an engine cannot be read ({type(error).__name__}: {error}); wanted the JSON of "
            "an engine inspector: build the engine again"
        ) from None


def _tensor(item: Mapping[str, Any]) -> LayerTensor:
    layout = item.get("Format/Datatype") or f"{item['Format']}, {item['DataType']}"
    return LayerTensor(name=item["Name"], shape=tuple(item["Dimensions"]), layout=layout)


def _file_name(*parts: str) -> str:
    return "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in parts) + ".cache"
