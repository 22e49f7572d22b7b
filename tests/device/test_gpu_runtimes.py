"""The GPU runtimes on a GPU: the contract, their stairs, and kernels out of an engine.

python -m pytest -m device -rs tests/device
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles import OpSpec, Runtime, lower, measure, open_runtime
from hwprofiles.errors import RequestError
from hwprofiles.runtimes import PLAIN
from hwprofiles.runtimes.gpu import stair_step
from hwprofiles.runtimes.tensorrt_gpu import TensorRt
from tests.bundles import coupled, exported
from tests.contracts.runtime import RuntimeContract
from trials.costs import Costs
from trials.onnx_file import write_onnx

GPU_RUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "torch")


def opened(name: str, precision: str = "fp16") -> Runtime:
    try:
        return open_runtime(name, precision)
    except RequestError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.device("onnxruntime-cuda")
class TestOnnxRuntimeOnCuda(RuntimeContract):
    def make(self) -> Runtime:
        return opened("onnxruntime-cuda")


@pytest.mark.device("onnxruntime-tensorrt")
class TestOnnxRuntimeOnTensorRt(RuntimeContract):
    def make(self) -> Runtime:
        return opened("onnxruntime-tensorrt")


@pytest.mark.device("tensorrt")
class TestTensorRt(RuntimeContract):
    def make(self) -> Runtime:
        return opened("tensorrt")


@pytest.mark.device("torch")
class TestTorch(RuntimeContract):
    def make(self) -> Runtime:
        return opened("torch")


def wide(channels: int) -> OpSpec:
    """Large enough that a GPU is not waiting for itself."""
    return OpSpec(
        kind="conv2d",
        in_channels=256,
        out_channels=channels,
        in_size=(56, 56),
        out_size=(56, 56),
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.device(name)) for name in GPU_RUNTIMES]
)
@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_measured_stairs_are_no_finer_than_the_rule_of_lowering(name: str, precision: str) -> None:
    runtime = opened(name, precision)
    device = runtime.describe(name="here", batch=8, threads=1)
    # As they are, not as lowering would fill them up: that is what is to be proved.
    runs = {count: runtime.prepare_kernel(wide(count), device) for count in range(129, 257)}
    measured = measure(runs, passes=1, rounds=8, seed=0)
    step = stair_step({count: rounds.summary().latency_ms for count, rounds in measured.items()})
    assert step % device.channel_step == 0
    assert runtime.lower(wide(129), PLAIN).kernels[0].out_channels <= 128 + step


@pytest.mark.device("tensorrt")
def test_every_kernel_of_a_network_is_harvested_from_its_engine(tmp_path: Path) -> None:
    runtime = opened("tensorrt")
    assert isinstance(runtime, TensorRt)
    bundle = exported("mobilenet_v2")
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "network.onnx")
    harvested = runtime.harvest(tmp_path / "network.onnx", runtime.describe(name="here", batch=8, threads=1))
    wanted = {
        kernel for kernels in lower(Costs(coupled("mobilenet_v2")).op_graph, runtime) for kernel in kernels
    }
    assert wanted <= harvested.keys()
    assert all((run() or 0.0) > 0 for run in harvested.values())
