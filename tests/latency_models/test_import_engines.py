"""Engines that trtexec described and timed: small ones, written here the way it writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwprofiles import Device, OpGraph, OpSpec, lower, lowering_of
from hwprofiles.errors import NotMeasuredError, ProfileError, RequestError
from hwprofiles.runtimes.tensorrt_layers import read_layers
from hwprofiles.runtimes.tensorrt_operators import operators_of
from latency_models import LatencyTable
from latency_models.imports import Imported, import_profile
from tests.bundles import export_images
from tests.contracts.runtime import conv, transposed
from tests.latency_models.conftest import Write
from tests.latency_models.test_imports import DEVICE, GPU, times
from trials.candidate import Candidate
from trials.costs import Costs
from trials.groups import analyse


def put(name: str, *dimensions: int, layout: str = "Row major linear FP32") -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": list(dimensions), "Format/Datatype": layout}


def convolution(
    name: str, reads: list[Any], writes: Any, activation: str = "RELU", **more: Any
) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": reads,
        "Outputs": [writes],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "PrePadding": [1, 1],
        "PostPadding": [1, 1],
        "Stride": [1, 1],
        "Dilation": [1, 1],
        "OutMaps": writes["Dimensions"][1],
        "Groups": 1,
        "Activation": activation,
        **more,
    }


# Milliseconds of the layers of `engine`, by the channels of trunk and block.
LAYERS_MS: dict[str, Callable[[int, int], float]] = {
    "Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1": lambda trunk, inner: 0.01,
    "Conv_0 + Relu_1": lambda trunk, inner: 0.02 * trunk,
    "Conv_2 + PWN(Clip_3)": lambda trunk, inner: 0.05 + 0.001 * trunk * inner,
    "Conv_4 + Add_5 + Relu_6": lambda trunk, inner: 0.02 * trunk + 0.03 * inner,
    "GlobalAveragePool_7": lambda trunk, inner: 0.005,
    "Gemm_9": lambda trunk, inner: 0.0005 * trunk,
    "Reformatting CopyNode for Output Tensor 0 to reshape_after_Gemm_9": lambda trunk, inner: 0.002,
}


def layers_ms(trunk: int, inner: int) -> float:
    return sum(ms(trunk, inner) for ms in LAYERS_MS.values())


def engine(trunk: int, inner: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Layers, profile and times of `Shrunk`, as TensorRT builds it in fp16: reformats at both ends."""
    blocked = "Channel major FP16 format where channel % 4 == 0"
    image, blocks = put("x", 1, 3, 6, 6), put("x'", 1, 3, 6, 6, layout=blocked)
    stem, narrow, block = (
        put(name, 1, width, 6, 6) for name, width in (("stem", trunk), ("narrow", inner), ("block", trunk))
    )
    pooled, head, flat = put("pooled", 1, trunk, 1, 1), put("head", 1, 10, 1, 1), put("flat", 1, 10)
    reformat = {"LayerType": "Reformat", "ParameterType": "Reformat", "Origin": "REFORMAT"}
    pool = {"ParameterType": "Pooling", "PoolingType": "AVERAGE", "WindowSize": [6, 6], "Stride": [1, 1]}
    pool |= {"LayerType": "CaskPooling", "PrePadding": [0, 0], "PostPadding": [0, 0]}
    vector = {"Kernel": [1, 1], "PrePadding": [0, 0], "PostPadding": [0, 0]}
    names = iter(LAYERS_MS)
    layers = [
        {"Name": next(names), "Inputs": [image], "Outputs": [blocks], **reformat},
        convolution(next(names), [blocks], stem),
        convolution(next(names), [stem], narrow, "CLIPPED_RELU"),
        convolution(next(names), [narrow, stem], block),
        {"Name": next(names), "Inputs": [block], "Outputs": [pooled], **pool},
        convolution(next(names), [pooled], head, "NONE", **vector),
        {"Name": "reshape_after_Gemm_9", "LayerType": "NoOp", "Inputs": [head], "Outputs": [flat]},
        {"Name": next(names), "Inputs": [flat], "Outputs": [put("y", 1, 10)], **reformat},
    ]
    rows = [
        {"name": name, "timeMs": 9 * ms(trunk, inner), "averageMs": 2.0, "medianMs": ms(trunk, inner)}
        for name, ms in LAYERS_MS.items()
    ]
    runs = [{"startComputeMs": 0.0, "computeMs": layers_ms(trunk, inner) * 1.1} for _ in range(3)]
    return layers, [{"count": 3}, *rows], runs


Edit = Callable[[Any, Any, Any], Any]


def write_engine(write: Write, trunk: int, inner: int, edit: Edit = lambda *parts: None) -> list[Path]:
    layers, profile, runs = engine(trunk, inner)
    edit(layers, profile, runs)
    parts = {"layers": {"Layers": layers, "Bindings": ["x", "y"]}, "profile": profile, "times": runs}
    return [write(f"{name}-{trunk}-{inner}.json", json.dumps(part)) for name, part in parts.items()]


def corners(write: Write) -> list[Path]:
    """The four engines between which all widths of `Shrunk` from 8 to 32 lie."""
    return [file for trunk, inner in product((8, 32), repeat=2) for file in write_engine(write, trunk, inner)]


class Shrunk(nn.Module):
    """A stem, and a block with a sum: channels of the trunk and inside of the block shrink on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU6())
        self.outer = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = F.relu(self.outer(self.inner(x)) + x)
        logits: torch.Tensor = self.head(F.avg_pool2d(x, 6).flatten(1))
        return logits


@cache
def shrunk() -> Costs:
    return Costs(analyse(export_images(Shrunk().eval(), 3, 6, 6).graph))


def candidate(trunk: int, inner: int) -> OpGraph:
    counts = {"stem.0": trunk, "inner.0": inner}
    return shrunk().candidate_graph(Candidate(tuple(counts[g.name] for g in shrunk().coupling.groups)))


def predicted_ms(found: Imported, trunk: int, inner: int) -> float:
    graph = candidate(trunk, inner)
    channels = np.array([(spec.in_channels, spec.out_channels) for spec in graph.operators]).T
    table = LatencyTable.from_profile(found.profile)
    return float(table.predict(graph, channels[:1], channels[1:]).latency_ms[0])


def test_engines_ask_for_the_kernels_that_their_model_asks_for(write: Write) -> None:
    found = import_profile(write_engine(write, 32, 16), "trtexec", GPU)
    wanted = lower(candidate(32, 16), lowering_of(found.profile.device))
    assert set(times(found)) == {kernel for kernels in wanted for kernel in kernels}
    assert found.left_out == ()


def test_the_kernels_of_an_engine_add_up_to_its_layers_reformats_included(write: Write) -> None:
    found = import_profile(write_engine(write, 32, 16), "trtexec", GPU)
    assert sum(times(found).values()) == pytest.approx(layers_ms(32, 16))
    stem = conv(4, 32, fused=("relu",))  # channels are filled up
    assert times(found)[stem] == pytest.approx(0.01 + 0.02 * 32)
    head = OpSpec(kind="linear", in_channels=32, out_channels=12, in_size=(1,))
    assert times(found)[head] == pytest.approx(0.0005 * 32 + 0.002)


def test_four_engines_predict_all_widths_between_them(write: Write) -> None:
    found = import_profile(corners(write), "trtexec", GPU)
    assert found.calibrated
    for trunk, inner in ((8, 32), (16, 24), (20, 12), (32, 32)):
        assert predicted_ms(found, trunk, inner) == pytest.approx(1.1 * layers_ms(trunk, inner))
    assert predicted_ms(found, 17, 22) == predicted_ms(found, 20, 24)  # the stair that both are filled up to


def test_engines_of_any_widths_are_met_exactly_and_nothing_is_guessed_beyond_them(write: Write) -> None:
    widths = [(8, 8), (32, 20), (12, 28), (20, 16)]
    files = [file for trunk, inner in widths for file in write_engine(write, trunk, inner)]
    found = import_profile(files, "trtexec", GPU)
    for trunk, inner in widths:
        assert predicted_ms(found, trunk, inner) == pytest.approx(1.1 * layers_ms(trunk, inner))
    assert predicted_ms(found, 20, 20) == pytest.approx(1.1 * layers_ms(20, 20), rel=0.1)
    with pytest.raises(NotMeasuredError, match=r"conv2d 3x3 32->32 .*outside what table 'orin' holds"):
        predicted_ms(found, 32, 32)


def test_engines_without_times_predict_the_sum_of_their_layers_and_no_error_bar(write: Write) -> None:
    files = [file for file in corners(write) if "times" not in file.name]
    found = import_profile(files, "trtexec", GPU)
    assert found.profile.networks == ()
    assert predicted_ms(found, 16, 24) == pytest.approx(layers_ms(16, 24))
    table = LatencyTable.from_profile(found.profile)
    assert table.calibration.coverage == 0


def test_a_kernel_that_several_layers_become_takes_what_they_take_on_average(write: Write) -> None:
    def edit(layers: Any, profile: Any, runs: Any) -> None:
        again = convolution("Conv_20 + Relu_21", [put("x'", 1, 3, 6, 6)], put("z", 1, 16, 6, 6))
        layers.append(again)
        profile.append({"name": "Conv_20 + Relu_21", "medianMs": 0.5})

    found = import_profile(write_engine(write, 16, 16, edit), "trtexec", GPU)
    assert times(found)[conv(4, 16, fused=("relu",))] == pytest.approx((0.5 + 0.01 + 0.02 * 16) / 2)


def pointwise(name: str, reads: list[Any], writes: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": "PointWiseV2", "Inputs": reads, "Outputs": [writes]}


@pytest.mark.parametrize(
    ("names", "kernels"),
    [
        (["PWN(PWN(/act/Sigmoid), PWN(/act/Mul))"], ["conv2d+silu"]),
        (["/act/Relu"], ["conv2d+relu"]),
        (["node_add_25", "node_relu_3"], ["conv2d+add+relu"]),
        (["PWN(/block/Add, PWN(/act/Relu))"], ["conv2d+add+relu"]),
        (["/act/Relu", "/block/Add"], ["conv2d+relu", "elementwise+add"]),
        (["/gate/Mul", "/act/Relu"], ["conv2d", "elementwise+mul", "elementwise+relu"]),
        (["PWN(/gate/Mul, PWN(/act/Relu))"], ["conv2d", "elementwise+mul", "elementwise+relu"]),
    ],
)
def test_what_follows_a_layer_in_kernels_of_its_own_is_part_of_it_as_in_a_model(
    names: list[str], kernels: list[str], write: Write
) -> None:
    """The block of a network whose activations the engine runs on their own; the first layer makes `x`."""
    x, y, *results = (put(name, 1, 8, 6, 6) for name in "xyabc")
    layers = [convolution("Conv_0", [x], y, "NONE")]
    for name, result in zip(names, results, strict=False):
        beside = [x] if re.search("[Aa]dd|gate", name) else []
        layers.append(pointwise(name, [layers[-1]["Outputs"][0], *beside], result))
    rows = [{"name": layer["Name"], "medianMs": 0.25} for layer in layers]
    files = [
        write("layers.json", json.dumps({"Layers": layers})),
        write("profile.json", json.dumps([{"count": 1}, *rows])),
    ]
    found = import_profile(files, "trtexec", GPU)
    assert [spec.kind + "".join(f"+{name}" for name in spec.fused) for spec in times(found)] == kernels
    assert sum(times(found).values()) == pytest.approx(0.25 * len(layers))


def test_an_activation_of_a_result_that_others_read_too_stands_alone(write: Write) -> None:
    x, y, a, b = (put(name, 1, 8, 6, 6) for name in "xyab")
    layers = [convolution("Conv_0", [x], y, "NONE"), pointwise("Relu_1", [y], a), pointwise("Tanh_2", [y], b)]
    rows = [{"name": layer["Name"], "medianMs": 0.25} for layer in layers]
    files = [
        write("layers.json", json.dumps({"Layers": layers})),
        write("profile.json", json.dumps([{"count": 1}, *rows])),
    ]
    found = import_profile(files, "trtexec", GPU)
    assert [spec.fused for spec in times(found)] == [(), ("relu",), ("tanh",)]


def test_nothing_is_part_of_a_layer_that_a_region_lies_between_or_reads_too(write: Write) -> None:
    x, *results = (put(name, 1, 8, 6, 6) for name in "xyabcd")
    first, region, behind, second, other = results
    layers = [
        convolution("Conv_0", [x], first, "NONE"),
        {"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin", "Inputs": [first], "Outputs": [region]},
        pointwise("Relu_1", [region], behind),
        convolution("Conv_2", [behind], second, "NONE"),
        pointwise("Relu_3", [second], other),
        {"Name": "{ForeignNode[c...d]}", "LayerType": "Myelin", "Inputs": [second], "Outputs": [put("z", 1)]},
    ]
    rows = [{"name": layer["Name"], "medianMs": 0.25} for layer in layers]
    files = [
        write("layers.json", json.dumps({"Layers": layers})),
        write("profile.json", json.dumps([{"count": 1}, *rows])),
    ]
    found = import_profile(files, "trtexec", GPU)
    assert {spec.kind: spec.fused for spec in times(found)} == {"conv2d": (), "elementwise": ("relu",)}
    assert len(found.left_out) == 2


@pytest.mark.parametrize("form", [[1, 16, 1, 1], [1, 16]])
def test_a_linear_layer_and_a_mean_that_only_their_nodes_name_are_told(form: list[int], write: Write) -> None:
    """As engines have them whose classifier is no convolution."""
    x, pooled, y = put("x", 1, 16, 6, 6), put("pooled", *form), put("y", 1, 10)
    mean = {"Metadata": "[ONNX Layer: /pool/GlobalAveragePool]", "LayerType": "kgen"}
    head = {"Metadata": "[ONNX Layer: /head/Gemm]", "LayerType": "gemm"}
    layers = [
        {"Name": "__myl_Mean_myl0_0", "Inputs": [x], "Outputs": [pooled], **mean},
        {"Name": "__myl_Fc_myl0_1", "Inputs": [pooled], "Outputs": [y], **head},
    ]
    rows = [{"name": layer["Name"], "averageMs": 0.25} for layer in layers]
    files = [
        write("layers.json", json.dumps({"Layers": layers})),
        write("profile.json", json.dumps([{"count": 1}, *rows])),
    ]
    told = times(import_profile(files, "trtexec", GPU))
    assert [(spec.kind, spec.in_channels, spec.out_channels) for spec in told] == [
        ("mean2d", 16, 16),
        ("linear", 16, 12),
    ]


def test_a_fused_region_is_left_out_by_name_and_its_engine_is_no_whole_network(write: Write) -> None:
    def edit(layers: Any, profile: Any, runs: Any) -> None:
        region = {"LayerType": "Myelin", "Inputs": [put("y", 1, 10)], "Outputs": [put("z", 1, 10)]}
        layers.append({"Name": "{ForeignNode[Softmax]}", **region})
        profile.append({"name": "{ForeignNode[Softmax]}", "averageMs": 0.5})

    found = import_profile(write_engine(write, 16, 16, edit), "trtexec", GPU)
    assert found.profile.networks == ()
    assert [text.partition(", ")[2] for text in found.left_out] == [
        "layer '{ForeignNode[Softmax]}' (Myelin) is no operator that can be told"
    ]


@pytest.mark.parametrize(
    "edit",
    [
        {"Outputs": [put("stem", 1, 16, 4, 4)]},  # as with a pool in the same kernel
        {"Name": "Conv_0 || Conv_1"},
        {"Activation": "SOMETHING_NEW", "Name": "Conv_0"},
    ],
)
def test_a_convolution_that_does_more_than_can_be_told_is_left_out(
    edit: dict[str, Any], write: Write
) -> None:
    def edited(layers: Any, profile: Any, runs: Any) -> None:
        profile[2]["name"] = edit.get("Name", layers[1]["Name"])
        layers[1].update(edit)

    found = import_profile(write_engine(write, 16, 16, edited), "trtexec", GPU)
    assert len(found.left_out) == 1
    assert "(CaskConvolution) is no operator" in found.left_out[0]


def test_a_transposed_convolution_is_told_by_the_type_of_its_layer() -> None:
    reads, writes = put("x", 1, 8, 6, 6), put("y", 1, 16, 12, 12)
    padded_less = {"Stride": [2, 2], "PostPadding": [0, 0]}  # by the model's output padding
    told = convolution("up + Relu_4", [reads], writes, LayerType="CaskDeconvolutionV2", **padded_less)
    (layer,) = read_layers({"Layers": [told]}, "engine")
    assert operators_of(layer, 1, "engine") == (transposed(8, 16, fused=("relu",)),)


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        (DEVICE, "engines run in tensorrt, not in 'tflite'"),
        (replace(GPU, precision="fp61"), "'fp61'; did you mean 'fp16'"),
    ],
)
def test_engines_of_a_device_that_runs_none_are_refused(device: Device, complaint: str, write: Write) -> None:
    with pytest.raises(RequestError, match=complaint):
        import_profile(write_engine(write, 16, 16), "trtexec", device)


@pytest.mark.parametrize(
    ("edit", "kept"),
    [
        (lambda layers, *_: layers[0].update(Origin=[]), 0),
        (lambda layers, profile, _: rename(layers[1], profile[2], "Conv" + "_1" * 500_000 + "x"), 1),
        (lambda layers, *_: layers[1].update(Metadata="[ONNX Layer: " * 500_000), 1),
    ],
)
def test_odd_words_about_a_layer_end_nothing(edit: Edit, kept: int, write: Write) -> None:
    """They once ended in a bare error, or never."""
    found = import_profile(write_engine(write, 16, 16, edit), "trtexec", GPU)
    assert len(found.left_out) == 1 - kept


def rename(layer: dict[str, Any], row: dict[str, Any], name: str) -> None:
    layer["Name"] = row["name"] = name


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda layers, *_: layers.__setitem__(1, "Conv_0"), "--profilingVerbosity=detailed"),
        (lambda layers, *_: layers[1].pop("Stride"), r"layers-16-16\.json, layer 'Conv_0 .* lacks what"),
        (lambda layers, *_: layers[1].update(Stride=[0, 1]), "impossible sizes"),
        (lambda layers, *_: layers[1].update(Groups="2"), "impossible sizes"),
        (lambda layers, *_: layers[2].update(Groups=3), "impossible sizes"),
        (lambda layers, *_: layers[1].update(Kernel=[3, 3, 3]), "impossible sizes"),
        (lambda layers, *_: layers[1].update(PrePadding=[1, 1, 1]), "impossible sizes"),
        (lambda layers, *_: layers[4].update(WindowSize=[6, 6, 6]), "impossible sizes"),
        (lambda layers, *_: layers[4]["Outputs"][0].update(Dimensions=[1, 16, 1, 1, 1]), "impossible sizes"),
        (
            lambda layers, *_: layers[1].update(Name=layers[2]["Name"]),
            r"layers-16-16\.json: layer 'Conv_2 .* is there twice",
        ),
        (lambda layers, *_: layers[1]["Inputs"][0].update(Dimensions=[8, 3, 6, 6]), "runs a batch of 8"),
        (
            lambda _, profile, __: profile[2].update(medianMs=-1),
            r"profile-16-16\.json, row 2: the latency '-1'",
        ),
        (lambda _, profile, __: profile[2].update(medianMs=float("nan")), "row 2: the latency 'nan'"),
        (lambda _, profile, __: profile[2].update(medianMs=0), "layer 'Conv_0 .*: the latency '0.0'"),
        (lambda _, profile, __: profile[2].pop("name"), "row 2 lacks 'name'"),
        (lambda _, profile, __: profile.append(profile[2]), "row 8: layer 'Conv_0 .* is there twice"),
        (lambda _, profile, __: profile.pop(2), "layer 'Conv_0 .* is not in its engine's profile"),
        (
            lambda layers, *_: layers.pop(1),
            r"profile-16-16\.json times layer 'Conv_0 .*layers-16-16\.json lacks",
        ),
        (lambda _, __, runs: runs[1].update(computeMs=0), r"times-16-16\.json, run 1: the latency '0'"),
        (lambda _, __, runs: runs[1].pop("computeMs"), "run 1 lacks 'computeMs'"),
    ],
)
def test_impossible_engines_are_refused_naming_file_and_row(
    edit: Callable[..., Any], complaint: str, write: Write
) -> None:
    with pytest.raises(ProfileError, match=complaint):
        import_profile(write_engine(write, 16, 16, edit), "trtexec", GPU)


def test_files_in_another_order_are_refused(write: Write) -> None:
    layers, profile, runs = write_engine(write, 16, 16)
    with pytest.raises(ProfileError, match="in this order"):
        import_profile([profile, layers], "trtexec", GPU)
    with pytest.raises(ProfileError, match="in this order"):
        import_profile([layers, profile, profile], "trtexec", GPU)
    with pytest.raises(ProfileError, match=r"no profile follows .*layers-16-16\.json"):
        import_profile([layers, runs], "trtexec", GPU)
