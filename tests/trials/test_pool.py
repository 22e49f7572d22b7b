"""The pool on real Ray: one warm pool for most promises, processes of their own for those about endings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.errors import InvariantError, RequestError, TrialError
from trials.pool import Finished, Pool

WORKERS = 2
RECYCLE_AFTER = 20


class Calls:
    """A runner whose request is a function to call, with what the pool shares."""

    def __init__(self, **shared: Any) -> None:
        self.shared = shared

    def __call__(self, request: Callable[[dict[str, Any]], Any]) -> Any:
        return request(self.shared)


def broken(**shared: Any) -> Calls:
    raise RequestError("weights.safetensors is not what the manifest says")


def test_what_is_wrong_with_the_factory_is_raised_to_the_caller() -> None:
    """Stands first: its pool has to be closed, as it is after an error, before the next one opens."""
    with pytest.raises(RequestError, match="is not what the manifest says"):
        Pool(broken, {}, workers=1, threads=1)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(
        Calls, {"images": np.arange(1e6)}, workers=WORKERS, threads=1, recycle_after=RECYCLE_AFTER
    ) as pool:
        yield pool


def finish(pool: Pool, count: int) -> list[Finished]:
    finished: list[Finished] = []
    while len(finished) < count:
        finished += pool.wait()
    return finished


def answer(pool: Pool, request: Callable[[dict[str, Any]], Any]) -> Finished:
    pool.submit("only", request)
    [finished] = finish(pool, 1)
    return finished


def pid(shared: dict[str, Any]) -> int:
    return os.getpid()


def fail(error: Exception) -> Callable[[dict[str, Any]], Any]:
    def request(shared: dict[str, Any]) -> Any:
        raise error

    return request


def hold(path: Path) -> Callable[[dict[str, Any]], Any]:
    """A request that says in a file who works on it, and then takes long."""

    def request(shared: dict[str, Any]) -> Any:
        path.with_suffix(".part").write_text(str(os.getpid()))
        path.with_suffix(".part").rename(path)
        time.sleep(600)

    return request


def holder(path: Path) -> int:
    while not path.exists():
        time.sleep(0.01)
    return int(path.read_text())


def test_each_result_comes_back_under_its_key(pool: Pool) -> None:
    for number in range(8):
        pool.submit(("square", number), lambda shared, number=number: number**2)
    assert {f.key: f.value for f in finish(pool, 8)} == {("square", n): n**2 for n in range(8)}


def test_a_quick_request_does_not_wait_for_a_slow_one(pool: Pool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def until_open(shared: dict[str, Any]) -> str:
        while not gate.exists():
            time.sleep(0.01)
        return "slow"

    pool.submit(0, until_open)
    pool.submit(1, lambda shared: "quick")
    assert [f.value for f in finish(pool, 1)] == ["quick"]
    assert pool.wait(0.01) == []
    gate.touch()
    assert [f.key for f in finish(pool, 1)] == [0]


def test_free_counts_the_workers_that_would_start_at_once(pool: Pool) -> None:
    assert pool.free == WORKERS
    for number in range(WORKERS + 2):
        pool.submit(number, pid)
        assert pool.free == max(0, WORKERS - number - 1)
    finish(pool, WORKERS + 2)
    assert pool.free == WORKERS


def test_with_nothing_running_there_is_nothing_to_wait_for(pool: Pool) -> None:
    assert pool.wait() == []


def test_workers_share_one_read_only_copy_of_an_array(pool: Pool) -> None:
    def looks(shared: dict[str, Any]) -> tuple[float, bool, bool]:
        images = shared["images"]
        return float(images.sum()), images.flags.writeable, images.flags.owndata

    assert answer(pool, looks).value == (np.arange(1e6).sum(), False, False)


def test_a_worker_has_the_threads_it_was_given_and_the_priority_of_the_pool(pool: Pool) -> None:
    def threads(shared: dict[str, Any]) -> tuple[int, int]:
        import torch

        return torch.get_num_threads(), os.nice(0)

    assert answer(pool, threads).value == (1, os.nice(0))


def test_a_failed_trial_comes_back_with_its_reason_and_its_worker_lives_on(pool: Pool) -> None:
    before = answer(pool, pid).value
    finished = answer(pool, fail(TrialError("the loss is NaN after 3 steps")))
    assert (finished.error, finished.value, finished.died) == ("the loss is NaN after 3 steps", None, False)
    assert answer(pool, pid).value == before


def test_any_other_error_comes_back_with_its_type_and_place(pool: Pool) -> None:
    finished = answer(pool, fail(ValueError("7 is not a width")))
    assert finished.error.startswith("ValueError: 7 is not a width (test_pool.py, line ")
    assert not finished.died


def test_an_answer_that_cannot_be_pickled_is_an_error(pool: Pool) -> None:
    finished = answer(pool, lambda shared: threading.Lock())
    assert "cannot be sent" in finished.error
    assert "lock" in finished.error


def test_a_request_that_cannot_be_pickled_is_refused_and_costs_no_worker(pool: Pool) -> None:
    with pytest.raises(TypeError, match="lock"):
        pool.submit(0, threading.Lock())
    assert pool.free == WORKERS


def test_a_request_whose_worker_is_killed_comes_back_as_died_and_the_worker_is_replaced(
    pool: Pool, tmp_path: Path
) -> None:
    before = set(pool.worker_pids())
    pool.submit("doomed", hold(tmp_path / "pid"))
    victim = holder(tmp_path / "pid")
    os.kill(victim, signal.SIGKILL)
    [finished] = finish(pool, 1)
    assert (finished.key, finished.died, finished.value) == ("doomed", True, None)
    for number in range(WORKERS):
        pool.submit(number, pid)
    assert all(not f.died for f in finish(pool, WORKERS))
    after = set(pool.worker_pids())
    assert before - after == {victim}
    assert len(after) == WORKERS


def test_ray_says_nothing_on_the_terminal(
    pool: Pool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool.submit("doomed", hold(tmp_path / "pid"))
    os.kill(holder(tmp_path / "pid"), signal.SIGKILL)
    finish(pool, 1)
    pool.worker_pids()
    assert capfd.readouterr() == ("", "")


def test_a_worker_is_replaced_after_its_last_request(pool: Pool) -> None:
    requests = WORKERS * RECYCLE_AFTER + 1
    answers = Counter(answer(pool, pid).value for _ in range(requests))
    assert sum(answers.values()) == requests
    assert max(answers.values()) <= RECYCLE_AFTER


def test_one_pool_at_a_time(pool: Pool) -> None:
    with pytest.raises(InvariantError, match="close the other pool"):
        Pool(Calls, {}, workers=1, threads=1)
    assert answer(pool, pid).error == ""


DRIVER = """
import sys, time
from pathlib import Path
from tests.trials.test_pool import Calls, WORKERS, hold
from trials.pool import Pool

with Pool(Calls, {}, workers=WORKERS, threads=1) as pool:
    pool.submit("slow", lambda shared: time.sleep(3) or "done")
    pool.submit("held", hold(Path(sys.argv[1])))
    try:
        pool.wait(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        print(pool.wait(60)[0].value, flush=True)
        raise
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a pool of its own, in a session of its own, whose workers are at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "pid")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    holder(tmp_path / "pid")
    yield process
    for pid in session(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


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


def test_ctrl_c_reaches_the_caller_and_no_worker_and_the_exit_leaves_no_process(
    driver: subprocess.Popen[str],
) -> None:
    assert len(workers(driver.pid)) == WORKERS
    os.killpg(driver.pid, signal.SIGINT)
    said, complaints = driver.communicate(timeout=60)
    assert said.splitlines() == ["interrupted", "done"]
    assert complaints.splitlines()[-1] == "KeyboardInterrupt"
    assert session(driver.pid) == []


def test_workers_end_with_a_killed_driver(driver: subprocess.Popen[str]) -> None:
    """Two agents of Ray's own, without work, stay for its time-out of a minute."""
    assert len(workers(driver.pid)) == WORKERS
    driver.kill()
    deadline_s = time.monotonic() + 10
    while workers(driver.pid) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert workers(driver.pid) == []
