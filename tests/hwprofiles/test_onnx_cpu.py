"""The kernels that lowering names are those in ONNX Runtime's own optimised graphs, and stairs are real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprofiles import OpSpec, lower, measure
from hwprofiles.runtimes import PLAIN
from hwprofiles.runtimes.onnx_cpu import OnnxRuntimeCpu, optimised_graph
from hwprofiles.runtimes.onnx_drawing import POINTWISE
from tests.bundles import coupled, exported
from tests.contracts.runtime import RuntimeContract, conv, in_a_row, resized, square, transposed
from trials.candidate import Candidate
from trials.costs import Costs
from trials.groups import even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune

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


def kernel_of(spec: OpSpec, layout: str = PLAIN) -> OpSpec:
    (kernel,) = _RUNTIME.lower(spec, layout).kernels
    return kernel


@pytest.mark.parametrize("inputs", [1, 3, 8, 15, 16, 17, 18, 20, 36, 63, 64])
@pytest.mark.parametrize("outputs", [1, 5, 16, 20, 33, 48])
def test_a_convolution_becomes_the_kernel_and_the_channels_that_lowering_names(
    inputs: int, outputs: int
) -> None:
    graph = optimised_graph(network(conv(inputs, outputs)))
    (node,) = (node for node in graph.node if node.op_type == "Conv")
    filters = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}[node.input[1]]
    kernel = kernel_of(conv(inputs, outputs))
    assert (kernel.out_channels, kernel.in_channels) == filters[:2]
    assert kernel.kind.endswith("nchwc") == (node.domain != "" and node.input[0] != "x")
    assert kernel.kind.endswith("conv2d_nchw") == (node.domain == "")


@pytest.mark.parametrize("channels", [3, 8, 12, 17, 20, 22, 32])
def test_a_depthwise_convolution_is_padded_where_lowering_says(channels: int) -> None:
    graph = optimised_graph(network(conv(channels, channels, groups=0)))
    (node,) = (node for node in graph.node if node.op_type == "Conv")
    (filters,) = (tensor.dims for tensor in graph.initializer)
    kernel = kernel_of(conv(channels, channels, groups=0))
    assert filters[0] == kernel.out_channels
    assert kernel.kind.endswith("nchw") == (node.domain == "")


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(32, 32, 2), (16, 32, 2), (32, 64, 2), (24, 48, 3)]
)
def test_a_grouped_convolution_is_blocked_where_lowering_says(inputs: int, outputs: int, groups: int) -> None:
    spec = conv(inputs, outputs, groups=groups)
    (node,) = (node for node in optimised_graph(network(spec)).node if node.op_type == "Conv")
    assert kernel_of(spec).kind.endswith("nchw") == (node.domain == "")


WINDOWS = {"Conv": "conv2d", "FusedConv": "conv2d", "ConvTranspose": "conv_transpose2d"}
WINDOWS |= {"MaxPool": "max_pool2d", "AveragePool": "avg_pool2d"}
WINDOWS |= {"Resize": "resize2d", "Upsample": "resize2d"}


def kernels_run(onnx_path: Path) -> Counter[str]:
    """Windows, resizes and reorders in the graph that ONNX Runtime makes of a network."""
    found: Counter[str] = Counter()
    for node in optimised_graph(onnx.load(onnx_path)).node:
        if node.op_type in WINDOWS:
            blocked = " blocked" if node.domain.endswith("nchwc") else ""
            found[WINDOWS[node.op_type] + blocked] += 1
        elif node.op_type.startswith("Reorder"):
            found[node.op_type] += 1
    return found


def kernels_named(kernels: Iterable[OpSpec]) -> Counter[str]:
    """The same of what lowering names."""
    found: Counter[str] = Counter()
    for kernel in kernels:
        if kernel.kind.startswith("reorder"):
            found["ReorderInput" if kernel.kind == "reorder_input" else "ReorderOutput"] += 1
        for kind in {*WINDOWS.values()}:
            if kind in kernel.kind:
                found[kind + (" blocked" if kernel.kind.endswith(("_nchwc", "_from_nchw")) else "")] += 1
    return found


@pytest.mark.parametrize("step", [16, 4, 1])
@pytest.mark.parametrize(
    "name", ["resnet_pad", "resnet_projection", "mobilenet_v2", "densenet", "vgg_flatten", "unet", "vit"]
)
def test_a_pruned_network_runs_the_kernels_and_the_reorders_that_lowering_names(
    name: str, step: int, tmp_path: Path
) -> None:
    coupling = coupled(name)
    space = coupling.space(step=step, lowest_keep=0.2)
    wanted = np.random.default_rng(step).uniform(0.3, 1, (1, len(space.axes))) * space.sizes
    candidate = Candidate(tuple(space.round(wanted)[0].tolist()))
    write_onnx(*prune(coupling, exported(name).tensors, even_kept(coupling, candidate)), tmp_path / "n.onnx")
    lowered = lower(Costs(coupling).candidate_graph(candidate), _RUNTIME)
    named = kernels_named(kernel for kernels in lowered for kernel in kernels)
    assert named == kernels_run(tmp_path / "n.onnx")


@pytest.mark.parametrize("name", [*POINTWISE, "silu", "relu6", "hardtanh", "clamp", "where"])
def test_every_function_of_one_element_runs_alone_and_behind_a_layer(name: str) -> None:
    device = _RUNTIME.describe(name="here", batch=2, threads=1)
    specs = (
        square("elementwise", 5, fused=(name,)),
        conv(4, 5, fused=("batch_norm", "add", name)),
        conv(32, 5, fused=("batch_norm", "add", name)),
        OpSpec(kind="linear", in_channels=4, out_channels=5, in_size=(3,), fused=(name,)),
    )
    for spec in specs:
        for kernel in _RUNTIME.lower(spec, _RUNTIME.layouts[-1]).kernels:
            _RUNTIME.prepare_kernel(kernel, device)()


@pytest.mark.parametrize("layout", [_RUNTIME.layouts[0], _RUNTIME.layouts[-1]])
def test_a_tensor_is_reordered_either_way(layout: str) -> None:
    device = _RUNTIME.describe(name="here", batch=2, threads=1)
    _RUNTIME.prepare_kernel(_RUNTIME.reorder(20, (6, 6), layout), device)()


def test_batch_norm_is_no_part_of_a_kernel_and_a_sum_is() -> None:
    blocked = _RUNTIME.layouts[-1]
    plain = kernel_of(conv(32, 32, fused=("relu",)))
    assert kernel_of(conv(32, 32, fused=("batch_norm", "relu"))) == plain
    assert kernel_of(conv(32, 32, fused=("batch_norm", "add", "relu")), blocked).fused == ("add", "relu")


def test_a_sum_with_what_lies_plain_is_done_in_plain_memory_behind_the_convolution() -> None:
    lowered = _RUNTIME.lower(conv(32, 32, fused=("batch_norm", "add", "relu")), PLAIN)
    assert [kernel.kind for kernel in lowered.kernels] == [
        "conv2d_nchwc", "reorder_output", "elementwise", "elementwise",
    ]  # fmt: skip
    assert (lowered.joins, lowered.writes) == (PLAIN, PLAIN)


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
        layers = in_a_row([conv(64, width), conv(width, 64)])
        runs[name] = _RUNTIME.prepare_network(tmp_path / f"{name}.onnx", layers, device)
    measured = measure(runs, passes=3, rounds=30, seed=0)
    ms = {name: rounds.summary().latency_ms for name, rounds in measured.items()}
    assert ms["below the edge"] == pytest.approx(ms["edge"], rel=0.07)
    assert ms["next stair"] > 1.1 * ms["edge"]
    assert ms["ragged"] > 1.1 * ms["edge"]


@pytest.mark.slow
def test_a_linear_layer_costs_as_much_as_the_next_sixteen_of_outputs() -> None:
    device = _RUNTIME.describe(name="here", batch=1, threads=1)
    layers = {count: OpSpec(kind="linear", in_channels=192, out_channels=count, in_size=(196,))
              for count in (160, 162, 174, 176, 178)}  # fmt: skip
    assert {kernel_of(layer).out_channels for layer in layers.values()} == {160, 176, 192}
    measured = measure(
        {count: _RUNTIME.prepare_kernel(layer, device) for count, layer in layers.items()},
        passes=3, rounds=30, seed=0,
    )  # fmt: skip
    ms = {count: rounds.summary().latency_ms for count, rounds in measured.items()}
    assert ms[162] == pytest.approx(ms[176], rel=0.03) == ms[174]
    assert ms[162] > 1.04 * ms[160]
    assert ms[178] > 1.04 * ms[176]


def latencies_ms(kernels: Mapping[int, OpSpec]) -> dict[int, float]:
    device = _RUNTIME.describe(name="here", batch=1, threads=1)
    runs = {count: _RUNTIME.prepare_kernel(kernel, device) for count, kernel in kernels.items()}
    measured = measure(runs, passes=3, rounds=30, seed=0)
    return {count: rounds.summary().latency_ms for count, rounds in measured.items()}


def doubled(spec: OpSpec) -> OpSpec:
    """The same of maps that are large enough to time."""
    return replace(spec, in_size=(20, 20), out_size=(40, 40))


@pytest.mark.slow
@pytest.mark.parametrize(
    "of_width",
    [
        lambda width: transposed(width, 64),
        lambda width: transposed(64, width),
        lambda width: resized("bilinear", width),
    ],
    ids=["transposed, read", "transposed, written", "resized"],
)
def test_what_enlarges_plain_maps_takes_longer_with_each_channel_and_has_no_cliffs(
    of_width: Callable[[int], OpSpec],
) -> None:
    layers = {width: doubled(of_width(width)) for width in (48, 49, 52, 56, 60, 63, 64)}
    assert {width: kernel_of(layer) for width, layer in layers.items()} == layers
    ms = latencies_ms(layers)
    assert ms[64] > 1.15 * ms[48]
    for width, found_ms in ms.items():
        assert found_ms == pytest.approx(ms[48] + (width - 48) / 16 * (ms[64] - ms[48]), rel=0.04)
