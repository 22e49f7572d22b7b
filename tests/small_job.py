"""One small real job, trained, planned and run once for all tests, which look at copies of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from search import profiling
from search.job import Job
from search.place import Place
from search.progress import Silent
from search.session import _prepare
from tests.commands import finish, start
from trials.data import DataSpec, load
from trials.factory import call_factory
from trials.store import Store

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
SMALL_JOB = """
name = "small"

[model]
factory = "model:resnet"
args = { width = 48, blocks = 1 }
checkpoint = "small.safetensors"
input = { shape = [1, 8, 8] }

[data]
source = "digits"

[budget]
latency = ["50%", "75%"]

[search]
trials = 12
workers = 1
round_to = 4
finalists = 1
repair = "least_squares"
final_repair = "least_squares"

[finetune]
final_steps = 3
"""


NOT_FOR_PRUNING = """

def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def nothing() -> None:
    return None
"""


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process of a test run to need it makes; the others wait for it, and find it.

    Nobody changes it, or opens a store in it: that is for copies.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made = folder.with_suffix(".made")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def small_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job file on the digits whose network has two blocks and three epochs of training."""
    made = once(tmp_path_factory, "small-job", _train)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("job") / "small")) / "job.toml"


def _train(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.py").write_text((DIGITS / "model.py").read_text() + NOT_FOR_PRUNING)
    (folder / "job.toml").write_text(SMALL_JOB)
    torch.manual_seed(0)
    model = call_factory("model:resnet", folder, "model", {"width": 48, "blocks": 1})
    train = load(DataSpec(source="digits"), folder, seed=0).train
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        for rows in torch.randperm(len(train)).split(64):
            (images,), labels = train.batch(rows.numpy())
            optimizer.zero_grad()
            F.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels)).backward()
            optimizer.step()
    save_file(model.state_dict(), folder / "small.safetensors")


@pytest.fixture(scope="session")
def planned_runs(small_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder in which the small job is planned and no trial has been asked for."""
    made = once(tmp_path_factory, "small-planned", lambda runs: _plan(small_job, runs))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("planned") / "runs"))


def _plan(small_job: Path, runs: Path) -> None:
    job = Job.load(small_job)
    place = Place(runs, job.name)
    place.folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch, Store.open(place.store) as store:
        patch.setattr(profiling, "PASSES", 1)  # a rough profile is a profile
        patch.setattr(profiling, "ROUNDS", 4)
        store.create_job(job.name, job.to_json(), {})
        _prepare(job, place, {}, store, Silent(), forget=True)


@pytest.fixture(scope="session")
def finished(
    small_job: Path, planned_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A runs folder in which the small job ran to its end, undisturbed, and what its command printed."""

    def run(folder: Path) -> None:
        shutil.copytree(planned_runs, folder / "runs")
        ended = finish(start("run", small_job, "--runs", folder / "runs"))
        assert ended.code == 0, ended.err
        (folder / "out.json").write_text(json.dumps(ended.out))

    made = once(tmp_path_factory, "small-finished", run)
    runs = shutil.copytree(made / "runs", tmp_path_factory.mktemp("finished") / "runs")
    return Path(runs), json.loads((made / "out.json").read_text())


@pytest.fixture(scope="session")
def finished_runs(finished: tuple[Path, str]) -> Path:
    """A runs folder in which the small job ran to its end, undisturbed."""
    runs, _ = finished
    return runs
