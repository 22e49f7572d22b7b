"""What every test shares."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.commands import prunefront
from tests.serving import served
from tests.small_job import finished, finished_runs, planned_runs, small_job
from trials.store import Store

__all__ = ["finished", "finished_runs", "planned_runs", "prunefront", "small_job"]

# Tests run beside each other; more threads only make them wait for one another, and change rounding.
torch.set_num_threads(1)

# Where the suite was started in the background, Ctrl-C is ignored, and programs that it starts inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes any example slow; how long one takes is no fault of the code.
settings.register_profile("prunefront", deadline=None)
settings.load_profile("prunefront")


def pytest_runtest_setup() -> None:
    """ONNX Runtime leaves threads taking denormals for zero, and tests of properties notice."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and checkpoints that may lie beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the data beside the repository is absent ({folder.name})")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """One of its own, where a folder of runs would keep it."""
    with Store.open(tmp_path / "prunefront.db") as store:
        yield store


@pytest.fixture
def address(store: Store, tmp_path: Path) -> Iterator[str]:
    """Of a service on that store, which works on no job."""
    with served(store, tmp_path / "service") as address:
        yield address
