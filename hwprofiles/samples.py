"""Raw timings of things that are run again and again on a noisy machine, and what they amount to.

Slow spells of a shared machine last seconds to minutes and hit whatever runs at that time. So the things to
measure take turns, in a new random order each round, and the estimate is the mean of the lowest quartile of
the round medians: against 10-18 % for a plain median it repeats to 1-2 %.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import InvariantError, TransientError

K = TypeVar("K")

_log = logging.getLogger(__name__)

RUNS_PER_VISIT = 4
"""Runs each time a thing has its turn. The first finds the caches full of other things' data."""
SILENT_S = 1.5
"""For how long a measurement waits for another one without a word."""
MIN_MS, MAX_MS = 1e-6, 3.6e6
"""Between a nanosecond, as no clock counts less, and an hour, as no single run takes longer, times may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A thing's latency in milliseconds: the estimate, percentiles of all runs, and how restless it was.

    `latency_ms` is the mean of the lowest quartile of the round medians, `cold_ms` that of the first runs of
    their visits, which nothing else counts; `spread` is the interquartile range of the round medians as a
    share of their median. Of visits of a single run that run is both.
    """

    latency_ms: float
    cold_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    spread: float


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """Every timed run of one thing: (passes, rounds, runs a visit) in ms, from `MIN_MS` to `MAX_MS`."""

    times_ms: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.times_ms.ndim != 3 or not self.times_ms.size:
            raise ValueError(
                f"times of shape {self.times_ms.shape}; wanted (passes, rounds, runs), none empty"
            )
        odd = self.times_ms[~((self.times_ms >= MIN_MS) & (self.times_ms <= MAX_MS))]  # NaN is among them
        if odd.size:
            raise ValueError(f"a time is {odd[0]} ms; allowed: from a nanosecond to an hour")

    def summary(self) -> Summary:
        warm_ms = self.times_ms[:, :, 1:] if self.times_ms.shape[2] > 1 else self.times_ms
        medians = np.median(warm_ms, axis=2).ravel()
        p50, p90, p99 = np.percentile(warm_ms, [50, 90, 99])
        low, middle, high = np.percentile(medians, [25, 50, 75])
        return Summary(
            latency_ms=_lowest_quartile(medians),
            cold_ms=_lowest_quartile(self.times_ms[:, :, 0].ravel()),
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            spread=float((high - low) / middle),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rounds) and np.array_equal(self.times_ms, other.times_ms)


def _lowest_quartile(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[: max(1, len(values) // 4)].mean())


def measure(
    runs: Mapping[K, Callable[[], float | None]],
    *,
    passes: int,
    rounds: int,
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[K, Rounds]:
    """Time everything in `runs`, interleaved: `passes` x `rounds` shuffled turns of `RUNS_PER_VISIT` runs.

    Waits for its turn where another measurement is under way on this machine.

    Args:
        progress: called after each round with the share that is done, up to 1.0.

    Raises:
        TransientError: the machine stayed busy with another measurement.
    """
    if passes < 1 or rounds < 1:
        raise InvariantError(f"a measurement of {passes} passes and {rounds} rounds measures nothing")
    keys = list(runs)
    times_ms = {key: np.empty((passes, rounds, RUNS_PER_VISIT)) for key in keys}
    shuffled = random.Random(seed)
    with only_measurement():
        for turn in range(passes * rounds):
            shuffled.shuffle(keys)
            for key in keys:
                times_ms[key][divmod(turn, rounds)] = _visit(runs[key])
            progress((turn + 1) / (passes * rounds))
    return {key: Rounds(times_ms[key]) for key in runs}


def _visit(run: Callable[[], float | None]) -> list[float]:
    """Milliseconds of each run: by its own clock where it has one, else by the clock on the wall."""
    times_ms = []
    for _ in range(RUNS_PER_VISIT):
        start_ns = time.perf_counter_ns()
        own_ms = run()
        times_ms.append((time.perf_counter_ns() - start_ns) / 1e6 if own_ms is None else own_ms)
    return times_ms


@contextmanager
def only_measurement(*, patience_s: float = 600.0) -> Iterator[None]:
    """Hold this machine's measuring lock, which the system releases even when its holder is killed.

    Whoever waits for it for more than a moment says so once, in the log.

    Raises:
        TransientError: another process or thread still holds it after `patience_s`.
    """
    path = Path(tempfile.gettempdir()) / "prunefront-measuring.lock"
    descriptor = (
        os.open(path, os.O_RDONLY) if path.exists() else os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    )
    start = time.monotonic()
    said = False
    try:
        while not _try_lock(descriptor):
            waited_s = time.monotonic() - start
            if waited_s >= patience_s:
                raise TransientError(
                    f"{_holder(descriptor)} has held {path} for {patience_s:.0f} s; let its measurement end, "
                    "then try again"
                )
            if waited_s >= SILENT_S and not said:
                _log.warning("waiting to measure: %s measures on this machine now", _holder(descriptor))
                said = True
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Who holds the lock of an open file, with the command that it runs where the system tells."""
    inode = os.fstat(descriptor).st_ino
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, pid, file, *_ = line.split()
            if kind == "FLOCK" and file.endswith(f":{inode}"):
                command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
                return f"process {pid} ({command})"
    return "another process"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
