"""Norms and sums up to each place: ONNX Runtime runs in a network what it runs of their kernels alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwprofiles import OpSpec, lower, measure, open_runtime
from hwprofiles.runtimes import PLAIN
from hwprofiles.runtimes.onnx_cpu import optimised_graph, run_onnx
from hwprofiles.runtimes.onnx_drawing import draw_plain
from hwprofiles.runtimes.onnx_inputs import network_inputs
from hwprofiles.runtimes.onnx_quantised import draw_int8, quantised
from hwprofiles.runtimes.torch_network import TorchNetwork
from search import profiling
from search.growth import profile_device
from search.progress import Silent
from tests.bundles import export_images
from tests.contracts.runtime import square
from trials.bundle import Bundle
from trials.candidate import Candidate
from trials.costs import Costs
from trials.groups import analyse, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune


class Last(nn.Module):
    """A layer norm over the channels of a map, which lie last meanwhile, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def on_maps(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    before, behind = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 96, 3, padding=1)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 8))
    return nn.Sequential(before, norm, nn.ReLU(), behind, *head)


def on_tokens(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), norm, nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 8))


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "group": (on_maps(nn.GroupNorm(8, 64)), (3, 24, 24)),
    "instance": (on_maps(nn.InstanceNorm2d(64, affine=True)), (3, 24, 24)),
    "last": (on_maps(Last()), (3, 24, 24)),
    "rms": (on_tokens(nn.RMSNorm(64)), (40, 48)),
    "sums": (on_tokens(Sums()), (40, 48)),
}
MOVES = {"Reshape", "Shape", "Transpose", "ReorderInput", "ReorderOutput", "Identity"}
ASIDE = {
    "fp32": MOVES | {"Gemm", "MatMul"},  # a product of tokens and its sum, where the batch is known
    "int8": MOVES | {"Relu"},  # a bound of the quantising behind it
}


@cache
def exported(name: str) -> Bundle:
    module, shape = NETWORKS[name]
    return export_images(module.eval(), *shape)


def written_pruned(name: str, path: Path) -> Costs:
    coupling = analyse(exported(name).graph)
    kept = Candidate(tuple(group.size // 2 for group in coupling.groups))
    write_onnx(*prune(coupling, exported(name).tensors, even_kept(coupling, kept)), path)
    return Costs(coupling)


def run_alone(kernel: OpSpec, precision: str) -> Counter[str]:
    if kernel.kind.startswith("reorder") or kernel.kind.endswith(("_nchwc", "_from_nchw")):
        return Counter(["Conv"] if "conv" in kernel.kind else [])
    int8 = precision == "int8" and ("int8" in kernel.kind or "quantize" in kernel.kind)
    model = quantised(draw_int8(kernel, 2).model()) if int8 else draw_plain(kernel, 2).model()
    return Counter(node.op_type for node in optimised_graph(model).node)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_runs_its_norm_as_that_runs_alone(name: str, precision: str, tmp_path: Path) -> None:
    costs = written_pruned(name, tmp_path / "n.onnx")
    graph = costs.candidate_graph(Candidate(tuple(group.size // 2 for group in costs.coupling.groups)))
    kernels = [k for kernels in lower(graph, open_runtime("onnxruntime", precision)) for k in kernels]
    model = onnx.load(tmp_path / "n.onnx")
    ran = optimised_graph(quantised(model) if precision == "int8" else model).node
    runs = Counter(node.op_type for node in ran)
    named = sum((run_alone(kernel, precision) for kernel in kernels), Counter[str]())
    aside = {*ASIDE[precision]}
    if len(NETWORKS[name][1]) == 2 and precision == "fp32":
        aside.add("Add")
    if name == "group":  # its shape is asked of a tensor that is turned into floats for that
        aside.add("DequantizeLinear")
    assert {op: runs[op] for op in {*runs} - aside} == {op: named[op] for op in {*named} - aside}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_norm_computes_what_the_model_and_the_rules_of_torch_compute(
    name: str, tmp_path: Path
) -> None:
    bundle = exported(name)
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "n.onnx")
    model = onnx.load(tmp_path / "n.onnx")
    feeds = network_inputs(model, name, batch=2)
    (ran,) = run_onnx(tmp_path / "n.onnx", feeds)
    network = TorchNetwork(model, feeds, torch.device("cpu"))
    network.run()
    with torch.no_grad():
        wanted = NETWORKS[name][0](*map(torch.from_numpy, feeds.values())).numpy()
    for found in (ran, network.outputs[0].numpy()):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("normalise", "kinds"),
    [
        (lambda x: F.rms_norm(x, (64,)), {"rms_norm": ()}),
        (lambda x: F.layer_norm(x.unflatten(2, (8, 8)), (8,)).flatten(2), {"layer_norm": (8,)}),
        (lambda x: x.cumsum(2), {"cumsum": ()}),
        (lambda x: x.cumsum(1), {"cumsum": (40,)}),
    ],
)
def test_a_norm_says_how_many_numbers_it_takes_together_where_those_are_not_its_channels(
    normalise: Callable[[Tensor], Tensor], kinds: dict[str, tuple[int, ...]]
) -> None:
    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return normalise(x)

    graph = Costs(analyse(export_images(on_tokens(Normalised()), 40, 48).graph)).op_graph
    assert {spec.kind: spec.kernel for spec in graph.operators if spec.kind in kinds} == kinds


LARGE = square("instance_norm", 64, size=(40, 40))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "counts"),
    [
        (LARGE, (48, 49, 52, 56, 60, 63, 64)),
        (replace(LARGE, kind="group_norm", kernel=(8,)), (48, 56, 64)),
        (replace(LARGE, kind="rms_norm", kernel=(32,)), (48, 52, 56, 60, 64)),
        (replace(LARGE, kind="cumsum", in_size=(9000,), out_size=(9000,), kernel=(9000,)), (48, 56, 60, 64)),
    ],
    ids=lambda value: str(value) if isinstance(value, OpSpec) else "",
)
def test_a_norm_takes_longer_with_each_channel_and_has_no_cliffs(norm: OpSpec, counts: tuple[int]) -> None:
    runtime = open_runtime("onnxruntime")
    device = runtime.describe(name="here", batch=1, threads=1)
    layers = {count: norm.with_channels(count, count) for count in counts}
    assert {count: runtime.lower(layer, PLAIN).kernels for count, layer in layers.items()} == {
        count: (layer,) for count, layer in layers.items()
    }
    runs = {count: runtime.prepare_kernel(layer, device) for count, layer in layers.items()}
    measured = measure(runs, passes=3, rounds=30, seed=0)
    ms = {count: rounds.summary().latency_ms for count, rounds in measured.items()}
    assert ms[64] > 1.15 * ms[48]
    for count, found_ms in ms.items():
        assert found_ms == pytest.approx(ms[48] + (count - 48) / 16 * (ms[64] - ms[48]), rel=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_norms_are_predicted_within_ten_per_cent(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant, count in {"CALIBRATION_NETWORKS": 8, "HELD_OUT_NETWORKS": 6}.items():
        monkeypatch.setattr(profiling, constant, count)
    exported(name).write(tmp_path / "bundle")
    asked = {"precision": precision}
    found = profile_device(tmp_path / "bundle", "here", tmp_path / "devices", asked, 3, Silent())
    assert found["validation"]["mean_error"] < 0.1
