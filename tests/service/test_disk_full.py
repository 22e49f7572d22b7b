"""Disks that are really full: nothing is damaged, jobs wait with the reason, and go on once there is room."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hwprofiles.errors import NoRoomError
from search import sensing
from search.place import Place
from search.service.supervisor import ROOM_BYTES, WAITS_FOR_ROOM, Supervisor
from tests.commands import finish, start
from tests.search.test_crash import check_end
from tests.service.test_controller import wait
from tests.serving import client, served, token
from trials.candidate import Candidate, Trial, TrialState
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.store import Store
from trials.tokens import Role

SMALL_BYTES = 4 * 2**20
QUOTA = {"queued_jobs": 1, "running_jobs": 1, "worker_minutes": 60, "stored_bytes": 2**40}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many bytes, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size_bytes: int) -> Path:
        options = ["-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder]
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("mount is not permitted: run as root of this machine")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True)


def fill(disk: Path) -> Path:
    """Take all room there is; gives the file that has it."""
    full = disk / "full"
    with full.open("ab", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return full


def check_whole(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def new(number: int) -> Trial:
    return Trial(number=number, candidate=Candidate((4,) * 50), seed=1, target=0.5, origin="random")


def save_many(store: Store) -> None:
    for number in range(10_000):
        store.save("job", new(number))


def test_a_store_on_a_full_disk_keeps_what_it_has_and_goes_on_with_room(disk: Callable[[int], Path]) -> None:
    folder = disk(SMALL_BYTES)
    path = folder / "store.db"
    with Store.open(path) as store:
        store.create_job("job", {}, {})
        full = fill(folder)
        with pytest.raises(NoRoomError, match="is on a disk that is full; make room there"):
            save_many(store)  # some fit into files that are there
        kept = len(store.trials("job"))
        assert [trial.number for trial in store.trials("job")] == list(range(kept))
        check_whole(path)
        full.unlink()
        store.save("job", new(kept))
        assert len(store.trials("job")) == kept + 1
    check_whole(path)


def test_a_caller_is_told_that_the_disk_of_the_service_is_full(
    disk: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = disk(SMALL_BYTES)
    with Store.open(folder / "store.db") as store, served(store, tmp_path / "service") as address:
        with client(address, token(store, Role.ADMIN)) as admin:
            full = fill(folder)
            statuses = (admin.put("/quotas/ann", json=QUOTA).status_code for _ in range(1000))
            assert next(status for status in statuses if status != 204) == 507
            full.unlink()
            assert admin.put("/quotas/ann", json=QUOTA).status_code == 204


@pytest.fixture
def amc_runs(planned_runs: Path, tmp_path: Path) -> Path:
    """The small job, planned, with a controller that keeps what it knows after sixteen trials."""
    runs = Path(shutil.copytree(planned_runs, tmp_path / "amc"))
    search = {"controller": "amc", "trials": 20}
    with closing(sqlite3.connect(Place(runs, "").store)) as connection, connection:
        connection.execute("update jobs set spec = json_patch(spec, ?)", [json.dumps({"search": search})])
    return runs


@contextmanager
def at_work(runs: Path, database: Path) -> Iterator[Store]:
    """Let a supervisor work on the small job."""
    with Store.open(database) as store:
        ServiceJobs(store).adopt("small", "ann")
        supervisor = Supervisor(store, runs, runs / ".service" / "logs", most=1)
        supervisor.start()
        try:
            yield store
        finally:
            supervisor.stop()


def wait_for_pause(store: Store) -> None:
    wait(lambda: store.job("small").state is JobState.PAUSED)
    assert ServiceJobs(store).get("small").reason == WAITS_FOR_ROOM
    assert TrialState.RUNNING not in [trial.state for trial in store.trials("small")]


def states(store: Store) -> list[str]:
    return [event.message for event in store.events("small") if event.kind == "state"]


def finished_elsewhere(runs: Path, folder: Path) -> Path:
    """Where the same job ran to its end undisturbed."""
    ended = finish(start("resume", Path(shutil.copytree(runs, folder)) / "small"))
    assert ended.code == 0, ended.err
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("full", "stage"),
    [("database", JobState.SEARCHING), ("artifacts", JobState.FINISHING), ("checkpoint", JobState.SEARCHING)],
)
def test_a_job_without_room_is_paused_with_the_reason_and_goes_on_by_itself(
    full: str,
    stage: JobState,
    disk: Callable[[int], Path],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Full from when the stage begins; what a search would measure for itself before is there."""
    planned = request.getfixturevalue("amc_runs" if full == "checkpoint" else "planned_runs")
    undisturbed = finished_elsewhere(planned, tmp_path / "undisturbed")
    folder = disk(4 * ROOM_BYTES)
    runs = Path(shutil.copytree(planned, folder / "runs"))
    shutil.copy(undisturbed / "small" / sensing.FILE, runs / "small")
    database = Place(runs, "").store
    if full != "database":
        database = Path(shutil.move(database, tmp_path))
        monkeypatch.setenv("PRUNEFRONT_DATABASE", f"sqlite:///{database}")
    with at_work(runs, database) as store:
        wait(lambda: store.job("small").state is stage)
        filler = fill(folder)
        wait_for_pause(store)
        assert states(store)[-2:] == [stage, "paused"]
        check_whole(database)
        time.sleep(2)
        assert states(store)[-1] == "paused"
        filler.unlink()
        wait(lambda: store.job("small").state in (JobState.DONE, JobState.FAILED))
    check_whole(database)
    if full != "database":
        os.symlink(database, runs / "prunefront.db")
    check_end(runs, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_needs_more_room_than_there_is_waits_until_there_is_more(
    disk: Callable[[int], Path], planned_runs: Path, finished_runs: Path, tmp_path: Path
) -> None:
    """The disk has room to start a job, and its finalists have a disk of their own, which has too little."""
    runs = Path(shutil.copytree(planned_runs, disk(4 * ROOM_BYTES) / "runs"))
    taken = runs / "taken"
    taken.write_bytes(bytes(2 * ROOM_BYTES))
    finalists = Place(runs, "small").finalist(0).parent
    finalists.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", finalists], check=True)
    try:
        with at_work(runs, Place(runs, "").store) as store:
            wait_for_pause(store)
            time.sleep(5)
            assert (states(store)[-1], ServiceJobs(store).get("small").fence) == ("paused", 1)
            subprocess.run(["mount", "-o", "remount,size=16m", finalists], check=True)
            taken.unlink()
            wait(lambda: store.job("small").state in (JobState.DONE, JobState.FAILED))
    finally:
        saved = shutil.copytree(finalists, tmp_path / "saved")
        subprocess.run(["umount", "--lazy", finalists], check=True)
    shutil.copytree(saved, finalists, dirs_exist_ok=True)
    check_end(runs, finished_runs)
