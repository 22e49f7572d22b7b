"""Networks in int8 run the kernels that lowering names, and stairs are where it puts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import pytest

from hwprofiles import OpSpec, lower, measure
from hwprofiles.errors import RequestError
from hwprofiles.runtimes import CALL, PLAIN
from hwprofiles.runtimes.onnx_cpu import optimised_graph
from hwprofiles.runtimes.onnx_cpu_int8 import OnnxRuntimeCpuInt8
from hwprofiles.runtimes.onnx_drawing import draw_plain, layer_model
from hwprofiles.runtimes.onnx_int8_lowering import INT8, OnnxInt8Lowering
from hwprofiles.runtimes.onnx_quantised import draw_int8, quantised
from tests.bundles import coupled, exported
from tests.contracts.runtime import IDENTITY, RuntimeContract, conv, pool, square
from trials.candidate import Candidate
from trials.costs import Costs
from trials.groups import even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune

K = TypeVar("K")

_RUNTIME = OnnxRuntimeCpuInt8()


class TestOnnxRuntimeCpuInt8(RuntimeContract):
    def make(self) -> OnnxRuntimeCpuInt8:
        return _RUNTIME


def ops_of(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in optimised_graph(model).node)


@cache
def ops_alone(kernel: OpSpec) -> Counter[str]:
    """What ONNX Runtime makes of a kernel that is drawn by itself."""
    if kernel == CALL:
        return Counter()
    if "int8" in kernel.kind or "quantize" in kernel.kind:
        return ops_of(quantised(draw_int8(kernel, 2).model()))
    return ops_of(draw_plain(kernel, 2).model())


def written_pruned(name: str, path: Path) -> list[OpSpec]:
    """Write a random candidate of a model; returns the kernels that lowering names for it."""
    coupling = coupled(name)
    space = coupling.space(lowest_keep=0.2)
    wanted = np.random.default_rng(0).uniform(0.3, 1, (1, len(space.axes))) * space.sizes
    candidate = Candidate(tuple(space.round(wanted)[0].tolist()))
    write_onnx(*prune(coupling, exported(name).tensors, even_kept(coupling, candidate)), path)
    lowered = lower(Costs(coupling).candidate_graph(candidate), _RUNTIME)
    return [kernel for kernels in lowered for kernel in kernels]


IMAGES = ["resnet_pad", "resnet_projection", "mobilenet_v2", "densenet", "vgg_flatten", "unet"]
MOVES = {"Concat", "Expand", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze"}
BOUNDARIES = {"QuantizeLinear", "DequantizeLinear"}
LOOSE = {"Transpose", "Relu"}


@pytest.mark.parametrize("name", [*IMAGES, "vit", "bert"])
def test_a_pruned_network_runs_what_the_kernels_run_that_lowering_names(name: str, tmp_path: Path) -> None:
    kernels = written_pruned(name, tmp_path / "n.onnx")
    runs = ops_of(quantised(onnx.load(tmp_path / "n.onnx")))
    named = sum((ops_alone(kernel) for kernel in kernels), Counter[str]())
    # With tokens, ONNX Runtime quantises what it looks up more often, and what it cuts less often.
    aside = MOVES | LOOSE | (set() if name in IMAGES else BOUNDARIES)
    assert {op: runs[op] for op in {*runs} - aside} == {op: named[op] for op in {*named} - aside}
    if (
        name in IMAGES
    ):  # the last, small map may be moved once more or less, and clipped for what reads floats
        assert all(abs(runs[op] - named[op]) <= 1 for op in LOOSE)


@pytest.mark.parametrize(
    ("spec", "ops"),
    [
        (conv(16, 20, fused=("batch_norm", "relu")), ["QLinearConv"]),
        (conv(16, 16, fused=("batch_norm", "add", "relu")), ["QLinearConv", "QLinearAdd"]),
        (conv(15, 17, fused=("batch_norm", "silu")), ["QLinearConv", "QLinearSigmoid", "QLinearMul"]),
        (conv(7, 5, fused=("batch_norm", "hardtanh")), ["QLinearConv"]),
        (conv(20, 20, groups=0), ["QLinearConv"]),
        (conv(32, 32, groups=2), ["QLinearConv"]),
        (pool("max_pool2d", 20, 3), ["NhwcMaxPool"]),
        (pool("avg_pool2d", 20, 3), ["QLinearAveragePool"]),
        (OpSpec(kind="linear", in_channels=9, out_channels=5, in_size=(1,)), ["QGemm"]),
        (OpSpec(kind="linear", in_channels=9, out_channels=5, in_size=(7,)), ["QLinearMatMul", "QLinearAdd"]),
        (square("softmax", 4, size=(5, 5)), ["QLinearSoftmax"]),
        (square("elementwise", 20, fused=("gelu",)), ["DequantizeLinear", "Gelu", "QuantizeLinear"]),
        (square("copy", 20, fused=("cat",), size=(6, 6)), ["QLinearConcat"]),
    ],
    ids=str,
)
def test_an_operator_between_quantised_tensors_is_this_and_nothing_else(spec: OpSpec, ops: list[str]) -> None:
    kernels = _RUNTIME.lower(spec, INT8).kernels
    assert sum((ops_alone(kernel) for kernel in kernels), Counter[str]()) == Counter(ops)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "padded"),
    [
        (16, 12, "conv2d_int8_narrow0", 16),
        (15, 3, "conv2d_int8_narrow3", 16),
        (16, 16, "conv2d_int8_direct", 16),
        (4, 20, "conv2d_int8_direct", 32),
        (3, 20, "conv2d_int8_left0", 32),
        (16, 33, "conv2d_int8_left1", 48),
        (16, 62, "conv2d_int8_left2", 64),
        (15, 63, "conv2d_int8_left3", 64),
    ],
)
def test_channels_choose_a_convolutions_kernel(inputs: int, outputs: int, kernel: str, padded: int) -> None:
    (found,) = OnnxInt8Lowering(16).lower(conv(inputs, outputs), PLAIN).kernels
    assert (found.kind, found.in_channels, found.out_channels) == (kernel, inputs, padded)


@pytest.mark.parametrize(
    ("block", "inputs", "outputs", "drawn"),
    [
        (16, 16, 3, 15),
        (16, 16, 8, 12),
        (16, 16, 16, 16),
        (16, 15, 20, 32),
        (16, 16, 33, 45),
        (16, 16, 62, 62),
        (16, 15, 49, 61),
        (8, 16, 20, 28),
        (8, 16, 24, 32),
        (8, 15, 24, 32),
        (8, 16, 17, 29),
        (8, 16, 4, 12),
    ],
)
def test_a_padded_convolution_is_drawn_as_wide_as_its_kernel_goes(
    block: int, inputs: int, outputs: int, drawn: int
) -> None:
    rules = OnnxInt8Lowering(block)
    (kernel,) = rules.lower(conv(inputs, outputs), PLAIN).kernels
    tensors = draw_int8(kernel, 1).model().graph.initializer
    assert [tensor.dims[0] for tensor in tensors if len(tensor.dims) == 4] == [drawn]
    assert rules.lower(conv(inputs, drawn), PLAIN).kernels == (kernel,)


def test_with_avx2_direct_convolutions_write_eights_and_elsewhere_there_are_none() -> None:
    kinds = {
        (block, outputs): OnnxInt8Lowering(block).lower(conv(16, outputs), PLAIN).kernels[0].kind
        for block in (16, 8, 1)
        for outputs in (20, 24)
    }
    direct = {key for key, kind in kinds.items() if kind == "conv2d_int8_direct"}
    assert direct == {(16, 20), (16, 24), (8, 24)}


def test_a_network_that_cannot_be_quantised_is_refused_by_its_file(tmp_path: Path) -> None:
    model = layer_model(conv(4, 4), 1)
    model.graph.node[0].input[1] = "nowhere"
    onnx.save(model, tmp_path / "network.onnx")
    device = _RUNTIME.describe(name="here", batch=1, threads=1)
    with pytest.raises(RequestError, match=r"quantise .*network\.onnx"):
        _RUNTIME.prepare_network(tmp_path / "network.onnx", IDENTITY, device)


def latencies_ms(specs: Mapping[K, OpSpec]) -> dict[K, float]:
    """Of single operators with exactly the channels that they have, unlike those of their kernels."""
    device = _RUNTIME.describe(name="here", batch=1, threads=1)
    exact = {name: replace(spec, kind=f"{spec.kind}_int8") for name, spec in specs.items()}
    runs = {name: _RUNTIME.prepare_kernel(spec, device) for name, spec in exact.items()}
    measured = measure(runs, passes=3, rounds=30, seed=0)
    return {name: rounds.summary().latency_ms for name, rounds in measured.items()}


def wide(inputs: int, outputs: int, *, groups: int = 1) -> OpSpec:
    return replace(conv(inputs, outputs, groups=groups), in_size=(28, 28), out_size=(28, 28))


needs_avx512 = pytest.mark.skipif(
    _RUNTIME.block != 16, reason="its stairs and cliffs were measured with AVX-512 only"
)


@pytest.mark.slow
@needs_avx512
def test_a_convolution_costs_as_much_as_the_next_block_of_outputs_and_a_ragged_one_more() -> None:
    channels = [(64, 48), (64, 52), (64, 60), (64, 63), (64, 64), (63, 64)]
    ms = latencies_ms({each: wide(*each) for each in channels})
    assert ms[64, 52] == pytest.approx(ms[64, 64], rel=0.05) == ms[64, 60]
    assert ms[64, 52] > 1.15 * ms[64, 48]
    assert ms[64, 63] > 1.1 * ms[64, 64]
    assert ms[63, 64] > 1.1 * ms[64, 64]


@pytest.mark.slow
@needs_avx512
def test_a_depthwise_convolution_pays_for_each_channel_that_is_left_over() -> None:
    ms = latencies_ms({count: wide(count, count, groups=0) for count in (104, 105, 107, 111, 112)})
    assert ms[112] < 0.8 * ms[104]
    each_ms = (ms[111] - ms[105]) / 6
    assert 3 * each_ms > 0.05 * ms[104]
    assert ms[107] == pytest.approx(ms[105] + 2 * each_ms, rel=0.05)


@pytest.mark.slow
def test_a_linear_layer_costs_as_much_as_the_next_sixteen_of_outputs() -> None:
    layers = {
        count: OpSpec(kind="linear", in_channels=192, out_channels=count, in_size=(196,))
        for count in (160, 164, 168, 176, 180)
    }
    ms = latencies_ms(layers)
    assert ms[164] == pytest.approx(ms[176], rel=0.05) == ms[168]
    assert ms[164] > 1.06 * ms[160]
    assert ms[180] > 1.03 * ms[176]
