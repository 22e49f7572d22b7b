"""Stairs and cliffs of a made-up machine that pads, and whose kernels for odd counts are slow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwprofiles import Profile
from hwprofiles.errors import NotMeasuredError
from latency_models.stairs import operators, stairs
from tests.contracts.runtime import conv
from tests.latency_models.test_table import DEVICE, PROFILE, RUNTIME, SPECS, kernel_ms, rounds_of

STEP = DEVICE.channel_step
CLIFFS: Profile = replace(
    PROFILE,
    kernels={
        kernel: rounds_of(kernel_ms(kernel) * (3 if kernel.kind == "conv2d_nchw" else 1))
        for kernel in PROFILE.kernels
    },
)
pytestmark = pytest.mark.skipif(STEP == 1, reason="ONNX Runtime works on plain memory on this CPU")


def test_over_its_outputs_an_operator_climbs_one_stair_for_each_block() -> None:
    over_outputs, _ = stairs(PROFILE, conv(64, 96))
    assert over_outputs.axis == "out_channels"
    assert over_outputs.widths[-1] == 96
    by_width = dict(zip(over_outputs.widths.tolist(), over_outputs.latency_ms.tolist(), strict=True))
    assert by_width[96] == by_width[96 - STEP + 1] > by_width[96 - STEP]
    (corner,) = RUNTIME.lower(conv(64, 96), "plain").kernels
    assert by_width[96] == pytest.approx(kernel_ms(corner))
    assert not over_outputs.cliffs.any()


def test_measured_widths_are_those_whose_kernel_was_measured() -> None:
    over_outputs, _ = stairs(PROFILE, conv(64, 96))
    for width, measured in zip(over_outputs.widths.tolist(), over_outputs.measured.tolist(), strict=True):
        kernels = RUNTIME.lower(conv(64, width), "plain").kernels
        assert measured == all(kernel in PROFILE.kernels for kernel in kernels)
    assert 0 < over_outputs.measured.sum() < len(over_outputs.widths)


def test_a_width_that_costs_more_than_a_wider_one_is_a_cliff() -> None:
    _, over_inputs = stairs(CLIFFS, conv(64, 96))
    assert over_inputs.axis == "in_channels"
    cliffs = over_inputs.widths[over_inputs.cliffs].tolist()
    assert 63 in cliffs
    assert 64 not in cliffs
    assert not [width for width in cliffs if width % 4 == 0]


def test_an_operator_with_as_many_outputs_as_inputs_has_one_axis() -> None:
    (only,) = stairs(PROFILE, conv(96, 96, groups=0))
    assert only.widths[-1] == 96


def test_a_sum_that_is_part_of_a_kernel_is_looked_up_as_that_kernel() -> None:
    added = conv(96, 96, fused=("add",))
    (fused,) = RUNTIME.lower(added, RUNTIME.layouts[-1]).kernels
    over_outputs, _ = stairs(PROFILE, added)
    assert over_outputs.latency_ms[-1] == pytest.approx(kernel_ms(fused))


def test_operators_are_listed_once_at_their_widest_in_running_order() -> None:
    families = [spec.family for spec in operators(PROFILE)]
    assert families == list(dict.fromkeys(spec.family for spec in SPECS))
    widest = {spec.family: spec for spec in operators(PROFILE)}
    for spec in SPECS:
        assert widest[spec.family].in_channels >= spec.in_channels
        assert widest[spec.family].out_channels >= spec.out_channels


def test_an_operator_that_is_not_in_the_profile_is_refused_by_name() -> None:
    with pytest.raises(NotMeasuredError, match=r"'here' does not hold the kernels of conv2d 3x3 64->960"):
        stairs(PROFILE, conv(64, 960))
