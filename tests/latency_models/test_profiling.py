"""Profiles that grow from model to model, and measurements that go on where they were cut short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwprofiles import Device, OpSpec, Profile, board, read_profile
from hwprofiles.errors import RequestError
from hwprofiles.runtimes import CALL, PLAIN, Run
from hwprofiles.runtimes.synthetic import Synthetic
from latency_models import LatencyTable, NetworkModel, build_profile, covers, extend, missing
from tests.contracts.runtime import conv, in_a_row
from tests.hwprofiles.test_onnx_cpu import network
from tests.latency_models.test_table import DEVICE, PROFILE, RUNTIME, kernel_ms, rounds_of

LAYERS = [conv(16, 32), conv(32, 16)]
KERNELS = [kernel for layer in LAYERS for kernel in RUNTIME.lower(layer, PLAIN).kernels]


@pytest.fixture
def models(tmp_path: Path) -> list[NetworkModel]:
    path = tmp_path / "network.onnx"
    onnx.save(network(*LAYERS), path)
    return [NetworkModel(name=name, graph=in_a_row(LAYERS), onnx_path=path) for name in ("one", "other")]


class CutShortError(Exception):
    """Stands for Ctrl-C."""


def measured(models: list[NetworkModel], journal: Path, *, until: float = 2.0, rounds: int = 2) -> Profile:
    def progress(share: float) -> None:
        if share > until:
            raise CutShortError

    return build_profile(
        DEVICE,
        RUNTIME,
        KERNELS,
        models[:1],
        held_out=models[1:],
        passes=3,
        rounds=rounds,
        journal=journal,
        progress=progress,
    )


def test_a_measurement_that_was_cut_short_goes_on_after_its_last_finished_pass(
    models: list[NetworkModel], tmp_path: Path
) -> None:
    journal = tmp_path / "here.journal"
    with pytest.raises(CutShortError):
        measured(models, journal, until=0.7)
    first = read_profile(journal)
    profile = measured(models, journal)
    assert first.kernels.keys() == profile.kernels.keys() == {CALL, *KERNELS}
    for kept, whole in [
        *((first.kernels[kernel], profile.kernels[kernel]) for kernel in profile.kernels),
        (first.networks[0].rounds, profile.networks[0].rounds),
        (first.held_out[0].rounds, profile.held_out[0].rounds),
    ]:
        assert (len(kept.times_ms), len(whole.times_ms)) == (2, 3)
        np.testing.assert_array_equal(whole.times_ms[:2], kept.times_ms)


def test_each_network_has_its_energy_of_every_pass_where_the_board_has_rails(
    models: list[NetworkModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_rails", lambda root: {"VDD_IN": lambda: 5000.0})
    monkeypatch.setattr(board, "SECONDS", 0.02)
    with pytest.raises(CutShortError):
        measured(models, tmp_path / "journal", until=0.7)
    profile = measured(models, tmp_path / "journal")
    for net in (*profile.networks, *profile.held_out):
        assert [each.keys() for each in net.energy_mj] == [{"VDD_IN"}] * 3
        taken_ms = net.mean_energy_mj["VDD_IN"] / 5.0
        assert taken_ms > 0.5 * net.rounds.summary().latency_ms


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("another device", "threads 1, not 2"),
        ("other kernels", "other kernels or networks"),
        ("another number of rounds", "2 rounds of 4 runs, not 1 of 4"),
    ],
)
def test_the_journal_of_another_measurement_is_neither_gone_on_with_nor_written_over(
    change: str,
    sentence: str,
    models: list[NetworkModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = tmp_path / "here.journal"
    measured(models, journal)
    kept = journal.read_bytes()
    module = "tests.latency_models.test_profiling"
    if change == "another device":
        monkeypatch.setattr(f"{module}.DEVICE", replace(DEVICE, threads=2))
    if change == "other kernels":
        monkeypatch.setattr(f"{module}.KERNELS", KERNELS[:1])
    with pytest.raises(RequestError, match=f"here.journal keeps finished passes .* with {sentence}; repeat"):
        measured(models, journal, rounds=1 if change == "another number of rounds" else 2)
    assert journal.read_bytes() == kept


def test_a_journal_that_cannot_be_read_any_more_is_begun_anew(
    models: list[NetworkModel], tmp_path: Path
) -> None:
    journal = tmp_path / "here.journal"
    kept = measured(models, journal).kernels[CALL].times_ms
    journal.write_bytes(journal.read_bytes()[:200])
    again = measured(models, journal)
    assert not np.isin(again.kernels[CALL].times_ms, kept).all()
    assert len(again.kernels[CALL].times_ms) == 3


def test_what_a_profile_holds_is_not_measured_again_and_stays_as_it_was() -> None:
    assert missing(list(PROFILE.kernels), PROFILE) == []
    slower = replace(PROFILE, kernels={CALL: rounds_of(5.0)}, networks=PROFILE.networks[:1])
    both = extend(PROFILE, slower)
    assert both.kernels == PROFILE.kernels
    assert len(both.networks) == len(PROFILE.networks) + 1


def test_a_family_that_grows_is_a_whole_grid_again() -> None:
    (wider,) = RUNTIME.lower(conv(128, 96), PLAIN).kernels
    known = {k for k in PROFILE.kernels if k.family == wider.family}
    assert known
    added = missing([wider], PROFILE)
    assert {kernel.family for kernel in added} == {wider.family}
    outs = {kernel.out_channels for kernel in known}
    assert {(k.in_channels, k.out_channels) for k in added} == {(128, outputs) for outputs in outs}
    more = replace(PROFILE, kernels={k: rounds_of(kernel_ms(k)) for k in added}, networks=())
    LatencyTable.from_profile(extend(PROFILE, more))


def test_a_kernel_with_as_many_outputs_as_inputs_grows_along_its_diagonal() -> None:
    def pool(channels: int) -> OpSpec:
        return OpSpec(kind="max_pool2d", in_channels=channels, out_channels=channels, in_size=(8, 8))

    known = replace(PROFILE, kernels={pool(16): rounds_of(1.0), pool(64): rounds_of(2.0)})
    assert missing([pool(16), pool(32), pool(48)], known) == [pool(32), pool(48)]


def test_kernels_between_measured_counts_are_covered_and_others_are_not() -> None:
    def lowered(inputs: int, outputs: int) -> list[OpSpec]:
        return list(RUNTIME.lower(conv(inputs, outputs), PLAIN).kernels)

    assert covers(PROFILE, [*lowered(64, 96), *lowered(48, 80)])
    assert not covers(PROFILE, [*lowered(64, 96), *lowered(64, 160)])
    assert not covers(PROFILE, [*lowered(64, 96), *lowered(160, 96)])
    assert not covers(PROFILE, [OpSpec(kind="softmax", in_channels=4, out_channels=4)])


class TellsApart(Synthetic):
    """The made-up accelerator as one that tells the kernels of a whole network apart."""

    def __init__(self) -> None:
        super().__init__("fp32")
        self.alone: list[OpSpec] = []

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Run:
        self.alone.append(kernel)
        return super().prepare_kernel(kernel, device)

    def harvest(self, onnx_path: Path, device: Device) -> dict[OpSpec, Run]:
        kernels = [kernel for layer in LAYERS for kernel in self.lower(layer, PLAIN).kernels]
        return {kernel: super(TellsApart, self).prepare_kernel(kernel, device) for kernel in kernels}


def test_kernels_that_a_network_tells_apart_are_not_prepared_alone(models: list[NetworkModel]) -> None:
    runtime = TellsApart()
    device = runtime.describe(name="made up", batch=1, threads=1)
    inside = [kernel for layer in LAYERS for kernel in runtime.lower(layer, PLAIN).kernels]
    beside = list(runtime.lower(conv(64, 64), PLAIN).kernels)
    profile = build_profile(device, runtime, [*inside, *beside], models, passes=1, rounds=1)
    assert profile.kernels.keys() == {CALL, *inside, *beside}
    assert runtime.alone == [CALL, *beside]
