"""ONNX Runtime's GPU providers, held by the same calls on the CPU's provider: this machine has no GPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from hwprofiles import open_runtime
from hwprofiles.errors import RequestError
from hwprofiles.runtimes.onnx_gpu import CUDA, TENSORRT, OnnxRuntimeGpu, Provider
from tests.contracts.runtime import IDENTITY, RuntimeContract, save_identity

HERE = Provider(name="CPUExecutionProvider", memory="cpu", options={"fp32": {}, "fp16": {}})


class TestSameCallsOnTheCpu(RuntimeContract):
    def make(self) -> OnnxRuntimeGpu:
        return OnnxRuntimeGpu("onnxruntime-cuda", HERE, "fp32", "this CPU")


class TestSameCallsOnTheCpuInHalfPrecision(RuntimeContract):
    def make(self) -> OnnxRuntimeGpu:
        return OnnxRuntimeGpu("onnxruntime-cuda", HERE, "fp16", "this CPU")


@pytest.mark.parametrize(
    ("name", "provider"), [("onnxruntime-cuda", CUDA), ("onnxruntime-tensorrt", TENSORRT)]
)
def test_a_provider_that_is_not_installed_is_told_with_the_package_that_has_it(
    name: str, provider: Provider
) -> None:
    if provider.name in ort.get_available_providers():
        pytest.skip(f"{provider.name} is installed")
    with pytest.raises(RequestError, match=f"{provider.name}; install the package onnxruntime-gpu"):
        open_runtime(name, "fp16")


def test_a_provider_that_does_not_start_is_never_replaced_in_silence(tmp_path: Path) -> None:
    absent = Provider(name="XnnpackExecutionProvider", memory="cpu", options={"fp32": {}})
    save_identity(tmp_path / "network.onnx", ["batch", 3])
    runtime = OnnxRuntimeGpu("onnxruntime-cuda", absent, "fp32", "this CPU")
    device = runtime.describe(name="here", batch=1, threads=1)
    with (
        pytest.warns(UserWarning, match="XnnpackExecutionProvider"),
        pytest.raises(RequestError, match="cannot start its XnnpackExecutionProvider and would run on"),
    ):
        runtime.prepare_network(tmp_path / "network.onnx", IDENTITY, device)


def test_tf32_is_what_a_precision_says_and_part_of_the_device() -> None:
    devices = {
        precision: OnnxRuntimeGpu("onnxruntime-cuda", CUDA, precision, "a GPU").describe(
            name="here", batch=1, threads=1
        )
        for precision in CUDA.options
    }
    assert {name: device.versions["use_tf32"] for name, device in devices.items()} == {
        "fp32": "0",
        "tf32": "1",
        "fp16": "0",
    }
    assert len({device.identity for device in devices.values()}) == 3


def test_the_tensorrt_provider_which_cannot_turn_tf32_off_runs_no_fp32() -> None:
    with pytest.raises(RequestError, match="'onnxruntime-tensorrt' does not run 'fp32'"):
        open_runtime("onnxruntime-tensorrt")
