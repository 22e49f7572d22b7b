from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hwprofiles import OpSpec, open_runtime
from latency_models import plan
from latency_models.interpolate import Grid
from latency_models.plan_measurements import POINTS_PER_AXIS
from tests.contracts.runtime import OPERATORS, conv

RUNTIME = open_runtime("onnxruntime")
STEP = RUNTIME.describe(name="here", batch=1, threads=1).channel_step


def grids(specs: list[OpSpec]) -> dict[OpSpec, Grid]:
    points: dict[OpSpec, dict[tuple[int, int], float]] = {}
    for spec in specs:
        points.setdefault(spec.family, {})[spec.in_channels, spec.out_channels] = 1.0
    return {family: Grid(measured) for family, measured in points.items()}


@settings(deadline=None, max_examples=50)
@given(st.tuples(st.integers(1, 140), st.integers(1, 140)), st.data())
def test_every_candidate_between_narrowest_and_dense_lies_inside_the_plan(
    dense: tuple[int, int], data: st.DataObject
) -> None:
    lowest = tuple(data.draw(st.integers(1, count)) for count in dense)
    planned = grids(plan([conv(*dense)], [conv(*lowest)], RUNTIME))
    widths = [data.draw(st.integers(low, high)) for low, high in zip(lowest, dense, strict=True)]
    lowered = RUNTIME.canon(conv(*widths))
    assert planned[lowered.family].covers(lowered.in_channels, lowered.out_channels)


def test_operators_of_one_family_share_one_grid_and_nothing_is_planned_twice() -> None:
    one = plan([conv(64, 64)], [conv(16, 16)], RUNTIME)
    assert plan([conv(64, 64)] * 3, [conv(16, 16)] * 3, RUNTIME) == one
    assert len(set(one)) == len(one)


def test_an_axis_gets_few_points_and_both_its_ends() -> None:
    planned = [s for s in plan([conv(3, 40 * STEP)], [conv(3, STEP)], RUNTIME) if s.in_channels == 3]
    assert len(planned) == POINTS_PER_AXIS
    assert (planned[0].out_channels, planned[-1].out_channels) == (STEP, 40 * STEP)


def test_a_kernel_with_as_many_outputs_as_inputs_is_measured_along_its_diagonal() -> None:
    planned = plan([conv(64, 64, groups=0)], [conv(16, 16, groups=0)], RUNTIME)
    assert all(spec.in_channels == spec.out_channels for spec in planned)


def test_what_cannot_be_pruned_is_measured_once_and_nothing_is_left_out() -> None:
    assert set(plan(OPERATORS, OPERATORS, RUNTIME)) >= {RUNTIME.canon(spec) for spec in OPERATORS}
