"""What the GPU runtimes share: steps found in measured stairs, networks in half precision, ways to a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles import measure, open_runtime
from hwprofiles.errors import RequestError
from hwprofiles.runtimes import PLAIN
from hwprofiles.runtimes.cuda import open_cuda
from hwprofiles.runtimes.gpu import OWN_STEP, STEPS, GpuLowering, stair_step, to_half
from hwprofiles.runtimes.onnx_inputs import network_inputs
from hwprofiles.runtimes.synthetic import TILE, Synthetic
from tests.bundles import exported
from tests.contracts.runtime import conv
from trials.onnx_file import write_onnx


@given(st.sampled_from([*STEPS, 1]), st.floats(0.01, 10), st.integers(0, 2**32 - 1))
def test_the_step_of_a_noisy_staircase_is_found(step: int, rise: float, seed: int) -> None:
    noise = np.random.default_rng(seed).uniform(0.995, 1.005, 512)
    counts = range(1, 129)
    stairs = {count: (rise * -(-count // step)) * noise[count] for count in counts}
    assert stair_step(stairs, tolerance=0.005) == step


def test_the_stairs_of_the_made_up_accelerator_are_found_by_measuring_it() -> None:
    runtime = Synthetic("fp32")
    device = runtime.describe(name="here", batch=8, threads=1)
    runs = {}
    for count in range(1, 129):
        [kernel] = runtime.lower(conv(64, count), PLAIN).kernels
        runs[count] = runtime.prepare_kernel(kernel, device)
    measured = measure(runs, passes=1, rounds=12, seed=0)
    assert stair_step({count: rounds.summary().latency_ms for count, rounds in measured.items()}) == TILE


def test_a_flat_curve_has_no_stairs_to_find() -> None:
    with pytest.raises(ValueError, match=r"128 channels take 1 ms .*larger operator"):
        stair_step(dict.fromkeys(range(1, 129), 1.0))


@pytest.mark.parametrize(("precision", "step"), [("fp32", 4), ("tf32", 4), ("fp16", 8)])
def test_layers_are_filled_up_to_sixteen_bytes_and_grouped_ones_are_not(precision: str, step: int) -> None:
    lowering = GpuLowering("tensorrt", OWN_STEP[precision])
    [kernel] = lowering.lower(conv(3, 21, fused=("batch_norm", "relu")), PLAIN).kernels
    assert (kernel.in_channels, kernel.out_channels, kernel.fused) == (step, 24, ("relu",))
    assert lowering.lower(conv(12, 12, groups=3), PLAIN).kernels == (conv(12, 12, groups=3),)


@pytest.mark.parametrize("name", ["mobilenet_v2", "unet", "vit"])
def test_a_network_in_half_precision_computes_nearly_the_same(name: str, tmp_path: Path) -> None:
    bundle = exported(name)
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "network.onnx")
    model = onnx.load(tmp_path / "network.onnx")
    half = to_half(model)
    feeds = network_inputs(half, name, batch=2)
    assert all(values.dtype == np.float16 for values in feeds.values())
    single = {tensor.name for tensor in half.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert single == {node.input[2] for node in half.graph.node if node.op_type == "Resize"}
    [exact] = run(model, {put: values.astype(np.float32) for put, values in feeds.items()})
    [close] = run(half, feeds)
    assert close.dtype == np.float16
    np.testing.assert_allclose(close.astype(np.float32), exact, atol=0.02 * np.abs(exact).max())


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_a_runtime_whose_package_is_missing_names_it() -> None:
    with pytest.raises(RequestError, match="cannot be used here: package tensorrt cannot be imported"):
        open_runtime("tensorrt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_told_what_is_missing_of_each_way() -> None:
    with pytest.raises(RequestError, match=r"cuda\.core: .*pycuda\.driver: "):
        open_cuda()
