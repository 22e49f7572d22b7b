"""`prunefront profile --device`: measured, grown, resumed and refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hwprofiles import (
    Device,
    MeasuredNetwork,
    OpSpec,
    Profile,
    read_profile,
    write_profile,
)
from hwprofiles.errors import ProfileError, TransientError
from hwprofiles.runtimes import CALL
from latency_models import NetworkModel
from latency_models import profiling as measuring
from search import device_tables, profiling
from search.bench import Bench, open_here
from search.growth import profile_device
from search.progress import Silent
from tests.commands import Prunefront, refused, written_json
from tests.latency_models.test_table import rounds_of
from tests.search.devices.conftest import made_up, made_up_ms, made_up_network


def test_a_profile_is_measured_for_a_bundle_alone_and_proved_on_networks_held_out(
    prunefront: Prunefront, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--device", "bench", "--model", bundles / "small", "--passes", 2, "--runs", tmp_path)
    shown = prunefront("profile", *options)
    assert shown.code == 0, shown.err
    assert "of this model that nothing was fitted to" in shown.out
    assert "too few to tell ranks and shares" in shown.out
    assert [path.name for path in (tmp_path / "devices").iterdir()] == ["bench.parquet"]
    profile = read_profile(tmp_path / "devices" / "bench.parquet")
    assert len(profile.networks) == 4
    assert profile.held_out
    assert {len(rounds.times_ms) for rounds in profile.kernels.values()} == {2}
    assert not {net.graph for net in profile.networks} & {net.graph for net in profile.held_out}
    widths = [net.graph.operators[0].out_channels for net in (*profile.networks, *profile.held_out)]
    step = profile.device.channel_step
    assert any(width % step for width in widths)
    assert any(width % step == 0 and width < 32 for width in widths)

    def measures(*arguments: object, **options: object) -> None:
        raise AssertionError("the device was measured")

    monkeypatch.setattr(measuring, "measure", measures)
    (tmp_path / "devices" / "bench.journal").write_text("of another model, cut short")
    again = written_json(prunefront("profile", *options, "--json"))
    assert (tmp_path / "devices" / "bench.journal").exists()
    assert (again["added"], again["validation"]["networks"]) == (
        {"kernels": 0, "networks": 0},
        len(profile.held_out),
    )


def test_another_model_adds_what_it_lacks_and_leaves_what_is_there(
    prunefront: Prunefront, bundles: Path, runs: Path
) -> None:
    path = runs / "devices" / "bench.parquet"
    before = read_profile(path)
    options = ("--device", "bench", "--model", bundles / "deep", "--passes", 1, "--runs", runs, "--json")
    found = written_json(prunefront("profile", *options))
    after = read_profile(path)
    assert found["added"]["kernels"] == len(after.kernels) - len(before.kernels) > 0
    assert {kernel: after.kernels[kernel] for kernel in before.kernels} == dict(before.kernels)
    assert after.networks[: len(before.networks)] == before.networks
    assert found["validation"]["networks"] == len(after.held_out) - len(before.held_out) > 0
    listed = written_json(prunefront("devices", "--runs", runs, "--json"))
    assert [(item["device"], item.get("models")) for item in listed] == [("this-cpu", None), ("bench", 2)]


def test_a_measurement_ended_by_ctrl_c_goes_on_and_leaves_no_journal(
    prunefront: Prunefront, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--device", "bench", "--model", bundles / "small", "--passes", 2, "--runs", tmp_path)
    measure = measuring.measure
    passes: list[int] = []

    def ends_in_the_second_pass(*arguments: Any, **named: Any) -> Any:
        passes.append(named["seed"])
        if len(passes) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **named)

    monkeypatch.setattr(measuring, "measure", ends_in_the_second_pass)
    ended = prunefront("profile", *options)
    assert (
        ended.code,
        "finished passes are kept, or the whole profile, and the same command goes on" in ended.err,
    ) == (130, True)
    assert [path.name for path in (tmp_path / "devices").iterdir()] == ["bench.journal"]
    refused(
        prunefront("profile", *options, "--batch", 2),
        "bench.journal keeps finished passes of a measurement with batch 1, not 2; repeat",
    )
    assert prunefront("profile", *options).code == 0
    assert passes == [0, 1, 1]
    assert [path.name for path in (tmp_path / "devices").iterdir()] == ["bench.parquet"]


def test_a_profile_is_not_grown_with_another_identity(
    prunefront: Prunefront, bundles: Path, runs: Path
) -> None:
    path = runs / "devices" / "bench.parquet"
    before = path.read_bytes()
    options = ("--device", "bench", "--model", bundles / "deep", "--runs", runs)
    refused(prunefront("profile", *options, "--threads", 2), "was measured with threads 1, not 2")
    assert path.read_bytes() == before


def test_what_became_another_device_while_it_was_measured_is_not_added(bundles: Path, runs: Path) -> None:
    path = runs / "devices" / "bench.parquet"
    before = path.read_bytes()

    def open_bench(name: str, **way: Any) -> Bench:
        device, measure = open_here(name, **way)

        def changing(*things: Any, **options: Any) -> Profile:
            more = measure(*things, **options)
            return replace(more, device=replace(more.device, power_mode="another"))

        return Bench(device, changing)

    with pytest.raises(ProfileError, match=r"power_mode .*, not 'another'"):
        profile_device(bundles / "deep", "bench", runs / "devices", {}, 1, Silent(), open_bench)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("pace", "fits"), [(1.0, True), (1.8, False)])
def test_a_profile_grows_only_while_the_device_is_as_fast_as_it_was_and_proves_its_other_models_again(
    pace: float, fits: bool, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of linear layers it knows the ends; what it learns between them is wrong by half, and is said to be."""
    monkeypatch.setattr(profiling, "MOVED", 0.1)
    device = Device(name="far", runtime="onnxruntime", board="a CPU elsewhere", channel_step=16)
    path = tmp_path / "far.parquet"
    known = made_up(bundles / "small", device)
    ends = {k: r for k, r in known.kernels.items() if k.kind != "linear" or k.in_channels in (1, 32)}
    write_profile(replace(known, kernels=ends), path)
    before = path.read_bytes()

    def measure(kernels: Sequence[OpSpec], networks: Sequence[NetworkModel], **options: Any) -> Profile:
        def measured(things: Sequence[NetworkModel]) -> tuple[MeasuredNetwork, ...]:
            return tuple(replace(made_up_network(net.graph, device, pace), name=net.name) for net in things)

        return Profile(
            device=device,
            kernels={
                kernel: rounds_of(pace * made_up_ms([kernel]) * (1.0 if kernel in ends else 1.5))
                for kernel in (CALL, *kernels)
            },
            networks=measured(networks),
            held_out=measured(options["held_out"]),
            created=datetime.now(UTC),
        )

    def grow() -> dict[str, Any]:
        bench = Bench(device, measure)
        return profile_device(bundles / "deep", "far", tmp_path, {}, 1, Silent(), lambda *_, **way: bench)

    if fits:
        (other,) = (grown := grow())["others"]
        assert other["model"] == 1
        assert other["before"]["mean_error"] < 0.01 < other["after"]["mean_error"]
        (line,) = [line for line in device_tables.profile(grown) if "model 1" in line]
        assert line.endswith(" before")
    else:
        with pytest.raises(TransientError, match=r"takes \+80% .* profile stays as it was"):
            grow()
    assert (path.read_bytes() != before) is fits


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "a/b", "--model", "small"], "a device cannot be called 'a/b'"),
        (["--device", "bench"], "profile takes a job file alone, or --device NAME with --model"),
        (["--model", "small"], "profile takes a job file alone, or --device NAME with --model"),
        (["small", "--batch", "2"], "profile takes a job file alone, or --device NAME with --model"),
        (["--device", "bench", "--model", "none.toml"], "none.toml does not exist"),
        (["--device", "bench", "--model", "small", "--runtime", "onnx"], "runtime 'onnx' is not known"),
        (["--device", "bench", "--model", "."], "manifest.json"),
    ],
)
def test_a_profile_that_cannot_be_measured_is_refused_and_leaves_nothing(
    arguments: list[str],
    sentence: str,
    prunefront: Prunefront,
    bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bundles)
    ran = prunefront("profile", *arguments, "--runs", tmp_path / "runs", "--json")
    refused(ran, sentence)
    assert not (tmp_path / "runs").exists()
