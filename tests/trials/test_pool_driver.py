"""A process with a pool is ended or killed: what becomes of its workers, and of what Ray has left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trials.test_pool import WORKERS, holder

DRIVER = """
import sys
from pathlib import Path
from tests.trials.test_pool import Calls, WORKERS, hold, until
from trials.pool import Pool

folder = Path(sys.argv[1])
with Pool(Calls, {}, workers=WORKERS, threads=1) as pool:
    pool.submit("gate", until(folder / "gate"))
    pool.submit("held", hold(folder / "pid"))
    try:
        pool.wait()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        print(pool.wait()[0].value, flush=True)
        raise
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a pool of its own, in a session of its own, whose workers are at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    holder(tmp_path / "pid")
    folders = ray_folders(process.pid)
    yield process
    for pid in session(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def ray_folders(leader: int) -> set[str]:
    """The temporary folders that the commands of that session name."""
    commands = (Path(f"/proc/{pid}/cmdline").read_text() for pid in session(leader))
    return {folder for command in commands for folder in re.findall(r"/tmp/prunefront-\w+", command)}


def workers(leader: int) -> list[int]:
    """Processes of that session that run a worker's request."""
    titles = {pid: Path(f"/proc/{pid}/cmdline") for pid in session(leader)}
    return [pid for pid, title in titles.items() if title.exists() and b"_Worker" in title.read_bytes()]


def session(leader: int) -> list[int]:
    """Processes, without dead ones, of the session that `leader` began."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_ctrl_c_reaches_the_caller_and_no_worker_and_the_exit_leaves_nothing_behind(
    driver: subprocess.Popen[str], tmp_path: Path
) -> None:
    [folder] = ray_folders(driver.pid)
    assert len(workers(driver.pid)) == WORKERS
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "interrupted\n"
    (tmp_path / "gate").touch()
    said, complaints = driver.communicate(timeout=60)
    assert said == "opened\n"
    assert complaints.splitlines()[-1] == "KeyboardInterrupt"
    assert session(driver.pid) == []
    assert not Path(folder).exists()


def test_workers_end_with_a_killed_driver(driver: subprocess.Popen[str]) -> None:
    """Two agents of Ray's own, without work, stay for its time-out of a minute."""
    assert len(workers(driver.pid)) == WORKERS
    driver.kill()
    deadline_s = time.monotonic() + 10
    while workers(driver.pid) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert workers(driver.pid) == []
