"""`prunefront inspect`, `profile`, `trial` and `bundle`: a job's parts one by one, without a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwprofiles import Rounds, read_profile, write_profile
from tests.commands import Prunefront, written_json
from trials.bundle import read_bundle


def test_inspect_lists_groups_with_their_shares(
    prunefront: Prunefront,
    small_job: Path,
    finished_runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = written_json(prunefront("inspect", small_job, "--runs", finished_runs, "--json"))
    assert {group["name"]: group["size"] for group in found["groups"]} == {
        "stem.0": 48, "blocks.0.conv1": 48, "last.conv1": 48, "last.conv2": 48
    }  # fmt: skip
    assert found["profile"]
    assert all(0 < group["latency_share"] <= 1 for group in found["groups"])
    monkeypatch.setenv("COLUMNS", "200")
    shown = prunefront("inspect", small_job, "--runs", tmp_path)
    assert "blocks.0.conv1" in shown.out
    assert f"latency shares need a profile: prunefront profile {small_job}" in shown.out.replace("\n", "")


@pytest.mark.parametrize(("slower", "step", "pays"), [(3.0, 1, False), (3.0, 4, True), (0.01, 1, True)])
def test_inspect_warns_of_counts_that_a_job_may_keep_and_that_cost_more_than_the_whole_group(
    slower: float, step: int, pays: bool, prunefront: Prunefront, small_job: Path, runs: Path
) -> None:
    """On a machine whose kernels for odd input counts are that much slower than they are here."""
    path = runs / "small" / "profile.parquet"
    profile = read_profile(path)
    if profile.device.channel_step == 1:
        pytest.skip("ONNX Runtime works on plain memory on this CPU")
    kernels = {
        kernel: Rounds(rounds.times_ms * (slower if kernel.kind == "conv2d_nchw" else 1))
        for kernel, rounds in profile.kernels.items()
    }
    write_profile(replace(profile, kernels=kernels), path)
    job = small_job.with_name("inspected.toml")
    job.write_text(small_job.read_text().replace("round_to = 4", f"round_to = {step}\nlowest_keep = 0.167"))
    found = written_json(prunefront("inspect", job, "--runs", runs, "--json"))
    (dear,) = [group["dear"] for group in found["groups"] if group["name"] == "blocks.0.conv1"]
    shown = prunefront("inspect", job, "--runs", runs)
    warned = "pruning does not pay: blocks.0.conv1: 48→" in shown.out.replace("\n", "")
    if pays:
        assert (dear, warned) == (None, False)
    else:
        assert 47 in dear["counts"]
        assert not [count for count in dear["counts"] if count % 16 == 0]
        assert dear["worst_ms"] > dear["whole_ms"]
        assert warned


def test_profile_and_named_candidates_can_be_had_before_any_search(
    prunefront: Prunefront, quick_profile: None, small_job: Path, tmp_path: Path
) -> None:
    runs, widths = tmp_path / "runs", tmp_path / "widths.json"
    profile = written_json(prunefront("profile", small_job, "--runs", runs, "--json"))
    assert Path(profile["profile"]).exists()
    widths.write_text('[{"last.conv1": 16}, {"last.conv1": 48}, {"stem.0": 20, "last.conv2": 8}]')
    found = written_json(
        prunefront("trial", small_job, "--widths", widths, "--measure", "--runs", runs, "--json")
    )
    assert [item["widths"]["last.conv1"] for item in found] == [16, 48, 48]
    assert "keeps every unit" in found[1]["failed"]
    assert all(item["measured_ms"] > 0 for item in found)
    assert 0.2 < found[0]["facts"]["accuracy"] <= 1
    shown = prunefront("trial", small_job, "--widths", widths, "--rung", 2, "--runs", runs)
    assert shown.out.startswith("candidate 2 failed: the candidate keeps every unit")
    assert written_json(prunefront("profile", small_job, "--runs", runs, "--json")) == profile
    assert written_json(prunefront("ls", "--runs", runs, "--json")) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"lst.conv1": 16}]', "no prunable group; did you mean 'last.conv1'?"),
        ('[{"last.conv1": 49}]', "widths keep 49 of group 'last.conv1'; allowed: 1 to 48"),
        ('[{"last.conv1": "16"}]', "widths keep '16' of group 'last.conv1'"),
        ("[]", "holds no candidates"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"last.conv1": 8, "last.conv1": 16}', "'last.conv1' is there twice"),
    ],
)
def test_wrong_widths_are_refused_by_group_and_count(
    content: str, sentence: str, prunefront: Prunefront, small_job: Path, finished_runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "widths.json").write_text(content)
    ran = prunefront("trial", small_job, "--widths", tmp_path / "widths.json", "--runs", finished_runs)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err


def test_bundle_only_exports(prunefront: Prunefront, small_job: Path, tmp_path: Path) -> None:
    found = written_json(prunefront("bundle", small_job, "-o", tmp_path / "bundle", "--json"))
    assert read_bundle(tmp_path / "bundle").sha256 == found["sha256"]
    ran = prunefront("bundle", small_job, "-o", tmp_path / "bundle")
    assert (ran.code, ran.out) == (2, "")
    assert "exists already; choose another folder or remove it" in ran.err
