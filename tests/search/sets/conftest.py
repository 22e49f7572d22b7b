"""A small real set of two models, run once, that tests copy and look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from hwprofiles.errors import TrialError
from search import profiling, session
from search.place import Place
from search.progress import Listener, Silent
from search.sets import shares, split, sweep
from search.sets.asked import ModelSet, load
from search.sets.report import SetReport
from search.sets.run import run_set
from tests.digits import digits_bundle
from trials.pool import Finished
from trials.records import JobState
from trials.store import Store

SET = """
name = "pair"

[[models]]
name = "first"
model = { bundle = "digits.bundle" }
data = { source = "digits" }
weight = 8.0

[[models]]
name = "second"
model = { bundle = "digits.bundle" }
data = { source = "digits" }

[[devices]]
name = "npu"
runtime = "synthetic"

[budget]
macs = "30%"

[search]
trials = 5
round_to = 2
finalists = 1
repair = "least_squares"
final_repair = "least_squares"
execution = "float32"

[finetune]
final_steps = 0
"""


class Here:
    """A pool whose only worker is this process."""

    def __init__(self, factory: Callable[..., Any], shared: dict[str, Any], **_: object) -> None:
        self._bench = factory(**shared)
        self._asked: list[tuple[Any, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        pass

    @property
    def free(self) -> int:
        return 1 - len(self._asked)

    def submit(self, key: Any, request: Any) -> None:
        self._asked.append((key, request))

    def wait(self, timeout_s: float) -> list[Finished]:
        if not self._asked:
            return []
        key, request = self._asked.pop()
        try:
            return [Finished(key=key, value=self._bench(request))]
        except TrialError as error:
            return [Finished(key=key, error=str(error))]


@pytest.fixture(scope="package", autouse=True)
def small_and_here() -> Iterator[None]:
    """Little is measured and tried, and in this process: what starts and stops others is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Pool", Here)
        patch.setattr(profiling, "CALIBRATION_NETWORKS", 1)  # and the dense one
        patch.setattr(profiling, "PASSES", 1)
        patch.setattr(profiling, "ROUNDS", 2)
        patch.setattr(split, "AROUND", (1.0,))
        for module in (shares, sweep):
            patch.setattr(module, "POINTS", 3)
        yield


@pytest.fixture(scope="package")
def set_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that asks for two models to be pruned together."""
    folder = tmp_path_factory.mktemp("set")
    digits_bundle().write(folder / "digits.bundle")
    (folder / "set.toml").write_text(SET)
    return folder / "set.toml"


def run(set_file: Path, runs: Path, listener: Listener | None = None) -> SetReport:
    asked = load(set_file)
    assert isinstance(asked, ModelSet)
    runs.mkdir(exist_ok=True)
    place = Place(runs, asked.name)
    with Store.open(place.store) as store:
        return run_set(asked, place, store, listener or Silent())


class StopsAt(Silent):
    """Stops everything, as Ctrl-C does, as soon as it hears of a stage."""

    def __init__(self, stage: str) -> None:
        self._stops_at = stage

    def stage(self, name: str) -> None:
        if name == self._stops_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="package")
def finished(set_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder in which the set ran to its end, stopped again and again."""
    runs = tmp_path_factory.mktemp("sets") / "runs"
    for stage in ("second: trying", "second: searching", "choosing"):
        with pytest.raises(KeyboardInterrupt):
            run(set_file, runs, StopsAt(stage))
        with Store.open(runs / "prunefront.db") as store:
            assert store.job("pair").state is JobState.INTERRUPTED
    run(set_file, runs)
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))
