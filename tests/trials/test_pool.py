"""The pool on real Ray: one warm pool for most of what it promises."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.errors import InvariantError, NoRoomError, TrialError
from trials.pool import Finished, Pool, threads_on

WORKERS = 2
RECYCLE_AFTER = 20


class Calls:
    """A runner whose request is a function to call, with what the pool shares."""

    def __init__(self, **shared: Any) -> None:
        self.shared = shared

    def __call__(self, request: Callable[[dict[str, Any]], Any]) -> Any:
        return request(self.shared)


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


def until(gate: Path) -> Callable[[dict[str, Any]], str]:
    """A request that ends once that file exists."""

    def request(shared: dict[str, Any]) -> str:
        while not gate.exists():
            time.sleep(0.01)
        return "opened"

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
    pool.submit(0, until(gate))
    pool.submit(1, lambda shared: "quick")
    assert [f.value for f in finish(pool, 1)] == ["quick"]
    assert pool.wait(0.01) == []
    gate.touch()
    assert [f.value for f in finish(pool, 1)] == ["opened"]


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
    finished = answer(pool, fail(RuntimeError("shapes differ:\n  [3, 4]\n  [4, 3]")))
    assert finished.error.startswith("RuntimeError: shapes differ: [3, 4] [4, 3] (test_pool.py, line ")
    assert not finished.died


def test_a_worker_whose_disk_is_full_ends_the_wait_and_not_its_request_alone(pool: Pool) -> None:
    before = set(pool.worker_pids())
    with pytest.raises(NoRoomError, match=r"a disk of worker '.+' is full: OSError: .+ \(.+\); make room"):
        answer(pool, fill_a_disk)
    assert pool.free == WORKERS
    assert set(pool.worker_pids()) == before


def fill_a_disk(shared: dict[str, Any]) -> None:
    Path("/dev/full").write_text("no room")


def test_an_answer_that_cannot_be_pickled_is_an_error(pool: Pool) -> None:
    finished = answer(pool, lambda shared: threading.Lock())
    assert "cannot be sent" in finished.error
    assert "lock" in finished.error


def test_a_request_that_cannot_be_pickled_is_refused_and_costs_no_worker(pool: Pool) -> None:
    with pytest.raises(TypeError, match="lock"):
        pool.submit(0, threading.Lock())
    pool.worker_pids()  # one that was replaced may still warm up
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


def test_the_busy_share_is_a_share(pool: Pool) -> None:
    pool.submit(0, lambda shared: time.sleep(0.2))
    finish(pool, 1)
    assert 0.0 < pool.busy_share < 1.0


def test_ray_is_reachable_from_this_machine_only(pool: Pool) -> None:
    """Ray listens where its node's address says, on all interfaces unless that is the loopback one."""

    def address(shared: dict[str, Any]) -> str:
        import ray

        return str(ray.util.get_node_ip_address())

    assert answer(pool, address).value == "127.0.0.1"


def test_one_pool_at_a_time(pool: Pool) -> None:
    with pytest.raises(InvariantError, match="close the other pool"):
        Pool(Calls, {}, workers=1, threads=1)
    assert answer(pool, pid).error == ""


@pytest.mark.parametrize(
    ("cores", "workers", "wanted", "threads"),
    [
        ([8, 8], 2, 4, 4),
        ([1, 1], 1, 2, 1),  # one of two threads would wait for ever for a node that has them
        ([8, 4], 3, 8, 4),
        ([4, 4], 8, 16, 1),
        ([2], 8, 2, 1),
        ([], 1, 2, 1),
    ],
)
def test_workers_on_a_cluster_have_as_many_threads_as_its_nodes_have_room_for(
    cores: list[int], workers: int, wanted: int, threads: int
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": float(count), "memory": 1e9}} for count in cores]
    gone = {"Alive": False, "Resources": {"CPU": 64.0}}
    without = {"Alive": True, "Resources": {"memory": 1e9}}
    assert threads_on([*nodes, gone, without], workers, wanted) == threads
