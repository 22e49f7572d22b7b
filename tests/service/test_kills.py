"""A served job whose processes are killed at random points ends as it would have ended.

Whoever runs a service starts it again when it has ended; so does this test, at once.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from search.place import Place
from tests.search.test_crash import check_end, descendants
from tests.service.test_controller import command, kill, of, wait
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.store import Store

KILLS = 5
OVER = (JobState.DONE, JobState.FAILED)


@dataclass
class Service:
    """`prunefront serve` on a runs folder with one job."""

    runs: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        arguments = ["serve", "--runs", self.runs, "--port", str(self.port), "--jobs", "1"]
        with (self.runs / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "search.cli", *arguments],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def restart(self) -> None:
        kill(self.process.pid)
        self.process.wait()
        self.start()

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def store(longer: Path, tmp_path: Path) -> Iterator[Store]:
    runs = Path(shutil.copytree(longer, tmp_path / "runs"))
    with Store.open(Place(runs, "").store) as store:
        ServiceJobs(store).adopt("small", "ann")
        yield store


@pytest.fixture
def service(store: Store, tmp_path: Path) -> Iterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = Service(tmp_path / "runs", port)
    service.start()
    yield service
    service.stop()


@dataclass(frozen=True)
class Job:
    """The job as its store tells of it."""

    store: Store

    @property
    def is_over(self) -> bool:
        return self.store.job("small").state in OVER

    @property
    def fence(self) -> int:
        return ServiceJobs(self.store).get("small").fence

    @property
    def controller(self) -> int | None:
        """The process that works on it, once it has said so."""
        found = ServiceJobs(self.store).get("small")
        said = found.fence and found.progress.get("fence") == found.fence
        pid = int(found.progress["pid"]) if said else 0
        return pid if "search.service.controller" in command(pid) else None

    @property
    def came_so_far(self) -> int:
        """Grows with every trial that is begun and every result of the final stage."""
        begun = sum(trial.attempts for trial in self.store.trials("small"))
        return begun + len(self.store.results("small"))


def everything(service: Service, job: Job) -> list[int]:
    return [*descendants(service.process.pid), *descendants(job.controller or service.process.pid)]


TARGETS: dict[str, Callable[[Service, Job], list[int]]] = {
    "a worker": lambda service, job: below(job, "ray::_Worker"),
    "the controller": lambda service, job: [job.controller] if job.controller else [],
    "the api": lambda service, job: [service.process.pid],
    "raylet": lambda service, job: below(job, "/raylet/raylet "),
    "GCS": lambda service, job: below(job, "gcs_server"),
    "everything": everything,
}
ENDS_THE_CONTROLLER = ("the controller", "raylet", "GCS", "everything")


def below(job: Job, pattern: str) -> list[int]:
    found = of(pattern)(job.controller) if job.controller else None
    return [found] if found else []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_points_a_job_finds_what_it_would_have_found(
    seed: int, store: Store, service: Service, undisturbed: Path
) -> None:
    """Five kills of six kinds a run; with `-s` it prints after how long the job went on each time."""
    rng, job = random.Random(seed), Job(store)
    for target in rng.sample(sorted(TARGETS), KILLS):
        wait(lambda target=target: job.is_over or TARGETS[target](service, job))
        time.sleep(rng.uniform(0, 15))
        wait(lambda target=target: job.is_over or TARGETS[target](service, job))
        if job.is_over:
            break
        before = [trial for trial in store.trials("small") if trial.state.finished]
        fence, killed_s = job.fence, time.monotonic()
        for process in TARGETS[target](service, job):
            kill(process)
        if target in ("the api", "everything"):
            service.restart()
        stored = {trial.number: trial for trial in store.trials("small")}
        assert [stored[trial.number] for trial in before] == before
        if target in ENDS_THE_CONTROLLER:
            wait(lambda fence=fence: job.is_over or job.fence > fence)
        came = job.came_so_far
        wait(lambda came=came: job.is_over or (job.came_so_far > came and service.answers()))
        seconds, load = time.monotonic() - killed_s, os.getloadavg()[0]
        print(f"\nseed {seed}: {target} killed with {len(before)} trials done; "
              f"on after {seconds:.1f} s at a load of {load:.1f}", flush=True)  # fmt: skip
    wait(lambda: job.is_over)
    ended = Counter(event.message for event in store.events("small") if event.kind == "trial")
    assert set(ended.values()) == {1}
    check_end(service.runs, undisturbed)
