"""One small real job, trained, planned and run once, that tests copy and look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from search import cli, devices, profiling
from search.job import Job
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Silent
from search.session import _prepare
from tests.serving import served
from trials.data import DataSpec, load
from trials.factory import call_factory
from trials.store import Store

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
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
workers = 2
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


@dataclass(frozen=True)
class Ran:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


Prunefront = Callable[..., Ran]


@pytest.fixture
def prunefront(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prunefront:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["prunefront", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return run


def written_json(ran: Ran) -> Any:
    """What a command wrote, which must be JSON and nothing else."""
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def refused(ran: Ran, sentence: str) -> None:
    """Whoever asked can act: exit code 2 and one line of which the sentence is part."""
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert sentence in ran.err


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command line as a process and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "search.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def finish(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=240)
    return Ran(process.returncode, out, err)


@pytest.fixture
def quick_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "PASSES", 1)
    monkeypatch.setattr(profiling, "ROUNDS", 2)


@pytest.fixture(scope="session")
def small_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job file on the digits whose network has two blocks and three epochs of training."""
    folder = tmp_path_factory.mktemp("job")
    model_file = (DIGITS / "model.py").read_text()
    (folder / "model.py").write_text(model_file + NOT_FOR_PRUNING)
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
    return folder / "job.toml"


@pytest.fixture(scope="session")
def planned_runs(small_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder in which the small job is planned and no trial has been asked for."""
    job = Job.load(small_job)
    place = Place(tmp_path_factory.mktemp("planned"), job.name)
    place.folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, Store.open(place.store) as store:
        patch.setattr(profiling, "PASSES", 1)  # a rough profile is a profile
        patch.setattr(profiling, "ROUNDS", 4)
        store.create_job(job.name, job.to_json(), {})
        _prepare(job, place, {}, store, Silent(), forget=True)
    return place.runs


@pytest.fixture(scope="session")
def prepared(planned_runs: Path) -> Prepared:
    """The small job, ready to search."""
    place = Place(planned_runs, "small")
    with Store.open(place.store) as store:
        record = store.job("small")
    return prepare(Job.from_json(record.spec), place, record.plan, Silent())


@pytest.fixture
def planned_store(planned_runs: Path, tmp_path: Path) -> Iterator[Store]:
    """A store of its own with the planned job and no trial."""
    shutil.copy(planned_runs / "prunefront.db", tmp_path)
    with Store.open(tmp_path / "prunefront.db") as store:
        yield store


@pytest.fixture(scope="session")
def finished(
    small_job: Path, planned_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A runs folder in which the small job ran to its end, undisturbed, and what its command printed."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    shutil.copytree(planned_runs, runs)
    ended = finish(start("run", small_job, "--runs", runs))
    assert ended.code == 0, ended.err
    return runs, ended.out


@pytest.fixture(scope="session")
def finished_runs(finished: tuple[Path, str]) -> Path:
    """A runs folder in which the small job ran to its end, undisturbed."""
    runs, _ = finished
    return runs


@pytest.fixture
def runs(finished_runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    return Path(shutil.copytree(finished_runs, tmp_path / "runs"))


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests know the profiles that they make, whatever is shipped."""
    monkeypatch.setattr(devices, "SHIPPED", tmp_path_factory.getbasetemp() / "nothing-shipped")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "prunefront.db") as store:
        yield store


@pytest.fixture
def address(store: Store, tmp_path: Path) -> Iterator[str]:
    with served(store, tmp_path / "service") as address:
        yield address
