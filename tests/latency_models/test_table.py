"""The table on profiles whose every latency is known in closed form, and once on a measured one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwprofiles import (
    INPUT,
    MeasuredNetwork,
    OpGraph,
    OpSpec,
    Profile,
    Rounds,
    lower,
    open_runtime,
    read_profile,
    write_profile,
)
from hwprofiles.errors import NotMeasuredError, ProfileError
from hwprofiles.runtimes import CALL, PLAIN, Lowering
from hwprofiles.runtimes.onnx_cpu_lowering import OnnxCpuLowering
from hwprofiles.runtimes.onnx_int8_lowering import OnnxInt8Lowering
from hwprofiles.runtimes.synthetic import Synthetic
from latency_models import LatencyTable, NetworkModel, build_profile, plan
from latency_models.kernels import KernelCosts
from latency_models.population import Population
from tests.bundles import coupled
from tests.contracts.runtime import conv, in_a_row
from tests.hwprofiles.test_onnx_cpu import network
from trials.candidate import Candidate
from trials.costs import Costs

RUNTIME = open_runtime("onnxruntime")
DEVICE = RUNTIME.describe(name="here", batch=1, threads=1)
CALL_MS = 0.01
SCALE = 1.25
SPECS = [
    conv(3, 64, fused=("batch_norm", "relu")),
    conv(64, 96),
    conv(96, 96, groups=0),
    conv(96, 96, fused=("add",)),
    conv(96, 32),
]
SOURCES = ((INPUT,), (0,), (1,), (2, 1), (3,))
DENSE = OpGraph(operators=tuple(SPECS), sources=SOURCES, outputs=(4,))


def widened(first: int, second: int) -> OpGraph:
    return DENSE.with_channels([3, first, second, second, second], [first, second, second, second, 32])


NARROWEST = widened(8, 8)


def kernel_ms(kernel: OpSpec) -> float:
    """A made-up machine: a call, and work that is linear in either channel count of a kernel."""
    if kernel.kind == CALL.kind:
        return CALL_MS
    fan_in = kernel.in_channels if kernel.kind.startswith("conv2d") else 1
    return CALL_MS + 1e-3 * (2 + kernel.out_channels + 0.01 * fan_in * kernel.out_channels)


def network_ms(graph: OpGraph) -> float:
    kernels = [kernel for kernels in lower(graph, RUNTIME) for kernel in kernels]
    return SCALE * (CALL_MS + sum(kernel_ms(kernel) - CALL_MS for kernel in kernels))


def rounds_of(latency_ms: float) -> Rounds:
    return Rounds(np.full((1, 1, 3), latency_ms))


PROFILE = Profile(
    device=DEVICE,
    kernels={kernel: rounds_of(kernel_ms(kernel)) for kernel in [CALL, *plan(DENSE, NARROWEST, RUNTIME, 4)]},
    networks=tuple(
        MeasuredNetwork(name=name, graph=graph, rounds=rounds_of(network_ms(graph)))
        for name, graph in (("dense", DENSE), ("narrowest", NARROWEST))
    ),
    created=datetime(2026, 1, 2, tzinfo=UTC),
)
TABLE = LatencyTable.from_profile(PROFILE)
(CORNER,) = RUNTIME.lower(conv(64, 96), PLAIN).kernels


def channels_of(graphs: Sequence[OpGraph]) -> NDArray[np.int64]:
    """(candidates, operators, 2) input and output channels."""
    return np.array([[(spec.in_channels, spec.out_channels) for spec in graph.operators] for graph in graphs])


candidates = st.lists(st.tuples(st.integers(8, 64), st.integers(8, 96)), min_size=1, max_size=6)


@settings(deadline=None)
@given(candidates)
def test_every_candidate_costs_what_its_kernels_and_reorders_cost(widths: list[tuple[int, int]]) -> None:
    networks = [widened(*pair) for pair in widths]
    channels = channels_of(networks)
    prediction = TABLE.predict(DENSE, channels[..., 0], channels[..., 1])
    assert prediction.latency_ms == pytest.approx([network_ms(graph) for graph in networks])
    assert prediction.error_ms == pytest.approx(np.zeros(len(widths)), abs=1e-9)


@pytest.mark.parametrize(
    "rules",
    [OnnxCpuLowering(16), OnnxCpuLowering(1), OnnxInt8Lowering(16), Synthetic("fp32")],
    ids=["blocks", "plain", "int8", "synthetic"],
)
@pytest.mark.parametrize(
    ("model", "runs"),
    [("unet", {"conv_transpose", "resize"}), ("vit", {"attention"}), ("bert", {"matmul"})],
)
def test_a_pruned_network_costs_what_its_kernels_cost_whatever_it_keeps(
    rules: Lowering, model: str, runs: set[str]
) -> None:
    costs = Costs(coupled(model))
    space = costs.coupling.space(lowest_keep=0.2)
    counts = space.round(np.random.default_rng(0).uniform(0.2, 1, (30, len(space.axes))) * space.sizes)
    least, *graphs = (
        costs.candidate_graph(Candidate(tuple(row))) for row in (counts.min(0).tolist(), *counts.tolist())
    )
    kernels = {kernel: rounds_of(kernel_ms(kernel)) for kernel in [CALL, *plan(costs.op_graph, least, rules)]}
    population = Population(rules, KernelCosts(DEVICE, kernels))
    lowered = [[kernel for kernels in lower(graph, rules) for kernel in kernels] for graph in graphs]
    kinds = {kernel.kind.partition("2d")[0].partition("_int8")[0] for each in lowered for kernel in each}
    assert runs <= kinds
    wanted_ms = [sum(kernel_ms(kernel) - CALL_MS for kernel in kernels) for kernels in lowered]
    found_ms = population.costs(costs.op_graph, *costs.dense.channels(counts))[:, 0]
    assert found_ms == pytest.approx(wanted_ms, rel=1e-5)


def test_the_breakdown_and_one_call_add_up_to_the_prediction() -> None:
    channels = channels_of([DENSE])
    (latency_ms,) = TABLE.predict(DENSE, channels[..., 0], channels[..., 1]).latency_ms
    parts = TABLE.breakdown(DENSE)
    assert parts.shape == (len(SPECS),)
    assert parts.sum() + SCALE * CALL_MS == pytest.approx(latency_ms)


def test_a_network_that_also_returns_its_input_has_its_reorders_counted_where_they_are_made() -> None:
    returns_input = replace(DENSE, outputs=(INPUT, 1, 4))
    more_ms = TABLE.breakdown(returns_input) - TABLE.breakdown(DENSE)
    assert more_ms[1] > 0
    assert more_ms.sum() == pytest.approx(SCALE * (kernel_ms(RUNTIME.reorder(96, (8, 8), PLAIN)) - CALL_MS))


@pytest.mark.parametrize(("precision", "bytes_per_weight"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_weights_fill_the_cache_as_wide_as_they_are(precision: str, bytes_per_weight: int) -> None:
    costs = KernelCosts(replace(DEVICE, precision=precision), PROFILE.kernels)
    assert costs.of(CORNER)[2] == pytest.approx(CORNER.weights * bytes_per_weight / 1e6)


def test_the_breakdown_holds_the_cold_starts_that_a_network_pays_for() -> None:
    """A cache that holds the dense network twice, and kernels that take 1 ms more when they are cold."""
    lowered = {
        network.graph: [kernel for kernels in lower(network.graph, RUNTIME) for kernel in kernels]
        for network in PROFILE.networks
    }
    weights = {graph: sum(kernel.weights for kernel in kernels) for graph, kernels in lowered.items()}
    shares = {graph: weights[graph] / (2 * weights[DENSE]) for graph in lowered}
    more_ms = {graph: SCALE * shares[graph] * len(kernels) for graph, kernels in lowered.items()}
    profile = replace(
        PROFILE,
        device=replace(DEVICE, cache_mb=2 * weights[DENSE] * 4 / 1e6),
        kernels={
            kernel: Rounds(rounds.times_ms + np.array([float(kernel != CALL), 0, 0]))
            for kernel, rounds in PROFILE.kernels.items()
        },
        networks=tuple(
            replace(network, rounds=rounds_of(network_ms(network.graph) + more_ms[network.graph]))
            for network in PROFILE.networks
        ),
    )
    table = LatencyTable.from_profile(profile)
    assert table.calibration.scale == pytest.approx(SCALE)
    *paid_ms, leaving_ms = [SCALE * 0.5 * len(kernels) for kernels in lower(DENSE, RUNTIME)]
    paid_ms[-1] += leaving_ms
    assert table.breakdown(DENSE) - TABLE.breakdown(DENSE) == pytest.approx(paid_ms)


def test_an_operator_as_fast_as_a_call_still_costs_something() -> None:
    instant = replace(PROFILE, kernels={kernel: rounds_of(CALL_MS) for kernel in PROFILE.kernels})
    assert (LatencyTable.from_profile(instant).breakdown(DENSE) > 0).all()


def alone(spec: OpSpec) -> OpGraph:
    return OpGraph(operators=(spec,), sources=((INPUT,),), outputs=())


def test_a_width_beyond_the_measured_ones_is_refused_naming_operator_table_and_nearest() -> None:
    with pytest.raises(NotMeasuredError, match=r"3x3 64->160 .*'here'.* nearest measured is .*->96"):
        TABLE.breakdown(alone(conv(64, 160)))


def test_a_kernel_that_was_not_measured_is_refused_naming_it() -> None:
    with pytest.raises(NotMeasuredError, match=r"softmax .*'here'"):
        TABLE.breakdown(alone(OpSpec(kind="softmax", in_channels=4, out_channels=4, in_size=(5, 5))))


def test_another_device_is_refused_naming_what_differs() -> None:
    TABLE.check(replace(DEVICE, name="the same machine under another name"))
    with pytest.raises(ProfileError, match="threads 1, not 4"):
        TABLE.check(replace(DEVICE, threads=4))


def test_a_grid_that_lacks_a_point_is_joined_over_the_hole() -> None:
    lacking = replace(PROFILE, kernels={k: v for k, v in PROFILE.kernels.items() if k != CORNER})
    whole, joined = (
        LatencyTable.from_profile(profile).breakdown(alone(conv(64, 96)))[0] for profile in (PROFILE, lacking)
    )
    assert joined == pytest.approx(whole)


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (replace(PROFILE, networks=PROFILE.networks[:1]), "at least two whole networks"),
        (
            replace(PROFILE, kernels={k: v for k, v in PROFILE.kernels.items() if k != CALL}),
            "cost of a call",
        ),
    ],
)
def test_a_profile_that_makes_no_table_is_refused(damaged: Profile, complaint: str) -> None:
    with pytest.raises(ProfileError, match=complaint):
        LatencyTable.from_profile(damaged)


def test_imported_layers_hold_no_call() -> None:
    kernels = {key: rounds for key, rounds in PROFILE.kernels.items() if key != CALL}
    imported = replace(PROFILE, kernels=kernels, device=replace(DEVICE, versions={"source": "csv"}))
    summed_ms = [
        sum(kernel_ms(k) for ks in lower(net.graph, RUNTIME) for k in ks) for net in PROFILE.networks
    ]
    networks = tuple(
        replace(net, rounds=rounds_of(ms)) for net, ms in zip(PROFILE.networks, summed_ms, strict=True)
    )
    table = LatencyTable.from_profile(replace(imported, networks=networks))
    assert table.breakdown(DENSE).sum() == pytest.approx(summed_ms[0])


def test_a_device_measured_for_real_predicts_the_networks_it_was_measured_with(tmp_path: Path) -> None:
    done: list[float] = []
    models = []
    dense = in_a_row([*SPECS[:3], SPECS[4]])
    narrowest = dense.with_channels([3, 8, 8, 8], [8, 8, 8, 32])
    for name, graph in (("dense", dense), ("narrowest", narrowest)):
        onnx.save(network(*graph.operators), tmp_path / f"{name}.onnx")
        models.append(NetworkModel(name=name, graph=graph, onnx_path=tmp_path / f"{name}.onnx"))
    profile = build_profile(
        DEVICE, RUNTIME, plan(dense, narrowest, RUNTIME), models, passes=1, rounds=4, progress=done.append
    )
    write_profile(profile, tmp_path / "here.parquet")
    table = LatencyTable.from_profile(read_profile(tmp_path / "here.parquet"))
    channels = channels_of([dense, narrowest])
    prediction = table.predict(dense, channels[..., 0], channels[..., 1])
    measured = [net.rounds.summary().latency_ms for net in profile.networks]
    assert done[-1] == 1
    assert prediction.latency_ms[0] > prediction.latency_ms[1]
    assert (np.abs(prediction.latency_ms / measured - 1) <= table.calibration.relative_error + 1e-9).all()


def test_no_candidates_have_no_predictions_and_channels_below_one_are_refused() -> None:
    table = LatencyTable.from_profile(PROFILE)
    channels = channels_of([DENSE])
    assert not len(table.predict(DENSE, channels[:0, :, 0], channels[:0, :, 1]).latency_ms)
    with pytest.raises(ValueError, match="less than one channel"):
        table.predict(DENSE, channels[..., 0] - 64, channels[..., 1])
