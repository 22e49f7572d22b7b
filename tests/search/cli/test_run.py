"""`prunefront run` and `resume`: a job from end to end, and what is done or begun already."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

import search
from search.place import Place
from tests.commands import Prunefront, written_json


def test_a_run_goes_through_all_stages_and_ends_with_its_networks_and_what_to_do_with_them(
    finished: tuple[Path, str],
) -> None:
    runs, out = finished
    stages = [line for line in out.splitlines() if line.endswith(" …")]
    assert stages == [f"{s} …" for s in "exporting profiling searching finishing measuring reporting".split()]
    assert "trial 12 of 12, best " in out
    for expected in ("dense", "uniform 0", "★", "report   ", "export   ", "open     "):
        assert expected in out
    [load] = [line.removeprefix("load") for line in out.splitlines() if line.startswith("load")]
    assert subprocess.run(load, shell=True, env={"PATH": "/nowhere"}).returncode == 0

    run = runs / "small"
    files = (
        "bundle profile.parquet sensitivity.json finalists export report.html report.json front.svg front.png"
    )
    assert {path.name for path in run.iterdir()} == set(files.split())
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["measured"]["latency_ms"] > 0
    assert config["test"]["accuracy"] > 0.5
    assert search.load(run / "export")(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


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


def test_a_run_warns_of_a_speed_up_that_was_measured_while_the_device_was_busy(
    prunefront: Prunefront, runs: Path
) -> None:
    path = runs / "small" / "report.json"
    report = json.loads(path.read_text())
    for spread, warned in ((0.01, False), (2.96, True)):
        for row in (report["dense"], *report["rows"]):
            row["measured_spread"] = 0.01
        report["dense"]["measured_spread"] = spread
        path.write_text(json.dumps(report))
        lines = prunefront("run", runs / "small").out.splitlines()
        warnings = [line for line in lines if line.startswith("warning: the measurement of the dense model")]
        assert bool(warnings) == warned


def test_a_changed_job_file_under_the_same_name_is_refused_by_key_and_values(
    prunefront: Prunefront, small_job: Path, runs: Path
) -> None:
    changed = small_job.with_name("changed.toml")
    changed.write_text(small_job.read_text().replace("trials = 12", "trials = 13"))
    ran = prunefront("run", changed, "--runs", runs)
    assert (ran.code, ran.out) == (2, "")
    assert "another job file (search.trials was 12 and is 13); run this one under another name" in ran.err


def test_a_job_that_another_process_works_on_is_left_to_it(prunefront: Prunefront, runs: Path) -> None:
    with Place(runs, "small").lock():
        for command in ("run", "rm", "export"):
            ran = prunefront(command, runs / "small")
            assert (ran.code, ran.out) == (3, "")
            assert ran.err.startswith("error: another process works on job 'small'")


def test_commands_about_runs_that_are_not_there_make_none(prunefront: Prunefront, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert prunefront("ls", "--runs", runs).out.startswith("no jobs in ")
    for command in ("show", "pareto", "export", "rm", "resume"):
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
    assert prunefront("--version").out.strip() == version("prunefront")
