"""A time limit for steps that run a user's code or grow with a model: it says where they stood."""

from __future__ import annotations

import signal
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from hwprofiles.errors import RequestError

LIMIT_S = 600.0
"""For exporting a model, and for finding and proving its groups; BERT-base takes seconds."""
_PASSED_OVER = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"))


class _OutOfTimeError(BaseException):
    """No Exception, because whoever catches those would go on."""


@contextmanager
def time_limit(limit_s: float, what: str) -> Iterator[None]:
    """End what runs inside after so many seconds. In any thread but the main one there is no limit.

    Raises:
        RequestError: it took longer; names the line that ran then, outside of torch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _OutOfTimeError(_place(frame))

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, limit_s, 1.0)  # once more each second, lest it is swallowed
    try:
        yield
    except _OutOfTimeError as late:
        raise RequestError(
            f"{what} took more than {limit_s:g} s; it stood at {late}: look there for a loop that does not "
            "end, or make the model or its input smaller"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def _place(frame: FrameType | None) -> str:
    """File, line and function of the innermost call that is neither torch's nor Python's own."""
    while frame is not None and frame.f_code.co_filename.startswith(_PASSED_OVER):
        frame = frame.f_back
    if frame is None:
        return "its start"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
