"""ONNX Runtime on this machine's CPU in int8; `onnx_int8_lowering` names its kernels.

What it loads it quantises itself, with made-up ranges: for measuring, not for using (see `onnx_quantised`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hwprofiles.device import Device
from hwprofiles.errors import RequestError
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes.onnx_cpu import OnnxRuntimeCpu, OnThisCpu, bound, open_session, own_block
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network
from hwprofiles.runtimes.onnx_int8_lowering import OnnxInt8Lowering
from hwprofiles.runtimes.onnx_quantised import draw_int8, quantised


class OnnxRuntimeCpuInt8(OnThisCpu, OnnxInt8Lowering):
    """`Runtime` of ONNX Runtime's CPU provider in int8; what stays in floating point runs as in fp32."""

    precision = "int8"

    def __init__(self) -> None:
        super().__init__(own_block())
        self._in_floats = OnnxRuntimeCpu()

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], None]:
        if "int8" not in kernel.kind and "quantize" not in kernel.kind:
            return self._in_floats.prepare_kernel(kernel, device)
        sketch = draw_int8(kernel, device.batch)
        return bound(
            open_session(quantised(sketch.model()).SerializeToString(), device.threads), sketch.inputs
        )

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], None]:
        model = read_network(onnx_path)
        feeds = network_inputs(model, str(onnx_path), device.batch)
        try:
            session = open_session(quantised(model).SerializeToString(), device.threads)
        except Exception as error:  # the tool and the runtime raise classes of their own
            raise RequestError(
                f"onnxruntime cannot quantise {onnx_path}: {error}; export the network again"
            ) from error
        return bound(session, feeds)


def open_runtime(precision: str) -> OnnxRuntimeCpuInt8:
    return OnnxRuntimeCpuInt8()
