"""torch on a GPU: the operators of an ONNX network as torch functions, captured once as a CUDA graph.

What Python costs is in no run, as a graph is played back by the driver. cuDNN times its algorithms, TF32 is
on or off by precision. Nothing here has run on a GPU yet, only on the CPU: docs/devices.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx
import torch

from hwprofiles.board import power_mode
from hwprofiles.device import Device
from hwprofiles.errors import RequestError
from hwprofiles.files import FORMAT
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes.gpu import OWN_STEP, GpuLowering, to_half
from hwprofiles.runtimes.onnx_drawing import layer_model
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network
from hwprofiles.runtimes.torch_network import TorchNetwork

_WARM_RUNS = 3


class TorchGpu(GpuLowering):
    """`Runtime` of torch on `place`, a torch device."""

    def __init__(self, precision: str, place: str) -> None:
        super().__init__("torch", OWN_STEP[precision])
        self.precision = precision
        self._place = torch.device(place)

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        on_gpu = self._place.type == "cuda"
        return Device(
            name=name,
            runtime="torch",
            board=torch.cuda.get_device_name(self._place) if on_gpu else "CPU",
            precision=self.precision,
            batch=batch,
            threads=threads,
            power_mode=power_mode(),
            channel_step=self.step,
            versions={
                "torch": torch.__version__,
                "cuda": str(torch.version.cuda if on_gpu else ""),
                "profile": str(FORMAT),
            },
        )

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], float | None]:
        return self._prepare(layer_model(kernel, device.batch), str(kernel), device.batch)

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], float | None]:
        return self._prepare(read_network(onnx_path), str(onnx_path), device.batch)

    @torch.no_grad()
    def _prepare(self, model: onnx.ModelProto, name: str, batch: int) -> Callable[[], float | None]:
        if self.precision == "fp16":
            model = to_half(model)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        network = TorchNetwork(model, network_inputs(model, name, batch), self._place)
        if self._place.type != "cuda":
            return network.run
        for _ in range(_WARM_RUNS):
            network.run()
        torch.cuda.synchronize(self._place)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            network.run()
        event = cast(Callable[..., Any], torch.cuda.Event)
        return _Captured(network, captured, event(enable_timing=True), event(enable_timing=True))


@dataclass(frozen=True, slots=True)
class _Captured:
    """A CUDA graph between two events, and the network whose memory it reads and writes."""

    network: TorchNetwork
    graph: Any
    start: Any
    end: Any

    def __call__(self) -> float:
        self.start.record()
        self.graph.replay()
        self.end.record()
        self.end.synchronize()
        return float(self.start.elapsed_time(self.end))


def open_runtime(precision: str) -> TorchGpu:
    """
    Raises:
        RequestError: torch finds no GPU here.
    """
    if not torch.cuda.is_available():
        raise RequestError(
            f"runtime 'torch' cannot be used here: torch {torch.__version__} finds no GPU; install a torch "
            "built for CUDA, on a machine with a GPU"
        )
    return TorchGpu(precision, "cuda:0")
