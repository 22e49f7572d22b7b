"""`prunefront predict`: latencies with error bars, from profiles of this machine and of others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwprofiles import (
    Device,
    read_profile,
    write_profile,
)
from tests.commands import Prunefront, refused, written_json
from tests.search.devices.conftest import made_up
from trials.bundle import read_bundle
from trials.groups import analyse


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
