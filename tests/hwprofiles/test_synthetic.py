"""The made-up accelerator: its stairs, its cliff, and tables that find them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles import MeasuredNetwork, OpGraph, OpSpec, Profile, lower, measure, open_runtime
from hwprofiles.runtimes import CALL, PLAIN
from hwprofiles.runtimes.synthetic import (
    ALIGNED,
    BYTES_PER_MS,
    CALL_MS,
    LAUNCH_MS,
    MACS_PER_MS,
    NOISE,
    SCALAR,
    TILE,
    Synthetic,
)
from latency_models import LatencyTable, plan
from tests.contracts.runtime import RuntimeContract, conv, in_a_row, save_identity, square

_RUNTIME = Synthetic("fp32")


class TestSynthetic(RuntimeContract):
    def make(self) -> Synthetic:
        return _RUNTIME


def ms_of(spec: OpSpec, batch: int = 1) -> float:
    return sum(_RUNTIME.kernel_ms(kernel, batch) for kernel in _RUNTIME.lower(spec, PLAIN).kernels)


@given(st.integers(1, 8), st.integers(1, TILE), st.integers(1, 8))
def test_all_counts_of_a_tile_take_what_the_whole_tile_takes(tiles: int, beyond: int, batch: int) -> None:
    edge = (tiles + 1) * TILE
    assert ms_of(conv(64, tiles * TILE + beyond), batch) == ms_of(conv(64, edge), batch)
    assert ms_of(conv(64, edge + 1), batch) > ms_of(conv(64, edge), batch)


def test_input_channels_off_the_alignment_fall_off_the_cliff() -> None:
    on, off = 256 - ALIGNED, 256 - ALIGNED + 1
    assert ms_of(conv(off, 256)) > 3 * ms_of(conv(on, 256))
    assert ms_of(conv(off, 256)) - LAUNCH_MS == pytest.approx(conv(off, 256).macs * SCALAR / MACS_PER_MS)


def test_a_wide_convolution_is_bound_by_compute_and_a_sum_by_memory() -> None:
    assert ms_of(conv(256, 256)) == pytest.approx(LAUNCH_MS + conv(256, 256).macs / MACS_PER_MS)
    added = square("elementwise", 64, fused=("add",), size=(56, 56))
    assert ms_of(added) == pytest.approx(LAUNCH_MS + 3 * 64 * 56 * 56 * 4 / BYTES_PER_MS)


def test_half_the_bytes_take_half_the_time_beyond_the_launch() -> None:
    half = Synthetic("fp16")
    for spec in (conv(256, 256), square("softmax", 64, size=(56, 56))):
        assert half.kernel_ms(spec, 1) - LAUNCH_MS == pytest.approx((ms_of(spec) - LAUNCH_MS) / 2)


def test_a_network_takes_a_call_and_its_kernels_off_by_the_noise_alone(tmp_path: Path) -> None:
    save_identity(tmp_path / "n.onnx", ["batch", 3])
    layers = [conv(3, 40, fused=("batch_norm", "relu")), conv(40, 50), square("softmax", 50, size=(6, 6))]
    device = _RUNTIME.describe(name="here", batch=2, threads=1)
    run = _RUNTIME.prepare_network(tmp_path / "n.onnx", in_a_row(layers), device)
    exact_ms = CALL_MS + sum(ms_of(layer, batch=2) for layer in layers)
    times_ms = np.array([run() for _ in range(400)])
    assert times_ms.mean() == pytest.approx(exact_ms, rel=4 * NOISE / 20)
    assert times_ms.std() == pytest.approx(NOISE * exact_ms, rel=0.2)


def test_it_says_that_it_is_modelled_and_repeats_itself() -> None:
    device = open_runtime("synthetic").describe(name="mine", batch=1, threads=1)
    assert device.board == "synthetic (modelled)"
    assert device.modelled
    assert not open_runtime("onnxruntime").describe(name="mine", batch=1, threads=1).modelled
    runs = [_RUNTIME.prepare_kernel(conv(3, 8), device) for _ in range(2)]
    assert [runs[0]() for _ in range(5)] == [runs[1]() for _ in range(5)]


def residual(first: int, second: int) -> OpGraph:
    """Two convolutions about a sum, and an odd count of channels where `first` is odd."""
    layers = (
        conv(3, first, fused=("batch_norm", "relu")),
        conv(first, second, fused=("batch_norm",)),
        conv(second, first, fused=("batch_norm", "add", "relu")),
        square("mean2d", first, size=(6, 6)),
    )
    return OpGraph(operators=layers, sources=((-1,), (0,), (1, 0), (2,)), outputs=(3,))


def test_a_table_of_it_predicts_every_candidate_to_a_few_percent() -> None:
    device = _RUNTIME.describe(name="here", batch=1, threads=1)
    kernels = [CALL, *plan(residual(64, 96), residual(8, 8), _RUNTIME)]
    measured = measure(
        {kernel: _RUNTIME.prepare_kernel(kernel, device) for kernel in kernels}, passes=2, rounds=8, seed=0
    )
    rng = np.random.default_rng(0)
    graphs = [residual(*pair) for pair in rng.integers(8, [65, 97], (30, 2)).tolist()]
    exact_ms = [
        CALL_MS + sum(_RUNTIME.kernel_ms(k, 1) for way in lower(g, _RUNTIME) for k in way) for g in graphs
    ]
    runs = {i: (lambda ms=ms: ms) for i, ms in enumerate(exact_ms)}
    rounds = measure(runs, passes=1, rounds=1, seed=0)
    networks = tuple(
        MeasuredNetwork(name=str(i), graph=graph, rounds=rounds[i]) for i, graph in enumerate(graphs[:10])
    )
    profile = Profile(device=device, kernels=measured, networks=networks, created=datetime.now(UTC))
    table = LatencyTable.from_profile(profile)
    held_out = graphs[10:]
    ins = np.array([[op.in_channels for op in graph.operators] for graph in held_out])
    outs = np.array([[op.out_channels for op in graph.operators] for graph in held_out])
    predicted_ms = table.predict(held_out[0], ins, outs).latency_ms
    assert predicted_ms == pytest.approx(np.array(exact_ms[10:]), rel=0.04)
