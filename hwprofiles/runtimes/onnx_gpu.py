"""ONNX Runtime on a GPU, by its CUDA or its TensorRT execution provider, with inputs and outputs bound there.

A run is one CUDA graph: ONNX Runtime captures it in the first runs and plays it back from then on, waiting
for its end before it returns, so the clock on the wall counts. That asks for fixed shapes, so the batch is
written into the network. Options are those of the pages "CUDA Execution Provider" and "TensorRT Execution
Provider" of ONNX Runtime's documentation. The TensorRT provider cannot turn TF32 off, so it runs no fp32.
Nothing here has run on a GPU yet, only on the CPU provider with the same calls: docs/devices.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from hwprofiles.board import power_mode
from hwprofiles.device import Device
from hwprofiles.errors import RequestError
from hwprofiles.files import FORMAT
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes.cuda import open_cuda
from hwprofiles.runtimes.gpu import OWN_STEP, GpuLowering, to_half
from hwprofiles.runtimes.onnx_drawing import layer_model
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network

_CAPTURING_RUNS = 3
"""The CUDA provider captures in its second run; what is played back is warm after the third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An execution provider: `memory` is what ONNX Runtime calls its device, `options` go by precision."""

    name: str
    memory: str
    options: Mapping[str, Mapping[str, str]]


_ON_CUDA = {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "EXHAUSTIVE"}
_ON_TENSORRT = {"trt_cuda_graph_enable": "1", "trt_builder_optimization_level": "3"}
CUDA = Provider(
    name="CUDAExecutionProvider",
    memory="cuda",
    options={
        "fp32": {**_ON_CUDA, "use_tf32": "0"},
        "tf32": {**_ON_CUDA, "use_tf32": "1"},
        "fp16": {**_ON_CUDA, "use_tf32": "0"},
    },
)
TENSORRT = Provider(
    name="TensorrtExecutionProvider", memory="cuda", options={"tf32": _ON_TENSORRT, "fp16": _ON_TENSORRT}
)


class OnnxRuntimeGpu(GpuLowering):
    """`Runtime` of ONNX Runtime by one provider on the first GPU, which is called `board`."""

    def __init__(self, runtime: str, provider: Provider, precision: str, board: str) -> None:
        super().__init__(runtime, OWN_STEP[precision])
        self.precision = precision
        self._provider = provider
        self._board = board

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        options = self._provider.options[self.precision]
        return Device(
            name=name,
            runtime=self.runtime,
            board=self._board,
            precision=self.precision,
            batch=batch,
            threads=threads,
            power_mode=power_mode(),
            channel_step=self.step,
            versions={"onnxruntime": ort.__version__, "profile": str(FORMAT), **options},
        )

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], None]:
        return self._bound(layer_model(kernel, device.batch), str(kernel), device)

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], None]:
        return self._bound(read_network(onnx_path), str(onnx_path), device)

    def _bound(self, model: onnx.ModelProto, name: str, device: Device) -> Callable[[], None]:
        if self.precision == "fp16":
            model = to_half(model)
        feeds = network_inputs(model, name, device.batch)
        for put in model.graph.input:
            if put.name in feeds:
                put.type.tensor_type.shape.dim[0].dim_value = feeds[put.name].shape[0]
        session = self._session(model, name, device.threads)
        binding = session.io_binding()
        for put, values in feeds.items():
            binding.bind_ortvalue_input(put, self._on_device(values))
        for put in session.get_outputs():
            binding.bind_output(put.name, self._provider.memory)
        session.run_with_iobinding(binding)
        # From now on into the memory that the outputs have found: a captured graph writes nowhere else.
        for put, value in zip(session.get_outputs(), binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(put.name, self._on_device(np.zeros_like(value.numpy())))
        for _ in range(_CAPTURING_RUNS):
            session.run_with_iobinding(binding)
        return lambda: session.run_with_iobinding(binding)

    def _on_device(self, values: Any) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(values, self._provider.memory, 0)

    def _session(self, model: onnx.ModelProto, name: str, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        providers = [(self._provider.name, dict(self._provider.options[self.precision]))]
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
        except Exception as error:  # onnxruntime raises a class of its own for each way to fail
            raise RequestError(
                f"{self.runtime} cannot load {name}: {error}; export the network again"
            ) from error
        if session.get_providers()[0] != self._provider.name:  # it goes on without one that does not start
            raise RequestError(
                f"{self.runtime} cannot start its {self._provider.name} and would run on "
                f"{session.get_providers()[0]}; see that CUDA and cuDNN are those that onnxruntime-gpu wants"
            )
        return session


def open_on_cuda(precision: str) -> OnnxRuntimeGpu:
    return _open("onnxruntime-cuda", CUDA, precision)


def open_on_tensorrt(precision: str) -> OnnxRuntimeGpu:
    return _open("onnxruntime-tensorrt", TENSORRT, precision)


def _open(runtime: str, provider: Provider, precision: str) -> OnnxRuntimeGpu:
    """
    Raises:
        RequestError: the ONNX Runtime that is installed lacks the provider, or there is no GPU.
    """
    if provider.name not in ort.get_available_providers():
        raise RequestError(
            f"runtime {runtime!r} cannot be used here: the installed onnxruntime {ort.__version__} has no "
            f"{provider.name}; install the package onnxruntime-gpu in its place"
        )
    return OnnxRuntimeGpu(runtime, provider, precision, open_cuda().board)
