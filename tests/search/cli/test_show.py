"""`prunefront ls`, `show`, `front` and `rm`: what a store holds, told, and forgotten."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from search.numbers import significant
from tests.commands import Prunefront, written_json
from trials.store import Store


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


def test_show_says_how_to_go_on_with_a_job_that_nobody_works_on(
    prunefront: Prunefront, planned_runs: Path, finished_runs: Path
) -> None:
    said = f"go on with: prunefront resume {planned_runs / 'small'}"
    assert prunefront("show", planned_runs / "small").out.splitlines()[-1] == said
    assert "prunefront resume" not in prunefront("show", finished_runs / "small").out


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
    report = written_json(prunefront("pareto", runs / "small", "--json"))
    on_front = [point for point in report["points"] if point["on_front"]]
    for point in on_front:
        assert not [
            other
            for other in report["points"]
            if other["accuracy"] > point["accuracy"] and other["predicted_ms"] < point["predicted_ms"]
        ]
    shown = prunefront("pareto", runs / "small")
    assert f"hypervolume {report['hypervolume'][-1]:.4f} of 1" in shown.out
    assert all(f" {point['number']} " in shown.out for point in on_front)


def test_front_of_a_planned_job_has_no_trial_yet(prunefront: Prunefront, planned_runs: Path) -> None:
    ran = prunefront("pareto", "small", "--runs", planned_runs)
    assert ran.code == 0, ran.err
    assert "has no finished trial yet" in ran.out
    assert written_json(prunefront("pareto", "small", "--runs", planned_runs, "--json"))["points"] == []
    none = prunefront("export", "small", "--runs", planned_runs)
    assert none.code == 2
    assert "no finalist to export yet; finished trials: none yet" in none.err


def test_rm_forgets_a_job_and_its_files(prunefront: Prunefront, runs: Path) -> None:
    assert written_json(prunefront("rm", runs / "small", "--json")) == {"removed": str(runs / "small")}
    assert not (runs / "small").exists()
    assert written_json(prunefront("ls", "--runs", runs, "--json")) == []
    ran = prunefront("rm", "small", "--runs", runs)
    assert (ran.code, ran.err) == (2, "error: the store has no job 'small'; it has none at all\n")
    assert not (runs / "small").exists()
