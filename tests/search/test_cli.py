"""The command line: the demo from end to end, looking at a run, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import search
from hwprofiles import Rounds, read_profile, write_profile
from search import profiling
from search.place import Place
from search.report import significant
from tests.search.conftest import DIGITS, Prunefront, Ran
from trials.bundle import read_bundle
from trials.groups import analyse
from trials.prune import prune
from trials.store import Store

SHORTER = {"trials": "6", "finalists": "1", "final_steps": "2", "latency": '"50%"'}
"""What the shortened demo has in its job file instead."""


@pytest.fixture
def quick_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "PASSES", 1)
    monkeypatch.setattr(profiling, "ROUNDS", 2)


def written_json(ran: Ran) -> Any:
    """What a command wrote, which must be JSON and nothing else."""
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_the_demo_shortened(
    prunefront: Prunefront, quick_profile: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prunefront run` on the example's job file, with fewer trials, steps and measuring rounds."""
    text = (DIGITS / "job.toml").read_text()
    for key, value in SHORTER.items():
        text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert count == 1
    for name in ("model.py", "resnet.safetensors"):
        os.symlink(DIGITS / name, tmp_path / name)
    (tmp_path / "job.toml").write_text(text)
    monkeypatch.setenv("COLUMNS", "200")

    ran = prunefront("run", tmp_path / "job.toml", "--runs", tmp_path / "runs", "--name", "digits")
    assert ran.code == 0, ran.err
    stages = [line for line in ran.out.splitlines() if line.endswith(" …")]
    assert stages == [f"{s} …" for s in "exporting profiling searching finishing measuring reporting".split()]
    assert "trial 6 of 6, best " in ran.out
    for expected in ("dense", "uniform 0", "★", "report   ", "export   ", "open     "):
        assert expected in ran.out
    [load] = [line.removeprefix("load") for line in ran.out.splitlines() if line.startswith("load")]
    assert subprocess.run(load, shell=True, env={"PATH": "/nowhere"}).returncode == 0

    run = tmp_path / "runs" / "digits"
    files = "bundle profile.parquet finalists export report.html report.json front.svg front.png"
    assert {path.name for path in run.iterdir()} == set(files.split())
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["measured"]["latency_ms"] > 0
    assert config["test"]["accuracy"] > 0.5
    assert search.load(run / "export")(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_the_units_kept_by_the_winner_are_named_by_index_and_prune_the_bundle_to_its_shapes(
    finished_runs: Path,
) -> None:
    folder = finished_runs / "small"
    config = json.loads((folder / "export" / "config.json").read_text())
    bundle = read_bundle(folder / "bundle")
    coupling = analyse(bundle.graph)
    kept = {name: np.array(units) for name, units in config["kept_units"].items()}
    assert set(kept) == {group.name for group in coupling.groups}
    assert {name: len(units) for name, units in kept.items()} == config["widths"]
    _, pruned = prune(coupling, bundle.tensors, kept)
    exported = load_file(folder / "export" / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in exported.items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in pruned.items()}
    assert shapes != {name: tuple(tensor.shape) for name, tensor in bundle.tensors.items()}


def test_a_run_that_is_done_says_so_and_shows_its_result(
    prunefront: Prunefront, small_job: Path, runs: Path
) -> None:
    again = prunefront("run", small_job, "--runs", runs)
    assert again.code == 0, again.err
    assert again.out.startswith("job 'small' is done; this is its result")
    assert written_json(prunefront("run", runs / "small", "--json"))["job"] == "small"
    assert written_json(prunefront("resume", "small", "--runs", runs, "--json"))["job"] == "small"


def test_a_finished_run_needs_neither_its_data_nor_its_device_to_be_shown(
    prunefront: Prunefront, runs: Path
) -> None:
    (runs / "small" / "profile.parquet").unlink()
    assert prunefront("run", runs / "small").code == 0


def test_a_changed_job_file_under_the_same_name_is_refused_by_key_and_values(
    prunefront: Prunefront, small_job: Path, runs: Path
) -> None:
    changed = small_job.with_name("changed.toml")
    changed.write_text(small_job.read_text().replace("trials = 12\nworkers = 2", "trials = 13\nworkers = 1"))
    ran = prunefront("run", changed, "--runs", runs)
    assert (ran.code, ran.out) == (2, "")
    assert "another job file (search.trials was 12 and is 13); run this one under another name" in ran.err


def trials_of(runs: Path) -> int:
    """How many trials the small job has: 12, or fewer where its table leaves no other candidate."""
    with Store.open(runs / "prunefront.db") as store:
        found = len(store.trials("small"))
    assert 6 <= found <= 12
    return found


def test_ls_and_show_tell_how_far_a_job_is(prunefront: Prunefront, finished_runs: Path) -> None:
    [job] = written_json(prunefront("ls", "--runs", finished_runs, "--json"))
    trials = trials_of(finished_runs)
    assert (job["job"], job["state"], job["trials"], job["planned"]) == ("small", "done", trials, 12)
    shown = written_json(prunefront("show", finished_runs / "small", "--json"))
    assert shown == {**job, "all_trials": shown["all_trials"]}
    assert [trial["trial"] for trial in shown["all_trials"]] == list(range(trials))
    assert f"{trials} of 12" in prunefront("ls", "--runs", finished_runs).out
    lines = prunefront("show", "small", "--runs", finished_runs).out.splitlines()
    for trial in shown["all_trials"]:
        [line] = [line for line in lines if line.split()[:1] == [str(trial["trial"])]]
        assert line.split()[1:3] == [trial["origin"], trial["state"]]
        assert line.rstrip().endswith(trial["then"])


def test_show_tells_what_a_trial_keeps_by_group_and_predicted_beside_measured(
    prunefront: Prunefront, finished_runs: Path
) -> None:
    config = json.loads((finished_runs / "small" / "export" / "config.json").read_text())
    number = config["trial"]
    trial = written_json(prunefront("show", finished_runs / "small", "--trial", number, "--json"))
    assert (trial["trial"], trial["state"], trial["then"]) == (number, "done", "exported")
    assert (trial["widths"], trial["predicted"]) == (config["widths"], config["predicted"])
    shown = prunefront("show", finished_runs / "small", "--trial", number).out
    for name, kept in config["widths"].items():
        assert [name, str(kept), "48"] in [line.split()[:3] for line in shown.splitlines()]
    [finalist] = [line for line in shown.splitlines() if line.split()[:1] == ["finalist"]]
    assert significant(config["predicted"]["latency_ms"]) + "±" in finalist
    assert finalist.split()[4] == significant(config["measured"]["latency_ms"])


def test_a_trial_that_is_not_there_or_whose_graph_is_gone_is_not_shown(
    prunefront: Prunefront, runs: Path, finished_runs: Path
) -> None:
    last = trials_of(finished_runs) - 1
    missing = prunefront("show", finished_runs / "small", "--trial", 12)
    assert (missing.code, missing.err) == (
        2,
        f"error: job 'small' has no trial 12; its trials: 0 to {last}\n",
    )
    (runs / "small" / "bundle" / "graph.json").unlink()
    gone = prunefront("show", runs / "small", "--trial", 0)
    assert (gone.code, gone.out) == (2, "")
    assert "graph.json cannot be read; restore it" in gone.err


def test_in_a_pipe_a_table_is_as_wide_as_it_needs(planned_store: Store, tmp_path: Path) -> None:
    spec = planned_store.job("small").spec
    planned_store.create_job("n" * 64, spec, {})
    command = [sys.executable, "-m", "search.cli", "ls", "--runs", tmp_path]
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    piped = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.search(r"n{64} +\w+ +0 of 12", piped)
    narrow = subprocess.run(command, env={**environment, "COLUMNS": "80"}, capture_output=True, text=True)
    assert all(len(line) <= 80 for line in narrow.stdout.splitlines())
    assert narrow.stdout.count("n") >= 64


def test_front_shows_the_trials_that_no_other_beats(prunefront: Prunefront, runs: Path) -> None:
    report = written_json(prunefront("front", runs / "small", "--json"))
    on_front = [point for point in report["points"] if point["on_front"]]
    for point in on_front:
        assert not [
            other
            for other in report["points"]
            if other["accuracy"] > point["accuracy"] and other["predicted_ms"] < point["predicted_ms"]
        ]
    shown = prunefront("front", runs / "small")
    assert f"hypervolume {report['hypervolume'][-1]:.4f} of 1" in shown.out
    assert all(f" {point['number']} " in shown.out for point in on_front)


def test_front_of_a_planned_job_has_no_trial_yet(prunefront: Prunefront, planned_runs: Path) -> None:
    ran = prunefront("front", "small", "--runs", planned_runs)
    assert ran.code == 0, ran.err
    assert "has no finished trial yet" in ran.out
    assert written_json(prunefront("front", "small", "--runs", planned_runs, "--json"))["points"] == []
    none = prunefront("export", "small", "--runs", planned_runs)
    assert none.code == 2
    assert "no finalist to export yet; finished trials: none yet" in none.err


def test_another_trial_is_trained_measured_and_exported_by_number_or_by_budget(
    prunefront: Prunefront, runs: Path, tmp_path: Path
) -> None:
    report = written_json(prunefront("front", runs / "small", "--json"))
    finalists = [row["trial"] for row in report["rows"]]
    other = next(p["number"] for p in report["points"] if p["number"] not in finalists)
    exported = written_json(prunefront("export", runs / "small", "--trial", other, "--json"))
    assert exported == {"trial": other, "folder": str(runs / "small" / f"export-trial-{other}")}
    assert search.load(exported["folder"])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    again = written_json(prunefront("front", runs / "small", "--json"))
    assert other in [row["trial"] for row in again["rows"]]
    assert [row["trial"] for row in again["rows"] if row["exported"]] == [
        row["trial"] for row in report["rows"] if row["exported"]
    ]

    limit = sorted(point["predicted_ms"] for point in report["points"])[3] * 1.5
    chosen = prunefront("export", runs / "small", "--budget", f"latency_ms={limit}", "-o", tmp_path / "best")
    assert chosen.code == 0, chosen.err
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["predicted"]["latency_ms"] + config["predicted"]["error_ms"] <= limit
    predicted_ms, measured_ms = (significant(config[key]["latency_ms"]) for key in ("predicted", "measured"))
    told = (
        f"trial {config['trial']}: validation {config['facts']['accuracy']:.2%}, "
        f"test {config['test']['accuracy']:.2%}, predicted {predicted_ms} ms, measured {measured_ms} ms; "
        f"of latency_ms={limit}: the most accurate"
    )
    assert told.replace("%", " %") in chosen.out


def test_the_export_of_the_winner_is_not_written_twice_unless_it_is_damaged_or_asked_for(
    prunefront: Prunefront, runs: Path, tmp_path: Path
) -> None:
    exported = written_json(prunefront("export", runs / "small", "--json"))
    assert exported["folder"] == str(runs / "small" / "export")
    number = exported["trial"]
    assert prunefront("export", runs / "small").out.endswith(f"trial {number} is in {runs}/small/export\n")
    assert prunefront("export", runs / "small", "-o", tmp_path / "copy").code == 0
    assert search.load(tmp_path / "copy")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert not list((runs / "small").glob("export-*"))

    with (runs / "small" / "export" / "model.onnx").open("ab") as damaged:
        damaged.write(b"?")
    again = written_json(prunefront("export", runs / "small", "--json"))
    assert again == {"trial": number, "folder": str(runs / "small" / f"export-trial-{number}")}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trial", "99"], "error: job 'small' has no finished trial 99; finished trials: 0, 1, 2"),
        (
            ["--budget", "latency_ms=1e-9"],
            "no trial of job 'small' is predicted to take at most 1e-09 ms; the",
        ),
        (["--budget", "macs=5"], "error: --budget 'macs=5' is not of the form latency_ms=5"),
        (["--trial", "1", "--budget", "latency_ms=5"], "error: export takes --trial or --budget, not both"),
    ],
)
def test_an_export_that_cannot_be_is_refused(
    arguments: list[str], sentence: str, prunefront: Prunefront, finished_runs: Path
) -> None:
    ran = prunefront("export", finished_runs / "small", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err


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


def test_rm_forgets_a_job_and_its_files(prunefront: Prunefront, runs: Path) -> None:
    assert written_json(prunefront("rm", runs / "small", "--json")) == {"removed": str(runs / "small")}
    assert not (runs / "small").exists()
    assert written_json(prunefront("ls", "--runs", runs, "--json")) == []
    ran = prunefront("rm", "small", "--runs", runs)
    assert (ran.code, ran.err) == (2, "error: the store has no job 'small'; it has none at all\n")
    assert not (runs / "small").exists()


def test_a_job_that_another_process_works_on_is_left_to_it(prunefront: Prunefront, runs: Path) -> None:
    with Place(runs, "small").lock():
        for command in ("run", "rm", "export"):
            ran = prunefront(command, runs / "small")
            assert (ran.code, ran.out) == (3, "")
            assert ran.err.startswith("error: another process works on job 'small'")


def test_commands_about_runs_that_are_not_there_make_none(prunefront: Prunefront, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert prunefront("ls", "--runs", runs).out.startswith("no jobs in ")
    for command in ("show", "front", "export", "rm", "resume"):
        ran = prunefront(command, "small", "--runs", runs)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"error: there are no runs in {runs}; start one with")
    assert not runs.exists()


def test_a_folder_of_runs_that_cannot_be_made_is_named(
    prunefront: Prunefront, small_job: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ran = prunefront("run", small_job, "--runs", tmp_path / "file" / "runs")
    assert ran.code == 2
    assert "cannot be made: Not a directory; choose another with --runs" in ran.err


def test_usage_that_no_command_understands_exits_with_2(prunefront: Prunefront) -> None:
    assert prunefront("prune").code == 2
    assert prunefront("run", "job.toml", "--workers", "0").code == 2
    assert prunefront("--help").code == 0


def changed(job: Path, name: str, **tables: str) -> Path:
    """A job file beside `job` in which whole tables are replaced."""
    text = job.read_text()
    for table, content in tables.items():
        start = text.index(f"[{table}]")
        end = text.find("\n[", start)
        text = text[:start] + f"[{table}]\n{content}\n" + (text[end:] if end >= 0 else "")
    tomllib.loads(text)
    path = job.with_name(f"{name}.toml")
    path.write_text(text)
    return path


MODEL = 'factory = "model:resnet"\nargs = { width = 48, blocks = 1 }\ninput = { shape = [1, 8, 8] }'


def images(shape: tuple[int, ...] = (60, 1, 8, 8), classes: int = 10, nan: bool = False) -> dict[str, Any]:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    if nan:
        values[7] = np.nan
    return {"x": values, "y": np.arange(len(values)) % classes}


REFUSED_DATA = {
    "labels beyond the outputs": (images(classes=11), "labels up to 10 but the model gives 10 outputs"),
    "one class": (images(classes=1), "has examples of class 0 only"),
    "another image size": (
        images((60, 1, 9, 9)),
        "the data has inputs of shape [(1, 9, 9)] but the model takes",
    ),
    "NaN": (images(nan=True), "has a NaN or infinite input in row 7"),
}


def refused(ran: Ran, sentence: str, runs: Path) -> None:
    """One sentence on standard error, exit code 2, and nothing left of the job."""
    assert (ran.code, ran.out) == (2, ""), ran
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert sentence in ran.err
    left = {path.name.split("-")[0] for path in runs.iterdir()} if runs.exists() else set()
    assert left <= {"prunefront.db"}
    if left:
        with Store.open(runs / "prunefront.db") as store:
            assert store.jobs() == []


@pytest.mark.parametrize("case", REFUSED_DATA)
def test_data_that_does_not_fit_is_refused_in_one_sentence(
    case: str, prunefront: Prunefront, small_job: Path, tmp_path: Path
) -> None:
    arrays, sentence = REFUSED_DATA[case]
    np.savez(tmp_path / "data.npz", **arrays)
    job = changed(small_job, "refused", data=f'source = "npz"\ntrain = "{tmp_path / "data.npz"}"')
    ran = prunefront("run", job, "--json", "--runs", tmp_path / "runs")
    refused(ran, sentence, tmp_path / "runs")


NO_ARGUMENTS = MODEL.replace("{ width = 48, blocks = 1 }", "{}")
CHECKPOINT = '\ncheckpoint = "small.safetensors"'
REFUSED_TABLES = {
    "unknown key": (
        {"budget": 'latencies = "50%"'},
        "budget.latencies = \"50%\" is an unknown key; did you mean 'latency'?",
    ),
    "no checkpoint": ({"model": MODEL + CHECKPOINT.replace("ll", "l")}, "did you mean 'small.safetensors'?"),
    "no factory": (
        {"model": MODEL.replace(":resnet", ":resnets")},
        "has no function 'resnets'; did you mean 'resnet'?",
    ),
    "NaN": (
        {"model": MODEL + CHECKPOINT.replace("small", "nan")},
        "holds NaN or infinite numbers in 'head.weight'",
    ),
    "torn": ({"model": MODEL + CHECKPOINT.replace("small", "torn")}, "torn.safetensors cannot be read"),
    "other widths": ({"model": MODEL.replace("48", "32") + CHECKPOINT}, "check model.args"),
    "nothing to prune": (
        {"model": NO_ARGUMENTS.replace("resnet", "linear")},
        "the model has no group that may be pruned",
    ),
    "no model": (
        {"model": NO_ARGUMENTS.replace("resnet", "nothing")},
        "returned NoneType, not an nn.Module",
    ),
    "too few MACs": ({"budget": "macs = 1000"}, "the budget macs = 1000 cannot be met: the smallest reach"),
    "too few parameters": ({"budget": "parameters = 10"}, "the budget parameters = 10 cannot be met: the sm"),
}


@pytest.mark.parametrize("case", REFUSED_TABLES)
def test_a_job_that_cannot_be_run_is_refused_in_one_sentence_before_anything_is_measured(
    case: str,
    prunefront: Prunefront,
    small_job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables, sentence = REFUSED_TABLES[case]

    def measures(*arguments: object) -> None:
        raise AssertionError("the device was measured")

    monkeypatch.setattr(profiling, "measure_profile", measures)
    folder = small_job.parent
    (folder / "torn.safetensors").write_bytes((folder / "small.safetensors").read_bytes()[:1000])
    state = load_file(folder / "small.safetensors")
    state["head.weight"][0, 0] = torch.nan
    save_file(state, folder / "nan.safetensors")
    ran = prunefront("run", changed(small_job, "refused", **tables), "--runs", tmp_path / "runs")
    ran = Ran(ran.code, ran.out.removeprefix("exporting …\n").partition("  finding")[0], ran.err)
    refused(ran, sentence, tmp_path / "runs")


def test_a_latency_that_no_candidate_reaches_is_refused_with_the_smallest_one(
    prunefront: Prunefront, quick_profile: None, small_job: Path, tmp_path: Path
) -> None:
    job = changed(small_job, "refused", budget="latency_ms = 1e-6")
    ran = prunefront("run", job, "--json", "--runs", tmp_path / "runs")
    refused(
        ran, "the budget latency_ms = 1e-06 cannot be met: the smallest reachable is 0.", tmp_path / "runs"
    )
