"""A step that does not end is ended, and says where it stood."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import torch
from torch import Tensor, nn

from hwprofiles.errors import RequestError
from trials.limit import time_limit


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while True:
            x = torch.nn.functional.gelu(x)


def test_a_forward_without_end_is_named_by_its_line() -> None:
    sentence = r"^exporting it took more than 0.2 s; it stood at test_limit.py:(19|20) in forward"
    with pytest.raises(RequestError, match=sentence), time_limit(0.2, "exporting it"):
        Endless()(torch.ones(3))


def stubborn() -> None:
    while True:
        try:
            time.sleep(10)
        except Exception:
            continue


def test_what_catches_every_exception_is_ended_too() -> None:
    with pytest.raises(RequestError, match="in stubborn"), time_limit(0.1, "it"):
        stubborn()


def test_a_limit_gives_back_the_timer_that_it_found() -> None:
    before = signal.getsignal(signal.SIGALRM)
    timer = signal.setitimer(signal.ITIMER_REAL, 100.0)
    try:
        with time_limit(50.0, "it"):
            assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
    assert signal.getsignal(signal.SIGALRM) is before


def test_other_threads_have_no_limit() -> None:
    done = []

    def work() -> None:
        with time_limit(0.01, "it"):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
