"""Plans that another device's profile makes shorter, on profiles whose every latency is made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles import OpSpec, Profile
from hwprofiles.runtimes import CALL
from latency_models import extend, missing, shortened
from latency_models.interpolate import Grid
from tests.contracts.runtime import conv, square
from tests.latency_models.test_table import PROFILE, rounds_of

COUNTS = (16, 32, 48, 64)
CONVS = [conv(inputs, outputs) for inputs in COUNTS for outputs in COUNTS]
NORMS = [square("layer_norm", count) for count in COUNTS]


def first_device(planned: Sequence[OpSpec], ms: Callable[[OpSpec], float]) -> Profile:
    return replace(PROFILE, kernels={kernel: rounds_of(ms(kernel)) for kernel in (CALL, *planned)})


def counts_of(kernels: Sequence[OpSpec]) -> tuple[list[int], list[int]]:
    ins, outs = zip(*((kernel.in_channels, kernel.out_channels) for kernel in kernels), strict=True)
    return sorted({*ins}), sorted({*outs})


def bent(inputs: int, outputs: int) -> float:
    """A product of both, with a cliff in what 48 inputs cost and a bend at 32 outputs."""
    return (inputs + 30 * (inputs == 48)) * (max(outputs, 32) + 100)


def test_counts_on_a_line_are_left_out_and_those_at_a_cliff_or_a_bend_are_planned() -> None:
    first = first_device(CONVS, lambda kernel: bent(kernel.in_channels, kernel.out_channels))
    assert counts_of(shortened(CONVS, first)) == ([16, 32, 48, 64], [16, 32, 64])
    gentle = first_device(CONVS, lambda kernel: bent(64, kernel.out_channels))
    assert counts_of(shortened(CONVS, gentle)) == ([16, 64], [16, 32, 64])


def test_a_kernel_with_as_many_outputs_as_inputs_keeps_the_ends_of_its_diagonal_and_its_bends() -> None:
    straight = first_device(NORMS, lambda kernel: kernel.in_channels)
    assert shortened(NORMS, straight) == [NORMS[0], NORMS[-1]]
    cliff = first_device(NORMS, lambda kernel: kernel.in_channels * (2 if kernel == NORMS[1] else 1))
    assert shortened(NORMS, cliff) == NORMS


def test_a_family_of_which_a_kernel_was_not_measured_is_planned_whole() -> None:
    first = first_device([*CONVS[1:], *NORMS], lambda kernel: 1.0)
    assert shortened([*CONVS, *NORMS], first) == [*CONVS, NORMS[0], NORMS[-1]]
    assert shortened(CONVS, first_device(NORMS, lambda kernel: 1.0)) == CONVS


@given(
    st.sampled_from([CONVS, NORMS]).flatmap(
        lambda planned: st.tuples(
            st.just(planned),
            st.lists(st.floats(1.0, 1.3), min_size=len(planned), max_size=len(planned)),
        )
    ),
    st.sampled_from([0.02, 0.1]),
)
def test_whatever_is_left_out_follows_from_the_rest_and_the_rest_is_a_grid(
    made_up: tuple[list[OpSpec], list[float]], tolerance: float
) -> None:
    planned, times = made_up
    ms = dict(zip(planned, times, strict=True))
    kept = shortened(planned, first_device(planned, lambda kernel: ms.get(kernel, 1.0)), tolerance)
    ins, outs = counts_of(kept)
    assert {ins[0], outs[0]} == {16}
    assert {ins[-1], outs[-1]} == {64}
    assert len(kept) == (len(ins) * len(outs) if planned is CONVS else len(ins))
    grid = Grid({(kernel.in_channels, kernel.out_channels): (ms[kernel],) for kernel in kept})
    for kernel in planned:
        assert grid.at(kernel.in_channels, kernel.out_channels) == pytest.approx(ms[kernel], rel=tolerance)


def test_a_profile_of_a_shorter_plan_grows_by_whole_grids_and_by_what_was_left_out() -> None:
    first = first_device(CONVS, lambda kernel: bent(64, kernel.out_channels))
    second = first_device(shortened(CONVS, first), lambda kernel: 2.0)
    assert {*second.kernels, *missing(CONVS, second)} == {CALL, *CONVS}
    wider = [conv(inputs, outputs) for inputs in (16, 128) for outputs in (16, 128)]
    grown = extend(second, first_device(missing(wider, second), lambda kernel: 3.0))
    ins, outs = counts_of([kernel for kernel in grown.kernels if kernel != CALL])
    assert (ins, outs) == ([16, 64, 128], [16, 32, 64, 128])
    assert len(grown.kernels) == 1 + len(ins) * len(outs)
