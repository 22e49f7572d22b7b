"""Jobs that cannot be run: one sentence each, and nothing left of them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from search import profiling
from tests.commands import Prunefront, Ran, refused
from trials.store import Store

MODEL = 'factory = "model:resnet"\nargs = { width = 48, blocks = 1 }\ninput = { shape = [1, 8, 8] }'
NO_ARGUMENTS = MODEL.replace("{ width = 48, blocks = 1 }", "{}")
CHECKPOINT = '\ncheckpoint = "small.safetensors"'


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


def forgotten(ran: Ran, sentence: str, runs: Path) -> None:
    """Refused in one sentence on standard error, and nothing left of the job."""
    refused(ran, sentence)
    assert ran.out == ""
    assert ran.err.startswith("error: ")
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
    forgotten(ran, sentence, tmp_path / "runs")


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
    "weights among others": (
        {"model": MODEL + CHECKPOINT.replace("small.safetensors", "epoch.pt")},
        "epoch.pt holds its weights under 'state_dict'; save that part alone",
    ),
    "a whole model": (
        {"model": MODEL + CHECKPOINT.replace("small.safetensors", "whole.pt")},
        "cannot be read: it holds a torch.nn.modules.linear.Linear, and only tensors are read; save a plain",
    ),
    "no weights": (
        {"model": MODEL + CHECKPOINT.replace("small.safetensors", "tensor.pt")},
        "tensor.pt holds a Tensor; save a plain state dict",
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
    torch.save({"epoch": 3, "state_dict": state}, folder / "epoch.pt")
    torch.save(torch.nn.Linear(2, 2), folder / "whole.pt")
    torch.save(state["head.weight"], folder / "tensor.pt")
    state["head.weight"][0, 0] = torch.nan
    save_file(state, folder / "nan.safetensors")
    ran = prunefront("run", changed(small_job, "refused", **tables), "--runs", tmp_path / "runs")
    ran = Ran(ran.code, ran.out.removeprefix("exporting …\n").partition("  finding")[0], ran.err)
    forgotten(ran, sentence, tmp_path / "runs")


def test_a_latency_that_no_candidate_reaches_is_refused_with_the_smallest_one_and_what_was_measured_stays(
    prunefront: Prunefront, quick_profile: None, small_job: Path, tmp_path: Path
) -> None:
    job = changed(small_job, "refused", budget="latency_ms = 1e-6")
    runs = tmp_path / "runs"
    ran = prunefront("run", job, "--runs", runs)
    assert ran.out.endswith(f"what was measured stays in {runs}/small, for this job as it is asked next\n")
    refused(ran, "the budget latency_ms = 1e-06 cannot be met: the smallest reachable is 0.")
    assert [path.name for path in runs.rglob("small/*")] == ["profile.parquet"]
    assert prunefront("ls", "--runs", runs).out.startswith("no jobs in ")
