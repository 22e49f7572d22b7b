"""Profiles of devices from the command line: measured, grown, resumed, listed and predicted with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwprofiles import (
    Device,
    MeasuredNetwork,
    OpGraph,
    OpSpec,
    Profile,
    lower,
    lowering_of,
    read_profile,
    write_profile,
)
from hwprofiles.errors import ProfileError, TransientError
from hwprofiles.runtimes import CALL
from latency_models import NetworkModel, plan
from latency_models import profiling as measuring
from search import device_tables, devices, profiling
from search.bench import Bench, open_here
from search.growth import profile_device
from search.place import Place
from search.progress import Silent
from tests.bundles import export_images
from tests.latency_models.test_table import rounds_of
from tests.search.conftest import Prunefront, Ran
from trials.bundle import read_bundle
from trials.candidate import Candidate
from trials.costs import Costs
from trials.groups import analyse


def network(width: int, *, deep: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        *([nn.Conv2d(width, width, 3, padding=1), nn.ReLU()] if deep else []),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    ).eval()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles alone, without data: `small`, and `deep`, which runs all kernels of `small` and others."""
    folder = tmp_path_factory.mktemp("bundles")
    export_images(network(32), 3, 8, 8).write(folder / "small")
    export_images(network(32, deep=True), 3, 8, 8).write(folder / "deep")
    return folder


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in {
        "ROUNDS": 2,
        "CALIBRATION_NETWORKS": 3,
        "HELD_OUT_NETWORKS": 4,
        "MOVED": np.inf,
    }.items():
        monkeypatch.setattr(profiling, name, count)


@pytest.fixture(scope="session")
def measured_runs(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the profile of one device, `bench`, measured for the small bundle."""
    runs = tmp_path_factory.mktemp("devices") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        for constant, count in {"ROUNDS": 4, "CALIBRATION_NETWORKS": 3, "HELD_OUT_NETWORKS": 4}.items():
            patch.setattr(profiling, constant, count)
        profile_device(bundles / "small", "bench", Place(runs, "").devices, {}, 1, Silent())
    return runs


@pytest.fixture
def runs(measured_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured_runs, tmp_path / "runs"))


def written_json(ran: Ran) -> Any:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def refused(ran: Ran, sentence: str) -> None:
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert sentence in ran.err


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


def test_devices_lists_age_error_and_whether_it_is_this_machine(
    prunefront: Prunefront, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "devices"
    profile = read_profile(folder / "bench.parquet")
    elsewhere = replace(profile.device, name="board", board="another board")
    shipped = runs / "shipped"
    write_profile(replace(profile, device=elsewhere, held_out=()), shipped / "board.parquet")
    (folder / "torn.parquet").write_bytes((folder / "bench.parquet").read_bytes()[:99])
    monkeypatch.setattr(devices, "SHIPPED", shipped)
    here, bench, board, torn = written_json(prunefront("devices", "--runs", runs, "--json"))
    assert (here["device"], here["profile"], here["this_machine"]) == ("this-cpu", None, True)
    assert (bench["device"], bench["this_machine"], bench["shipped"]) == ("bench", True, False)
    assert bench["mean_error"] > 0
    assert 0 <= bench["age_days"] < 1
    assert (board["this_machine"], board["shipped"], board["mean_error"]) == (False, True, None)
    assert "torn.parquet" in torn["wrong"]
    shown = prunefront("devices", "--runs", runs).out
    assert "torn: profile " in shown
    assert "another board" in shown


def test_energy_is_shown_by_network_and_rail_where_a_board_told_it(
    prunefront: Prunefront, runs: Path
) -> None:
    path = runs / "devices" / "bench.parquet"
    profile = read_profile(path)
    told = replace(profile.networks[0], energy_mj=({"VDD_IN": 20.0}, {"VDD_IN": 21.0}))
    untold = replace(profile.networks[1], energy_mj=())
    write_profile(replace(profile, networks=(told, untold), held_out=()), path)
    _, bench = written_json(prunefront("devices", "--runs", runs, "--json"))
    assert [item["energy_mj"] for item in bench["networks"]] == [{"VDD_IN": 20.5}, {}]
    shown = prunefront("lut", "show", "bench", "--runs", runs).out
    assert "mJ VDD_IN" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert [row[-1] for row in rows if row[1:2] in (["dense"], ["calibration"])] == ["20.5", "–"]


def test_a_profile_of_a_runtime_that_is_not_here_is_listed_without_its_error(
    prunefront: Prunefront, runs: Path
) -> None:
    path = runs / "devices" / "bench.parquet"
    profile = read_profile(path)
    write_profile(replace(profile, device=replace(profile.device, runtime="abacus")), path)
    _, bench = written_json(prunefront("devices", "--runs", runs, "--json"))
    assert (bench["runtime"], bench["this_machine"], bench["mean_error"]) == ("abacus", False, None)


def test_predictions_have_error_bars_operators_and_measurements(
    prunefront: Prunefront, bundles: Path, runs: Path, tmp_path: Path
) -> None:
    coupling = analyse(read_bundle(bundles / "small").graph)
    (group,) = coupling.groups
    widths = tmp_path / "widths.json"
    widths.write_text(json.dumps([{}, {group.name: 8}]))
    options = ("predict", bundles / "small", "--device", "bench", "--widths", widths, "--runs", runs)
    found = written_json(prunefront(*options, "--measure", "--json"))
    dense, narrow = found["candidates"]
    assert (dense["widths"], narrow["widths"]) == ({group.name: 32}, {group.name: 8})
    assert dense["predicted"]["latency_ms"] > narrow["predicted"]["latency_ms"] > 0
    assert dense["predicted"]["error_ms"] >= 0
    for item in (dense, narrow):
        assert 0 < sum(operator["share"] for operator in item["operators"]) < 1
        assert item["measured"]["p50_ms"] >= item["measured"]["latency_ms"] > 0
        assert item["measured"]["spread"] >= 0
    for key in ("peak_bytes", "weight_bytes"):
        assert dense["memory"][key] > narrow["memory"][key] > 0
    assert "3->8" in narrow["operators"][0]["operator"]
    assert found["calibrated_on"] == "this model"
    assert found["dense"]["change"] == pytest.approx(found["dense"]["now_ms"] / found["dense"]["then_ms"] - 1)
    shown = prunefront(*options).out
    assert dense["operators"][0]["name"] in shown

    widths.write_text(json.dumps([{group.name: 1}, {group.name: 8}]))
    thin, good = written_json(prunefront(*options, "--json"))["candidates"]
    assert "outside what table 'bench' holds" in thin["failed"]
    assert good["predicted"] == narrow["predicted"]
    shown = prunefront(*options).out
    assert "candidate 1: the model runs" in shown
    assert "shares are those of candidate 2" in shown
    widths.write_text(json.dumps([{group.name: 1}]))
    refused(prunefront(*options), "keep more units, or measure the device for a job")

    file = runs / "devices" / "bench.parquet"
    alone = written_json(prunefront("predict", bundles / "small", "--device", file, "--json"))
    assert alone["candidates"][0]["predicted"] == dense["predicted"]


def test_a_prediction_that_cannot_be_is_refused(
    prunefront: Prunefront, bundles: Path, runs: Path, tmp_path: Path
) -> None:
    small = bundles / "small"
    folder = runs / "devices"
    refused(
        prunefront("predict", small, "--device", "benhc", "--runs", runs),
        f"device 'benhc' has no profile in {folder}; did you mean 'bench'?; measure one with",
    )
    refused(
        prunefront("predict", bundles / "deep", "--device", "bench", "--runs", runs),
        "a kernel that table 'bench' does not hold",
    )
    refused(prunefront("predict", small, "--device", "", "--runs", runs), "a device cannot be called ''")
    refused(
        prunefront("predict", "nowhere", "--device", "bench", "--runs", runs),
        "nowhere does not exist; give a job file, or the folder of a bundle",
    )
    (tmp_path / "widths.json").write_text("[{}, [1]]")
    refused(
        prunefront(
            "predict", small, "--device", "bench", "--widths", tmp_path / "widths.json", "--runs", runs
        ),
        "candidate 2 is [1], not counts by group",
    )
    (tmp_path / "widths.json").write_text('[{"lost": 3}]')
    refused(
        prunefront(
            "predict", small, "--device", "bench", "--widths", tmp_path / "widths.json", "--runs", runs
        ),
        "widths name 'lost', which is no prunable group",
    )
    profile = read_profile(folder / "bench.parquet")
    elsewhere = replace(profile, device=replace(profile.device, board="another board"))
    write_profile(elsewhere, folder / "bench.parquet")
    assert prunefront("predict", small, "--device", "bench", "--runs", runs).code == 0
    imported = replace(elsewhere.device, versions={"source": "layers"})
    write_profile(replace(profile, device=imported), folder / "imported.parquet")
    refused(
        prunefront("predict", small, "--device", "imported", "--measure", "--runs", runs),
        "profile 'imported' was imported: nothing can be measured with it",
    )
    refused(
        prunefront("profile", "--device", "imported", "--model", small, "--runs", runs),
        "nothing that is measured can join it",
    )
    refused(
        prunefront("predict", small, "--device", "bench", "--measure", "--runs", runs),
        "board 'another board', not",
    )


def made_up_ms(kernels: Iterable[OpSpec]) -> float:
    """A call, and for each channel of each kernel a microsecond."""
    return 0.01 + 1e-3 * sum(kernel.in_channels + kernel.out_channels for kernel in kernels if kernel != CALL)


def made_up_network(graph: OpGraph, device: Device, pace: float = 1.0) -> MeasuredNetwork:
    ms = pace * made_up_ms(kernel for kernels in lower(graph, lowering_of(device)) for kernel in kernels)
    return MeasuredNetwork(name=str(ms), graph=graph, rounds=rounds_of(ms))


def made_up(bundle: Path, device: Device) -> Profile:
    """A profile of a device that is not here: kernels and networks as they would run there, times made up."""
    costs = Costs(analyse(read_bundle(bundle).graph))
    rules = lowering_of(device)
    graphs = [costs.candidate_graph(Candidate((kept,))) for kept in (32, 3, 8, 13, 20, 24, 27)]

    kernels = [CALL, *plan(costs.op_graph, costs.candidate_graph(Candidate((1,))), rules)]
    return Profile(
        device=device,
        kernels={kernel: rounds_of(made_up_ms([kernel])) for kernel in kernels},
        networks=tuple(made_up_network(graph, device) for graph in graphs[:4]),
        held_out=tuple(made_up_network(graph, device) for graph in graphs[4:]),
        created=datetime.now(UTC),
    )


def test_a_profile_of_a_cpu_with_other_blocks_predicts_here_and_is_not_measured_here(
    prunefront: Prunefront, bundles: Path, tmp_path: Path
) -> None:
    (tmp_path / "widths.json").write_text(json.dumps([{"0": 17}]))
    found, small = {}, bundles / "small"
    for block in (8, 16):
        device = Device(name="far", runtime="onnxruntime", board="a CPU elsewhere", channel_step=block)
        write_profile(made_up(small, device), tmp_path / "devices" / f"far-{block}.parquet")
        options = ("--device", f"far-{block}", "--widths", tmp_path / "widths.json", "--runs", tmp_path)
        (predicted,) = written_json(prunefront("predict", small, *options, "--json"))["candidates"]
        found[block] = predicted["predicted"]["latency_ms"]
        refused(prunefront("predict", small, *options, "--measure"), "board 'a CPU elsewhere', not")
        assert prunefront("lut", "check", f"far-{block}", "--runs", tmp_path).code == 0
        assert prunefront("lut", "show", f"far-{block}", "--operator", 1, "--runs", tmp_path).code == 0
    # What the convolution writes: 17 channels fill up 24 in blocks of 8, and 32 in blocks of 16.
    assert found[16] - found[8] == pytest.approx(0.008, rel=1e-3)
    listed = written_json(prunefront("devices", "--runs", tmp_path, "--json"))
    assert [item["mean_error"] < 1e-3 for item in listed if item["profile"]] == [True, True]
