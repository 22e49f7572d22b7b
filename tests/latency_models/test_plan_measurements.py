from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprofiles import INPUT, OpGraph, OpSpec, lower, open_runtime
from hwprofiles.runtimes import Lowering
from hwprofiles.runtimes.onnx_int8_lowering import OnnxInt8Lowering
from latency_models import plan
from latency_models.interpolate import Grid
from tests.contracts.runtime import OPERATORS, conv, in_a_row, pool, square

RUNTIME = open_runtime("onnxruntime")
STEP = RUNTIME.describe(name="here", batch=1, threads=1).channel_step
IN_A_GROUP = [1, STEP - 1, STEP, STEP + 3, 2 * STEP, 2 * STEP + 5]
LEVELS = st.lists(st.sampled_from(IN_A_GROUP), min_size=3, max_size=3)


def grids(specs: list[OpSpec]) -> dict[OpSpec, Grid]:
    points: dict[OpSpec, dict[tuple[int, int], tuple[float]]] = {}
    for spec in specs:
        points.setdefault(spec.family, {})[spec.in_channels, spec.out_channels] = (1.0,)
    return {family: Grid(measured) for family, measured in points.items()}


def residual(stream: int, inside: int) -> OpGraph:
    """A residual block whose stream and inside may each lie in any layout, and a pool behind it."""
    return OpGraph(
        operators=(
            conv(3, stream),
            conv(stream, inside),
            conv(inside, stream, fused=("add", "relu")),
            square("elementwise", stream, fused=("add",), size=(6, 6)),
            pool("max_pool2d", stream, 3),
        ),
        sources=((INPUT,), (0,), (1, 0), (2, 0), (3,)),
        outputs=(4,),
    )


@pytest.mark.parametrize("rules", [RUNTIME, OnnxInt8Lowering(16)], ids=["fp32", "int8"])
@settings(deadline=None, max_examples=50)
@given(st.tuples(st.integers(1, 140), st.integers(1, 140)), st.data())
def test_every_candidate_between_narrowest_and_dense_lies_inside_the_plan(
    rules: Lowering, dense: tuple[int, int], data: st.DataObject
) -> None:
    lowest = tuple(data.draw(st.integers(1, count)) for count in dense)
    planned = grids(plan(residual(*dense), residual(*lowest), rules))
    widths = [data.draw(st.integers(low, high)) for low, high in zip(lowest, dense, strict=True)]
    for kernels in lower(residual(*widths), rules):
        for kernel in kernels:
            assert planned[kernel.family].at(kernel.in_channels, kernel.out_channels) == 1.0


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([2, 3]), st.tuples(LEVELS, LEVELS))
def test_a_layer_whose_groups_shrink_lies_inside_the_plan_with_whole_groups_alone(
    groups: int, counts: tuple[list[int], list[int]]
) -> None:
    lowest, width, dense = zip(*map(sorted, counts), strict=True)

    def layer(inputs: int, outputs: int) -> OpGraph:
        return in_a_row([conv(inputs * groups, outputs * groups, groups=groups)])

    kernels = plan(layer(*dense), layer(*lowest), RUNTIME, points=4)
    assert all(k.in_channels % k.groups == k.out_channels % k.groups == 0 for k in kernels)
    planned = grids(kernels)
    for kernel in (kernel for lowered in lower(layer(*width), RUNTIME) for kernel in lowered):
        assert planned[kernel.family].at(kernel.in_channels, kernel.out_channels) == 1.0


def test_operators_of_one_family_share_one_grid_and_nothing_is_planned_twice() -> None:
    one = plan(in_a_row([conv(64, 64)]), in_a_row([conv(16, 16)]), RUNTIME)
    assert plan(in_a_row([conv(64, 64)] * 3), in_a_row([conv(16, 16)] * 3), RUNTIME) == one
    assert len(set(one)) == len(one)


def test_an_axis_gets_few_points_and_both_its_ends() -> None:
    planned = [
        s
        for s in plan(in_a_row([conv(3, 40 * STEP)]), in_a_row([conv(3, STEP)]), RUNTIME)
        if s.in_channels == 3
    ]
    assert len(planned) == RUNTIME.points
    assert (planned[0].out_channels, planned[-1].out_channels) == (STEP, 40 * STEP)


def test_a_kernel_with_as_many_outputs_as_inputs_is_measured_along_its_diagonal() -> None:
    planned = plan(in_a_row([conv(64, 64, groups=0)]), in_a_row([conv(16, 16, groups=0)]), RUNTIME)
    assert all(spec.in_channels == spec.out_channels for spec in planned)


def test_what_cannot_be_pruned_is_measured_once_and_nothing_is_left_out() -> None:
    dense = in_a_row(OPERATORS)
    assert set(plan(dense, dense, RUNTIME)) >= {
        kernel for kernels in lower(dense, RUNTIME) for kernel in kernels
    }
