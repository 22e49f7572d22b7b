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

from hwprofiles import MeasuredNetwork, OpSpec, Profile, Rounds, open_runtime, read_profile, write_profile
from hwprofiles.errors import NotMeasuredError, ProfileError
from hwprofiles.runtimes import CALL
from latency_models import LatencyTable, NetworkModel, build_profile, plan
from tests.contracts.runtime import conv
from tests.hwprofiles.test_onnx_cpu import network

RUNTIME = open_runtime("onnxruntime")
DEVICE = RUNTIME.describe(name="here", batch=1, threads=1)
CALL_MS = 0.01
SCALE = 1.25
DENSE = [conv(3, 64, fused=("batch_norm", "relu")), conv(64, 96), conv(96, 96, groups=0), conv(96, 32)]
NARROWEST = [conv(3, 8, fused=("batch_norm", "relu")), conv(8, 8), conv(8, 8, groups=0), conv(8, 32)]


def kernel_ms(spec: OpSpec) -> float:
    """A made-up machine: a call, and work that is linear in either channel count of the lowered operator."""
    if spec.kind == CALL.kind:
        return CALL_MS
    lowered = RUNTIME.canon(spec)
    fan_in = 1 if spec.groups == 0 else lowered.in_channels
    return CALL_MS + 1e-3 * (2 + lowered.out_channels + 0.01 * fan_in * lowered.out_channels)


def network_ms(specs: Sequence[OpSpec]) -> float:
    return SCALE * (CALL_MS + sum(kernel_ms(spec) - CALL_MS for spec in specs))


def rounds_of(latency_ms: float) -> Rounds:
    return Rounds(np.full((1, 1, 3), latency_ms))


PROFILE = Profile(
    device=DEVICE,
    operators={spec: rounds_of(kernel_ms(spec)) for spec in [CALL, *plan(DENSE, NARROWEST, RUNTIME)]},
    networks=tuple(
        MeasuredNetwork(name=name, operators=tuple(specs), rounds=rounds_of(network_ms(specs)))
        for name, specs in (("dense", DENSE), ("narrowest", NARROWEST))
    ),
    created=datetime(2026, 1, 2, tzinfo=UTC),
)
TABLE = LatencyTable.from_profile(PROFILE, RUNTIME)
CORNER = RUNTIME.canon(conv(64, 96))


def widened(widths: tuple[int, int]) -> list[OpSpec]:
    first, second = widths
    channels = [(3, first), (first, second), (second, second), (second, 32)]
    return [spec.with_channels(*pair) for spec, pair in zip(DENSE, channels, strict=True)]


candidates = st.lists(st.tuples(st.integers(8, 64), st.integers(8, 96)), min_size=1, max_size=6)


@settings(deadline=None)
@given(candidates)
def test_every_candidate_costs_what_its_lowered_operators_cost(widths: list[tuple[int, int]]) -> None:
    networks = [widened(pair) for pair in widths]
    channels = np.array([[(spec.in_channels, spec.out_channels) for spec in specs] for specs in networks])
    prediction = TABLE.predict(DENSE, channels[..., 0], channels[..., 1])
    assert prediction.latency_ms == pytest.approx([network_ms(specs) for specs in networks])
    assert prediction.error_ms == pytest.approx(np.zeros(len(widths)), abs=1e-9)


def test_the_breakdown_and_one_call_add_up_to_the_prediction() -> None:
    channels = np.array([[(spec.in_channels, spec.out_channels) for spec in DENSE]])
    (latency_ms,) = TABLE.predict(DENSE, channels[..., 0], channels[..., 1]).latency_ms
    parts = TABLE.breakdown(DENSE)
    assert parts.shape == (len(DENSE),)
    assert parts.sum() + SCALE * CALL_MS == pytest.approx(latency_ms)


def test_an_operator_as_fast_as_a_call_still_costs_something() -> None:
    instant = replace(PROFILE, operators={spec: rounds_of(CALL_MS) for spec in PROFILE.operators})
    assert (LatencyTable.from_profile(instant, RUNTIME).breakdown(DENSE) > 0).all()


def test_a_width_beyond_the_measured_ones_is_refused_naming_operator_table_and_nearest() -> None:
    with pytest.raises(NotMeasuredError, match=r"conv2d 3x3 64->160 .*'here'.* nearest measured is .*->96"):
        TABLE.breakdown([conv(64, 160)])


def test_a_kernel_that_was_not_measured_is_refused_naming_it() -> None:
    with pytest.raises(NotMeasuredError, match=r"softmax .*'here'"):
        TABLE.breakdown([OpSpec(kind="softmax", in_channels=4, out_channels=4, in_size=(5, 5))])


def test_another_device_is_refused_naming_what_differs() -> None:
    TABLE.check(replace(DEVICE, name="the same machine under another name"))
    with pytest.raises(ProfileError, match="threads 1, not 4"):
        TABLE.check(replace(DEVICE, threads=4))


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (replace(PROFILE, networks=PROFILE.networks[:1]), "at least two whole networks"),
        (
            replace(PROFILE, operators={k: v for k, v in PROFILE.operators.items() if k != CALL}),
            "cost of a call",
        ),
        (
            replace(PROFILE, operators={k: v for k, v in PROFILE.operators.items() if k != CORNER}),
            "do not fill a grid",
        ),
    ],
)
def test_a_profile_that_makes_no_table_is_refused(damaged: Profile, complaint: str) -> None:
    with pytest.raises(ProfileError, match=complaint):
        LatencyTable.from_profile(damaged, RUNTIME)


def test_a_device_measured_for_real_predicts_the_networks_it_was_measured_with(tmp_path: Path) -> None:
    done: list[float] = []
    models = []
    for name, specs in (("dense", DENSE), ("narrowest", NARROWEST)):
        onnx.save(network(*specs), tmp_path / f"{name}.onnx")
        models.append(NetworkModel(name=name, operators=tuple(specs), onnx_path=tmp_path / f"{name}.onnx"))
    profile = build_profile(
        DEVICE, RUNTIME, plan(DENSE, NARROWEST, RUNTIME), models, passes=1, rounds=4, progress=done.append
    )
    write_profile(profile, tmp_path / "here.parquet")
    table = LatencyTable.from_profile(read_profile(tmp_path / "here.parquet"), RUNTIME)
    channels = np.array([[(s.in_channels, s.out_channels) for s in specs] for specs in (DENSE, NARROWEST)])
    prediction = table.predict(DENSE, channels[..., 0], channels[..., 1])
    measured = [net.rounds.summary().latency_ms for net in profile.networks]
    assert done[-1] == 1
    assert prediction.latency_ms[0] > prediction.latency_ms[1]
    assert (np.abs(prediction.latency_ms / measured - 1) <= table.calibration.relative_error + 1e-9).all()
