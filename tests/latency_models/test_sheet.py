"""A sheet says of every pair of counts what the kernels of that pair cost, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from hwprofiles import OpSpec, Rounds, open_runtime
from hwprofiles.errors import NotMeasuredError
from hwprofiles.runtimes import CALL, PLAIN
from hwprofiles.runtimes.gpu import GpuLowering
from latency_models import plan
from latency_models.kernels import KernelCosts
from latency_models.sheet import Sheet
from tests.contracts.runtime import conv, in_a_row, square

RUNTIME = open_runtime("onnxruntime")
DEVICE = RUNTIME.describe(name="here", batch=1, threads=1)
LINEAR = OpSpec(kind="linear", in_channels=1, out_channels=1, in_size=(7,))


def costs_between(widest: OpSpec, narrowest: OpSpec) -> KernelCosts:
    """Of all kernels of an operator, each at random."""
    random = np.random.default_rng(0)
    kernels = [CALL, *plan(in_a_row([widest]), in_a_row([narrowest]), RUNTIME)]
    return KernelCosts(
        DEVICE, {kernel: Rounds(random.uniform(0.1, 1, (1, 1, 4))) for kernel in dict.fromkeys(kernels)}
    )


def sheet_of(operator: OpSpec, kernels: KernelCosts) -> Sheet:
    def lower(inputs: int, outputs: int) -> tuple[tuple[OpSpec, ...], int]:
        spec = operator.with_channels(outputs if operator.square else inputs, outputs)
        lowered = RUNTIME.lower(spec, PLAIN)
        return lowered.kernels, RUNTIME.layouts.index(lowered.writes)

    return Sheet(lower, kernels, RUNTIME.period * (operator.groups or 1))


@pytest.mark.parametrize(
    "operator",
    [
        conv(1, 1, fused=("batch_norm", "add", "relu")),
        conv(1, 1, groups=0, fused=("relu",)),
        LINEAR,
        square("elementwise", 1, fused=("gelu",)),
    ],
    ids=str,
)
def test_every_pair_of_counts_costs_what_its_kernels_cost(operator: OpSpec) -> None:
    widest, narrowest = (300, 280), (2, 5)
    if operator.square:
        widest, narrowest = (280, 280), (5, 5)
    kernels = costs_between(operator.with_channels(*widest), operator.with_channels(*narrowest))
    sheet = sheet_of(operator, kernels)
    random = np.random.default_rng(1)
    for most in (40, 300):  # the second time with counts that the sheet has not met
        ins, outs = random.integers(narrowest, np.minimum(most, widest) + 1, (200, 2)).T
        ins = outs if operator.square else ins
        costs, ways = sheet.look_up(ins, outs)
        for each, (inputs, outputs) in enumerate(zip(ins.tolist(), outs.tolist(), strict=True)):
            lowered = RUNTIME.lower(operator.with_channels(inputs, outputs), PLAIN)
            one_by_one = np.sum([kernels.of(kernel) for kernel in lowered.kernels], axis=0)
            assert costs[each] == pytest.approx(one_by_one, rel=1e-5)
            way = ways if isinstance(ways, int) else ways[each]
            assert way == RUNTIME.layouts.index(lowered.writes)


def test_a_kernel_that_pads_nothing_has_rows_for_few_of_many_input_counts() -> None:
    kernels = costs_between(LINEAR.with_channels(3000, 32), LINEAR.with_channels(1, 16))
    sheet = sheet_of(LINEAR, kernels)
    ins = np.arange(1, 3001)
    sheet.look_up(ins, np.full(3000, 32))
    assert sheet.nbytes < 200_000


def test_a_kernel_that_pads_many_input_counts_has_rows_for_few_of_them() -> None:
    rules = GpuLowering("tensorrt", step=8)
    widest, narrowest = LINEAR.with_channels(25088, 4096), LINEAR.with_channels(6272, 1024)
    measured = plan(in_a_row([widest]), in_a_row([narrowest]), rules)
    kernels = KernelCosts(
        DEVICE,
        {kernel: Rounds(np.full((1, 1, 4), 1 + number)) for number, kernel in enumerate([CALL, *measured])},
    )
    sheet = Sheet(lambda *pair: (rules.lower(LINEAR.with_channels(*pair), PLAIN).kernels, 0), kernels, 1)
    ins, outs = np.random.default_rng(0).integers((6272, 1024), (25089, 4097), (2000, 2)).T
    costs, _ = sheet.look_up(ins, outs)
    padded = [
        rules.lower(LINEAR.with_channels(*pair), PLAIN).kernels[0] for pair in zip(ins, outs, strict=True)
    ]
    assert costs == pytest.approx(np.array([kernels.of(kernel) for kernel in padded]), rel=1e-5)
    assert sheet.nbytes < 1_000_000


def test_a_pair_that_was_not_measured_is_refused_naming_its_kernel() -> None:
    kernels = costs_between(conv(64, 64), conv(32, 32))
    sheet = sheet_of(conv(64, 64), kernels)
    sheet.look_up(np.array([64, 48]), np.array([32, 64]))
    with pytest.raises(NotMeasuredError, match=r"conv2d.* 7->64 "):
        sheet.look_up(np.array([64, 7]), np.array([64, 64]))


def test_a_count_that_was_not_measured_leaves_others_alone() -> None:
    kernels = costs_between(LINEAR.with_channels(128, 32), LINEAR.with_channels(16, 16))
    sheet = sheet_of(LINEAR, kernels)
    with pytest.raises(NotMeasuredError, match="200->"):
        sheet.look_up(np.array([16, 63, 200]), np.array([32, 32, 32]))
    costs, _ = sheet.look_up(np.array([128, 16]), np.array([32, 32]))
    assert not np.isnan(costs).any()
