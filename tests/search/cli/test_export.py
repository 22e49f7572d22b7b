"""`prunefront export`: the winner, another trial by its number, the best within a budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import search
from search.numbers import significant
from tests.commands import Prunefront, written_json
from trials.bundle import read_bundle
from trials.groups import analyse
from trials.prune import prune


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


def test_another_trial_is_trained_measured_and_exported_by_number_or_by_budget(
    prunefront: Prunefront, runs: Path, tmp_path: Path
) -> None:
    report = written_json(prunefront("pareto", runs / "small", "--json"))
    finalists = [row["trial"] for row in report["rows"]]
    other = next(p["number"] for p in report["points"] if p["number"] not in finalists)
    exported = written_json(prunefront("export", runs / "small", "--trial", other, "--json"))
    assert exported == {"trial": other, "folder": str(runs / "small" / f"export-trial-{other}")}
    assert search.load(exported["folder"])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    again = written_json(prunefront("pareto", runs / "small", "--json"))
    assert other in [row["trial"] for row in again["rows"]]
    assert [row["trial"] for row in again["rows"] if row["exported"]] == [
        row["trial"] for row in report["rows"] if row["exported"]
    ]

    limit = sorted(point["predicted_ms"] for point in report["points"])[3] * 1.5
    asked = ("--budget", f"latency_ms={limit}", "--budget", "macs=1e9")
    chosen = prunefront("export", runs / "small", *asked, "-o", tmp_path / "best")
    assert chosen.code == 0, chosen.err
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["predicted"]["latency_ms"] + config["predicted"]["error_ms"] <= limit
    predicted_ms, measured_ms = (significant(config[key]["latency_ms"]) for key in ("predicted", "measured"))
    told = (
        f"trial {config['trial']}: validation {config['facts']['accuracy']:.2%}, "
        f"test {config['test']['accuracy']:.2%}, predicted {predicted_ms} ms, measured {measured_ms} ms; "
        f"of latency_ms={limit} and macs=1e9: the most accurate"
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
            "no trial of job 'small' holds latency_ms=1e-09 on this-cpu; the nearest, trial",
        ),
        (
            ["--budget", "macs=5", "--budget", "size_bytes=9"],
            "job 'small' holds macs=5 and size_bytes=9; the",
        ),
        (
            ["--budget", "mac=5"],
            "error: --budget 'mac=5' is not of the form latency_ms=5; allowed, each once: lat",
        ),
        (["--budget", "macs=x"], "error: --budget macs=x limits nothing; give each a number above 0"),
        (["--trial", "1", "--budget", "latency_ms=5"], "error: export takes --trial or --budget, not both"),
    ],
)
def test_an_export_that_cannot_be_is_refused(
    arguments: list[str], sentence: str, prunefront: Prunefront, finished_runs: Path
) -> None:
    ran = prunefront("export", finished_runs / "small", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
