"""Disks that are really full: nothing is damaged, jobs wait with the reason, and go on once there is room."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hwprofiles.errors import NoRoomError
from search.place import Place
from search.service.supervisor import ROOM_BYTES, WAITS_FOR_ROOM, Supervisor
from tests.search.test_crash import check_end
from tests.service.test_controller import wait
from tests.serving import client, served, token
from trials.candidate import Candidate, Trial
from trials.service_jobs import ServiceJobs
from trials.store import JobState, Store
from trials.tokens import Role

SMALL_BYTES = 4 * 2**20
QUOTA = {"queued_jobs": 1, "running_jobs": 1, "worker_minutes": 60}


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


@pytest.mark.slow
@pytest.mark.parametrize("where", ["database", "artifacts"])
def test_a_job_without_room_is_paused_with_the_reason_and_goes_on_by_itself(
    where: str,
    disk: Callable[[int], Path],
    planned_runs: Path,
    finished_runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its database on the full disk it stops in the search, and without at its first finalist."""
    folder = disk(4 * ROOM_BYTES)
    runs = Path(shutil.copytree(planned_runs, folder / "runs"))
    database = Place(runs, "").store
    if where == "artifacts":
        database = Path(shutil.move(database, tmp_path))
        monkeypatch.setenv("PRUNEFRONT_DATABASE", f"sqlite:///{database}")
    with Store.open(database) as store:
        jobs = ServiceJobs(store)
        jobs.adopt("small", "ann")
        supervisor = Supervisor(store, runs, runs / ".service" / "logs", most=1)
        supervisor.start()
        try:
            wait(lambda: sum(trial.state.finished for trial in store.trials("small")) >= 3)
            full = fill(folder)
            wait(lambda: store.job("small").state is JobState.PAUSED)
            wait(lambda: jobs.get("small").reason == WAITS_FOR_ROOM)
            check_whole(database)
            time.sleep(2)
            assert store.job("small").state is JobState.PAUSED
            full.unlink()
            wait(lambda: store.job("small").state in (JobState.DONE, JobState.FAILED))
        finally:
            supervisor.stop()
    check_whole(database)
    if where == "artifacts":
        os.symlink(database, runs / "prunefront.db")
    check_end(runs, finished_runs)
