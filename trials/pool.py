"""A pool of warm workers: Ray actors that each build a runner once and then answer request after request.

Requests, values and `shared` travel as pickles between processes of one job; nothing here reads a pickle
from a file or a stranger.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hwprofiles.disk import is_full
from hwprofiles.errors import NoRoomError, TransientError, TrialError, one_line
from trials.cluster import dead_part, session

PR_SET_PDEATHSIG = 1
"""Linux: which signal a process gets when its parent dies; see prctl(2)."""
LOOK_EVERY_S = 1.0
"""After which a wait looks whether Ray still runs."""


class Runner(Protocol):
    """What a worker does all day; built once by the pool's factory, so what it loads stays loaded."""

    def __call__(self, request: Any, /) -> Any:
        """Answer one request.

        Raises:
            TrialError: this request cannot be answered, and the message says why.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How one request ended: with a value, with an error, or with the death of its worker.

    `busy_s` is how long the worker spent on it; 0 when it died.
    """

    key: Hashable
    value: Any = None
    error: str = ""
    died: bool = False
    busy_s: float = 0.0


def threads_each(workers: int) -> int:
    """Torch threads of each worker, where they share this machine's cores."""
    return max(1, (os.cpu_count() or 1) // workers)


def threads_on(nodes: Sequence[Mapping[str, Any]], workers: int, wanted: int) -> int:
    """Threads of each worker on a cluster, which reserves a core for each of them.

    As many as wanted, but no more than lets all workers run at once on the nodes that are there, and never
    more than the largest node has: such a worker would wait for ever.

    Args:
        nodes: as `ray.nodes()` tells of them.
    """
    cores = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    room = [each for each in range(1, wanted + 1) if sum(count // each for count in cores) >= workers]
    return max(room, default=1)


class Pool:
    """Workers that keep model and data loaded; one request at a time each, the rest waits here in order.

    `factory` is called once in each worker as `factory(**shared)`. The values of `shared` are stored once
    a machine: NumPy arrays in it are seen by all workers without a copy, and are read-only. A worker has
    `threads` torch threads, on a cluster as many as `threads_on` its nodes. After `recycle_after`
    requests (0: never) it is replaced by a fresh one, as is a worker that dies. A fresh worker warms up
    while the others go on.

    Without an `address` (host:port of a cluster's head) Ray is started on this machine, reachable from this
    machine only, and ends with the pool or, should it be killed, with this process. One pool at a time; make
    it in a thread that outlives it, because Linux ties Ray's life to the thread that started it.

    Raises:
        Exception: whatever `factory` raised in a worker.
        TransientError: no cluster answers at `address`, Ray does not start, or a worker died while it was
            warming up.
        InvariantError: this process already uses Ray.
    """

    def __init__(
        self,
        factory: Callable[..., Runner],
        shared: Mapping[str, Any],
        *,
        workers: int,
        threads: int,
        recycle_after: int = 0,
        address: str = "",
    ) -> None:
        self._factory, self._recycle_after = factory, recycle_after
        self._queue: deque[tuple[Hashable, Any]] = deque()
        self._running: dict[Any, tuple[_Seat, Hashable]] = {}
        self._idle: deque[_Seat] = deque()
        self._busy_s, self._first_submit_s, self._last_finish_s = 0.0, 0.0, 0.0
        with ExitStack() as opening:
            self._ray = opening.enter_context(session(address, cpus=workers))
            self._threads = threads_on(self._ray.nodes(), workers, threads) if address else threads
            # A cluster gives each worker its cores; here Ray would start an idle process for each of them.
            self._cpus_each = self._threads if address else 1
            self._shared = {name: self._ray.put(value) for name, value in shared.items()}
            self._idle.extend(self._fresh() for _ in range(workers))
            self._workers = workers
            self.worker_pids()
            self._open = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill all workers, busy or not, and end the Ray that this pool started."""
        if not dead_part(self._ray):
            for seat in self._seats:
                self._ray.kill(seat.actor)
        self._queue.clear()
        self._running.clear()
        self._idle.clear()
        self._open.close()

    @property
    def free(self) -> int:
        """How many submits would start at once.

        None waits for a worker that is not warm yet, unless no other is left: the machine that it is to run
        on may be away for good.
        """
        warm = sum(self._is_warm(seat) for seat in self._idle)
        return warm if warm or self._running else len(self._idle)

    @property
    def busy_share(self) -> float:
        """Share of the workers' time spent in finished requests, from the first submit to the last finish."""
        elapsed_s = self._last_finish_s - self._first_submit_s
        return self._busy_s / (self._workers * elapsed_s) if elapsed_s > 0 else 0.0

    def worker_pids(self) -> list[int]:
        """Process ids of the workers, idle ones first; waits for those that are still warming up.

        Raises:
            Exception: whatever `factory` raised in a worker.
            TransientError: a worker died while it was warming up, or Ray did.
        """
        return [self._warm_pid(seat) for seat in self._seats]

    def submit(self, key: Hashable, request: Any) -> None:
        """Start the request on a free worker, or queue it; its end comes back from `wait` under `key`.

        Raises:
            TypeError: the request cannot be pickled.
        """
        self._first_submit_s = self._first_submit_s or time.perf_counter()
        self._queue.append((key, request))
        self._dispatch()

    def wait(self, timeout_s: float | None = None) -> list[Finished]:
        """Wait until a request ends, and return all that have; empty after the time-out or with none running.

        A request whose worker died comes back as such and is not tried again here.

        Raises:
            NoRoomError: a worker's disk is full, which is no fault of its request.
            TransientError: a part of this machine's Ray has died.
        """
        if not self._running:
            return []
        ready = self._ready(list(self._running), timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        finished = [self._finish(reference) for reference in ready]
        self._dispatch()
        return finished

    @property
    def _seats(self) -> list[_Seat]:
        return [*self._idle, *(seat for seat, _ in self._running.values())]

    def _ready(self, references: list[Any], timeout_s: float | None) -> list[Any]:
        """What has ended of these, once something has or the time is over.

        Of its own dead parts Ray says nothing for a minute, or ever.

        Raises:
            TransientError: one has died.
        """
        end_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, end_s - time.monotonic())
            ready, _ = self._ray.wait(references, timeout=min(left_s, LOOK_EVERY_S))
            if dead := dead_part(self._ray):
                raise TransientError(f"{dead} of the Ray on this machine has died; what is finished is kept")
            if ready or left_s <= LOOK_EVERY_S:
                return list(ready)

    def _is_warm(self, seat: _Seat) -> bool:
        seat.is_warm = seat.is_warm or bool(self._ray.wait([seat.warm], timeout=0)[0])
        return seat.is_warm

    def _warm_pid(self, seat: _Seat) -> int:
        self._ready([seat.warm], None)
        try:
            pid, problem = self._ray.get(seat.warm)
        except self._ray.exceptions.RayError as error:
            raise TransientError(
                "a worker died while it was warming up: if memory is short, ask for fewer workers"
            ) from error
        if problem is not None:
            raise problem
        return int(pid)

    def _dispatch(self) -> None:
        while self._queue and self.free:
            key, request = self._queue.popleft()
            seat = next((seat for seat in reversed(self._idle) if self._is_warm(seat)), self._idle[-1])
            reference = seat.actor.run.remote(request)
            self._idle.remove(seat)
            self._running[reference] = (seat, key)

    def _finish(self, reference: Any) -> Finished:
        seat, key = self._running.pop(reference)
        seat.answered += 1
        self._idle.append(seat)
        finished = self._read(reference, key)
        self._last_finish_s = time.perf_counter()
        self._busy_s += finished.busy_s
        if finished.died or seat.answered == self._recycle_after:
            self._ray.kill(self._idle.pop().actor)
            # To the cold end: the next request goes to a worker that is warm.
            self._idle.appendleft(self._fresh())
        return finished

    def _read(self, reference: Any, key: Hashable) -> Finished:
        try:
            value, error, busy_s = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as unsent:
            if isinstance(unsent.cause, NoRoomError):
                raise unsent.cause from None
            # The runner's own errors are data; what is left is a value that cannot be pickled.
            return Finished(key=key, error=one_line(f"the worker's answer cannot be sent: {unsent.cause}"))
        except self._ray.exceptions.OutOfDiskError as full:
            raise NoRoomError(f"Ray has no room for a worker's answer: {full}") from full
        except self._ray.exceptions.RayError:
            return Finished(key=key, died=True)
        return Finished(key=key, value=value, error=error, busy_s=busy_s)

    def _fresh(self) -> _Seat:
        worker = self._ray.remote(_Worker).options(num_cpus=self._cpus_each)
        actor = worker.remote(self._factory, self._threads, **self._shared)
        return _Seat(actor=actor, warm=actor.warm_up.remote())


@dataclass(slots=True, eq=False, kw_only=True)
class _Seat:
    """One worker as the pool sees it; `warm` refers to what its `warm_up` returns."""

    actor: Any
    warm: Any
    is_warm: bool = False
    answered: int = 0


class _Worker:
    """What runs in a worker's process."""

    def __init__(self, factory: Callable[..., Runner], threads: int, /, **shared: Any) -> None:
        import torch

        if sys.platform == "linux":
            # Ray alone lets a busy worker outlive a killed pool by half a minute.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        torch.set_num_threads(threads)
        self._runner = cache(partial(factory, **shared))  # the first call builds it

    def warm_up(self) -> tuple[int, Exception | None]:
        """Build the runner; return this process's id, and what went wrong."""
        try:
            self._runner()
        except Exception as error:
            return os.getpid(), error
        return os.getpid(), None

    def run(self, request: Any) -> tuple[Any, str, float]:
        """Return the runner's answer, or how it failed, and the seconds it took.

        Raises:
            NoRoomError: a disk is full.
        """
        begin_s = time.perf_counter()
        value, problem = None, ""
        try:
            value = self._runner()(request)
        except TrialError as error:
            problem = str(error)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            reason = one_line(f"{type(error).__name__}: {error}")
            problem = f"{reason} ({Path(frame.filename).name}, line {frame.lineno})"
            if is_full(error):
                host = socket.gethostname()
                raise NoRoomError(f"a disk of worker {host!r} is full: {problem}; make room there") from None
        return value, problem, time.perf_counter() - begin_s
