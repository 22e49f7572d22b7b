"""The kernels that `canon` names are those in ONNX Runtime's own optimised graphs, and stairs are real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprofiles import OpSpec, measure
from hwprofiles.runtimes.onnx_cpu import _POINTWISE, OnnxRuntimeCpu, optimised_graph
from tests.contracts.runtime import RuntimeContract, conv, pool, square

_RUNTIME = OnnxRuntimeCpu()


class TestOnnxRuntimeCpu(RuntimeContract):
    def make(self) -> OnnxRuntimeCpu:
        return _RUNTIME


def network(*specs: OpSpec, size: int = 6) -> onnx.ModelProto:
    """The operators in a row, as an exporter writes them."""
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for number, spec in enumerate(specs):
        window = {"kernel_shape": spec.kernel, "strides": spec.stride, "pads": spec.padding}
        if "pool" in spec.kind:
            nodes.append(helper.make_node("MaxPool", [value], [f"y{number}"], **window))
        else:
            groups = spec.groups or spec.in_channels
            shape = (spec.out_channels, spec.in_channels // groups, *spec.kernel)
            filters = random.standard_normal(shape, dtype=np.float32) / 10
            weights.append(numpy_helper.from_array(filters, f"w{number}"))
            nodes.append(
                helper.make_node("Conv", [value, f"w{number}"], [f"y{number}"], group=groups, **window)
            )
        value = f"y{number}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", specs[0].in_channels, size, size])
    y = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "network", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("inputs", [1, 3, 8, 15, 16, 17, 18, 20, 36, 63, 64])
@pytest.mark.parametrize("outputs", [1, 5, 16, 20, 33, 48])
def test_a_convolution_becomes_the_kernel_and_the_channels_that_canon_names(
    inputs: int, outputs: int
) -> None:
    graph = optimised_graph(network(conv(inputs, outputs)))
    (node,) = (node for node in graph.node if node.op_type == "Conv")
    filters = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}[node.input[1]]
    lowered = _RUNTIME.canon(conv(inputs, outputs))
    assert (lowered.out_channels, lowered.in_channels) == filters[:2]
    assert lowered.kind.endswith("nchwc") == (node.domain != "" and node.input[0] != "x")
    assert lowered.kind.endswith("conv2d_nchw") == (node.domain == "")


@pytest.mark.parametrize("channels", [3, 8, 12, 17, 20, 22, 32])
def test_a_depthwise_convolution_is_padded_where_canon_says(channels: int) -> None:
    graph = optimised_graph(network(conv(channels, channels, groups=0)))
    (node,) = (node for node in graph.node if node.op_type == "Conv")
    (filters,) = (tensor.dims for tensor in graph.initializer)
    lowered = _RUNTIME.canon(conv(channels, channels, groups=0))
    assert filters[0] == lowered.out_channels
    assert lowered.kind.endswith("nchw") == (node.domain == "")


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(32, 32, 2), (16, 32, 2), (32, 64, 2), (24, 48, 3)]
)
def test_a_grouped_convolution_is_blocked_where_canon_says(inputs: int, outputs: int, groups: int) -> None:
    spec = conv(inputs, outputs, groups=groups)
    (node,) = (node for node in optimised_graph(network(spec)).node if node.op_type == "Conv")
    assert _RUNTIME.canon(spec).kind.endswith("nchw") == (node.domain == "")


@pytest.mark.parametrize("channels", [8, 16, 20, 32])
def test_a_pool_is_blocked_where_canon_says(channels: int) -> None:
    spec = pool("max_pool2d", channels, 3)
    (node,) = (node for node in optimised_graph(network(spec)).node if node.op_type == "MaxPool")
    assert _RUNTIME.canon(spec).kind.endswith("nchw") == (node.domain == "")


@pytest.mark.parametrize("name", [*_POINTWISE, "silu", "relu6", "hardtanh", "clamp", "where"])
def test_every_function_of_one_element_runs_alone_and_behind_a_layer(name: str) -> None:
    device = _RUNTIME.describe(name="here", batch=2, threads=1)
    _RUNTIME.prepare_operator(square("elementwise", 5, fused=(name,)), device)()
    _RUNTIME.prepare_operator(conv(4, 5, fused=("batch_norm", "add", name)), device)()
    _RUNTIME.prepare_operator(
        OpSpec(kind="linear", in_channels=4, out_channels=5, in_size=(3,), fused=(name,)), device
    )()


def test_attention_is_made_of_whole_heads() -> None:
    spec = OpSpec(kind="attention", in_channels=33, out_channels=33, kernel=(16,), in_size=(5, 7))
    assert _RUNTIME.canon(spec) == spec.with_channels(48, 48)


def test_batch_norm_is_no_part_of_a_kernel_and_a_sum_is() -> None:
    plain = _RUNTIME.canon(conv(32, 32, fused=("relu",)))
    assert _RUNTIME.canon(conv(32, 32, fused=("batch_norm", "relu"))) == plain
    assert _RUNTIME.canon(conv(32, 32, fused=("batch_norm", "add", "relu"))) != plain


@pytest.mark.slow
def test_measured_stairs_are_where_the_padding_puts_them(tmp_path: Path) -> None:
    device = _RUNTIME.describe(name="here", batch=1, threads=1)
    block = device.channel_step
    if block == 1:
        pytest.skip("this CPU's layouts are not blocked")
    inner = {
        "edge": 4 * block,
        "below the edge": 4 * block - 4,
        "next stair": 4 * block + 4,
        "ragged": 4 * block - 1,
    }
    runs = {}
    for name, width in inner.items():
        onnx.save(network(conv(64, width), conv(width, 64), size=28), tmp_path / f"{name}.onnx")
        runs[name] = _RUNTIME.prepare_network(tmp_path / f"{name}.onnx", device)
    measured = measure(runs, passes=3, rounds=30, seed=0)
    ms = {name: rounds.summary().latency_ms for name, rounds in measured.items()}
    assert ms["below the edge"] == pytest.approx(ms["edge"], rel=0.07)
    assert ms["next stair"] > 1.1 * ms["edge"]
    assert ms["ragged"] > 1.1 * ms["edge"]
