"""A stand-in for the modules `tensorrt` 10 and 11 and for a GPU: same calls, same demands, no numbers.

`KNOWN` is what the code may call: members, and the parameters of methods, as the docstrings of the Python
bindings have them. They were read from the wheels tensorrt-cu13-bindings 10.13.3.9 and 11.4.0.106 (file
tensorrt.so); what `REMOVED_IN_11` names is in the first only. A test holds that the stand-in has no member
and no parameter beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hwprofiles.runtimes.cuda import Enqueue, Memory

KNOWN: Mapping[str, Mapping[str, tuple[str, ...] | None]] = {
    "Builder": {
        "create_network": ("flags",),
        "create_builder_config": (),
        "create_optimization_profile": (),
        "build_serialized_network": ("network", "config"),
    },
    "IBuilderConfig": {
        "builder_optimization_level": None,
        "profiling_verbosity": None,
        "set_flag": ("flag",),
        "clear_flag": ("flag",),
        "add_optimization_profile": ("profile",),
        "create_timing_cache": ("serialized_timing_cache",),
        "set_timing_cache": ("cache", "ignore_mismatch"),
        "get_timing_cache": (),
    },
    "ITimingCache": {"serialize": ()},
    "IOptimizationProfile": {"set_shape": ("input", "min", "opt", "max")},
    "OnnxParser": {"parse": ("model", "path"), "num_errors": None, "get_error": ("index",)},
    "ParserError": {"desc": ()},
    "Runtime": {"deserialize_cuda_engine": ("serialized_engine",)},
    "ICudaEngine": {
        "num_io_tensors": None,
        "get_tensor_name": ("index",),
        "get_tensor_dtype": ("name",),
        "create_execution_context": (),
        "create_engine_inspector": (),
    },
    "IExecutionContext": {
        "profiler": None,
        "set_input_shape": ("name", "shape"),
        "get_tensor_shape": ("name",),
        "set_tensor_address": ("name", "memory"),
        "execute_async_v3": ("stream_handle",),
    },
    "EngineInspector": {"execution_context": None, "get_engine_information": ("format",)},
    "IProfiler": {"report_layer_time": ("layer_name", "ms")},
    "BuilderFlag": {"TF32": None, "FP16": None},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED": None},
    "ProfilingVerbosity": {"DETAILED": None},
    "LayerInformationFormat": {"JSON": None},
}
REMOVED_IN_11 = {"BuilderFlag": {"FP16"}}


def fake_tensorrt(version: str) -> SimpleNamespace:
    """The module of that version; `built` lists every (network, config) that it made an engine of.

    Its inspectors tell `described`, and its profilers `layers_ms` of each run.
    """
    major = int(version.partition(".")[0])
    flags = {"TF32": 7} if major >= 11 else {"TF32": 7, "FP16": 0}
    module = SimpleNamespace(
        __version__=version,
        built=[],
        described='{"Layers": []}',
        layers_ms={},
        nptype=helper.tensor_dtype_to_np_dtype,
        IProfiler=IProfiler,
        Logger=Logger,
        OnnxParser=OnnxParser,
        BuilderFlag=IntEnum("BuilderFlag", flags),
        NetworkDefinitionCreationFlag=IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1}),
        ProfilingVerbosity=IntEnum("ProfilingVerbosity", {"DETAILED": 2}),
        LayerInformationFormat=IntEnum("LayerInformationFormat", {"JSON": 1}),
    )
    module.Builder = lambda logger: Builder(module)
    module.Runtime = lambda logger: Runtime(module)
    return module


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None:
        assert severity == self.ERROR


class Network:
    """`INetworkDefinition`, which only the parser fills."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: onnx.ModelProto | None = None


class ITimingCache:
    def __init__(self, known: bytes) -> None:
        self._known = known

    def serialize(self) -> bytes:
        return self._known + b"t"


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert min == opt == max
        self._shapes[input] = tuple(opt)


class IBuilderConfig:
    __slots__ = ("_cache", "_flags", "_profiles", "builder_optimization_level", "profiling_verbosity")

    def __init__(self) -> None:
        self._flags = {7}  # TF32 is on unless it is cleared
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: int) -> None:
        self._flags.add(int(flag))

    def clear_flag(self, flag: int) -> None:
        self._flags.discard(int(flag))

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = cache
        return not cache._known.startswith(b"another GPU's")

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    def __init__(self, module: SimpleNamespace) -> None:
        self._module = module

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: Network, config: IBuilderConfig) -> bytes | None:
        assert network.model is not None
        assert len(config._profiles) == 1
        self._module.built.append((network, config))
        if any(node.op_type == "NoSuchOperator" for node in network.model.graph.node):
            return None
        return network.model.SerializeToString()


class ParserError:
    def desc(self) -> str:
        return "no rule for the node"


class OnnxParser:
    def __init__(self, network: Network, logger: Logger) -> None:
        self._network = network
        self.num_errors = 0

    def parse(self, model: bytes, path: str | None = None) -> bool:
        self._network.model = onnx.ModelProto.FromString(model)
        self.num_errors = sum(node.op_type == "Unreadable" for node in self._network.model.graph.node)
        return not self.num_errors

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class Runtime:
    def __init__(self, module: SimpleNamespace) -> None:
        self._module = module

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
        return ICudaEngine(onnx.ModelProto.FromString(serialized_engine), self._module)


class ICudaEngine:
    def __init__(self, model: onnx.ModelProto, module: SimpleNamespace) -> None:
        weights = {tensor.name for tensor in model.graph.initializer}
        self._module = module
        self._inputs = [put.name for put in model.graph.input if put.name not in weights]
        self._puts = {put.name: put for put in (*model.graph.input, *model.graph.output)}
        self._names = [*self._inputs, *(put.name for put in model.graph.output)]
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> int:
        return int(self._puts[name].type.tensor_type.elem_type) or int(TensorProto.FLOAT)

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._module)


class EngineInspector:
    __slots__ = ("_module", "execution_context")

    def __init__(self, module: SimpleNamespace) -> None:
        self._module = module

    def get_engine_information(self, format: int) -> str:
        assert format == self._module.LayerInformationFormat.JSON
        return str(self._module.described)


class IProfiler:
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class IExecutionContext:
    __slots__ = ("_addresses", "_engine", "_shapes", "profiler")

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.profiler: IProfiler | None = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in self._engine._inputs
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert set(self._shapes) == set(self._engine._inputs), "shapes are known once all inputs' are"
        return self._shapes.get(name, (1,))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert isinstance(memory, int)
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.profiler is not None:
            for layer, ms in self._engine._module.layers_ms.items():
                self.profiler.report_layer_time(layer, ms)
        return set(self._addresses) == set(self._engine._names) and stream_handle == FakeGpu.STREAM


class FakeGpu:
    """`Cuda` without a GPU: a run takes a quarter of a millisecond by its clock."""

    STREAM = 77
    launch = "graph"
    board = "Fake GPU (0)"

    def __init__(self) -> None:
        self.uploaded: list[NDArray[Any]] = []

    def upload(self, values: NDArray[Any]) -> Memory:
        self.uploaded.append(values)
        return Memory(len(self.uploaded), values)

    def once(self, enqueue: Enqueue) -> None:
        enqueue(self.STREAM)

    def timed(self, enqueue: Enqueue) -> Callable[[], float]:
        self.once(enqueue)

        def run() -> float:
            enqueue(self.STREAM)
            return 0.25

        return run


def members(thing: object) -> set[str]:
    """What a stand-in lets others see."""
    return {name for name in dir(thing) if not name.startswith("_")}
