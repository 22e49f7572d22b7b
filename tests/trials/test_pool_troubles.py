"""Pools of their own: whose Ray cannot start or has died, and whose workers do not come back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hwprofiles.errors import RequestError, TransientError
from tests.search.test_crash import descendants
from tests.trials.test_pool import Calls, finish, hold, holder, pid, until
from trials.cluster import VITAL
from trials.pool import Pool


def test_an_address_where_nobody_answers_is_refused_at_once() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TransientError, match=f"no Ray cluster answers at '{address}'"):
            Pool(Calls, {}, workers=1, threads=1, address=address)


def broken(**shared: Any) -> Calls:
    raise RequestError("weights.safetensors is not what the manifest says")


def test_what_is_wrong_with_the_factory_is_raised_to_the_caller() -> None:
    with pytest.raises(RequestError, match="is not what the manifest says"):
        Pool(broken, {}, workers=1, threads=1)


@pytest.mark.parametrize("part", VITAL)
def test_a_pool_whose_ray_has_died_says_so_and_closes(part: str, tmp_path: Path) -> None:
    """Ray would wait for ever, or end this process after a minute."""
    with Pool(Calls, {}, workers=1, threads=1) as pool:
        pool.submit(0, until(tmp_path / "never"))
        commands = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in descendants(os.getpid())}
        os.kill(commands[part], signal.SIGKILL)
        with pytest.raises(TransientError, match=f"{part} of the Ray on this machine has died"):
            pool.wait()


class Lame(Calls):
    """A runner that is built once there is a place for it, which it takes."""

    def __init__(self, places: Path) -> None:
        super().__init__()
        while not any(took(place) for place in places.iterdir()):
            time.sleep(0.01)


def took(place: Path) -> bool:
    try:
        place.unlink()
    except FileNotFoundError:  # the other worker was faster
        return False
    return True


def test_no_request_waits_for_a_worker_that_may_never_come_back(tmp_path: Path) -> None:
    """As where its machine is gone."""
    places = tmp_path / "places"
    places.mkdir()
    (places / "1").touch()
    (places / "2").touch()
    with Pool(Lame, {"places": places}, workers=2, threads=1) as pool:
        pool.submit("doomed", hold(tmp_path / "pid"))
        os.kill(holder(tmp_path / "pid"), signal.SIGKILL)
        assert [each.died for each in finish(pool, 1)] == [True]
        assert pool.free == 1
        for number in range(3):
            pool.submit(number, pid)
        assert [each.died for each in finish(pool, 3)] == [False] * 3
        (places / "3").touch()
        pool.worker_pids()
        assert pool.free == 2


def test_ray_that_cannot_start_is_named_with_its_reason_in_one_line() -> None:
    """In a process of its own, as Ray leaves what it had started to the end of its process."""
    driver = (
        "from tests.trials.test_pool import Calls, Pool\n"
        "try: Pool(Calls, {}, workers=1, threads=1)\n"
        "except Exception as error: print(f'{type(error).__name__}: {error}', end='')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", driver],
        env={**os.environ, "RAY_OVERRIDE_RESOURCES": "no JSON"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.stdout.startswith("TransientError: Ray cannot start on this machine (JSONDecodeError: Expec")
    assert ended.stdout.endswith("the variables RAY_* of the environment, then try again")
    assert "\n" not in ended.stdout
