"""The small job, ready to search or done, for tests of the search."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import devices, profiling
from search.job import Job
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Silent
from trials.store import Store


@pytest.fixture
def quick_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles that are made in this process are rough ones."""
    for constant, count in {
        "PASSES": 1,
        "ROUNDS": 2,
        "CALIBRATION_NETWORKS": 4,
        "HELD_OUT_NETWORKS": 2,
    }.items():
        monkeypatch.setattr(profiling, constant, count)


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


@pytest.fixture
def runs(finished_runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    return Path(shutil.copytree(finished_runs, tmp_path / "runs"))


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests know the profiles that they make, whatever is shipped."""
    monkeypatch.setattr(devices, "SHIPPED", tmp_path_factory.getbasetemp() / "nothing-shipped")
