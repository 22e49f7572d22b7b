"""A service in whose runs the job "small" of ann is done; the tests of a file share it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hwprofiles import read_profile
from hwprofiles.files import write_profile
from search import devices
from search.place import Place
from search.service.asked import Located
from tests.serving import served
from trials.service_jobs import ServiceJobs
from trials.store import Store


@pytest.fixture(scope="module")
def runs(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a profile of a further device, "bench", on which no finalist was measured."""
    runs = Path(shutil.copytree(finished_runs, tmp_path_factory.mktemp("service") / "runs"))
    Place(runs, "").devices.mkdir(exist_ok=True)
    profile = read_profile(Place(runs, "small").profile)
    elsewhere = replace(profile, device=replace(profile.device, name="bench", board="a bench"))
    write_profile(elsewhere, Place(runs, "").devices / "bench.parquet")
    return runs


@pytest.fixture(scope="module")
def store(runs: Path) -> Iterator[Store]:
    with Store.open(runs / "prunefront.db") as store:
        ServiceJobs(store).adopt("small", "ann")
        yield store


@pytest.fixture(scope="module")
def located() -> Located | None:
    """Where what jobs name is found; None where it was sent."""
    return None


@pytest.fixture(scope="module")
def address(store: Store, runs: Path, located: Located | None) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, served(store, runs / ".service", located) as address:
        patch.setattr(devices, "SHIPPED", runs / "nothing-shipped")  # validating one takes seconds
        yield address
