"""The little of CUDA that running an engine takes: memory, and runs by the device's clock.

`open_cuda` takes cuda-core (1.0 or newer, "cuda.core API Reference", section "Devices and execution"), and
pycuda where only that is installed, as on older Jetsons. pycuda cannot capture CUDA graphs; what it launches
pays for each launch, so the two ways are different devices (`launch` is part of a device's versions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import RequestError

Enqueue = Callable[[int], None]
"""Puts work into the stream of that handle."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory on a device, freed with its owner."""

    address: int
    owner: Any


class Cuda(Protocol):
    """One GPU."""

    launch: str
    board: str

    def upload(self, values: NDArray[Any]) -> Memory:
        """Copy values to the device."""
        ...

    def once(self, enqueue: Enqueue) -> None:
        """Run it and wait for its end."""
        ...

    def timed(self, enqueue: Enqueue) -> Callable[[], float]:
        """Each call of the answer runs it once and returns milliseconds; it has run once before."""
        ...


class CudaCore:
    """`Cuda` by cuda-core, as a CUDA graph."""

    launch = "graph"

    def __init__(self, core: Any) -> None:
        self._core = core
        self._device = core.Device()
        self._device.set_current()
        self._stream = self._device.create_stream()
        self.board = str(self._device.name)

    def upload(self, values: NDArray[Any]) -> Memory:
        size = max(1, values.nbytes)
        host = self._core.LegacyPinnedMemoryResource().allocate(size)
        np.from_dlpack(host).view(np.uint8)[: values.nbytes] = np.frombuffer(values.tobytes(), dtype=np.uint8)
        buffer = self._device.allocate(size, stream=self._stream)
        buffer.copy_from(host, stream=self._stream)
        self._stream.sync()
        return Memory(int(buffer.handle), buffer)

    def once(self, enqueue: Enqueue) -> None:
        enqueue(int(self._stream.handle))
        self._stream.sync()

    def timed(self, enqueue: Enqueue) -> Callable[[], float]:
        self.once(enqueue)  # libraries set themselves up in their first run, which no graph may hold
        builder = self._stream.create_graph_builder().begin_building()
        enqueue(int(builder.stream.handle))
        graph = builder.end_building().complete()
        graph.upload(self._stream)
        options = self._core.EventOptions(timing_enabled=True)
        start, end = self._device.create_event(options), self._device.create_event(options)
        return _Captured(graph, self._stream, start, end, enqueue)


@dataclass(frozen=True, slots=True)
class _Captured:
    """A CUDA graph between two events. It runs on memory that only `enqueue` keeps."""

    graph: Any
    stream: Any
    start: Any
    end: Any
    enqueue: Enqueue

    def __call__(self) -> float:
        self.stream.record(self.start)
        self.graph.launch(self.stream)
        self.stream.record(self.end)
        self.end.sync()
        return float(self.end - self.start)


class PyCuda:
    """`Cuda` by pycuda, launch by launch."""

    launch = "stream"

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        driver.init()
        device = driver.Device(0)
        self._context = device.retain_primary_context()
        self._context.push()
        self._stream = driver.Stream()
        self.board = str(device.name())

    def upload(self, values: NDArray[Any]) -> Memory:
        buffer = self._driver.mem_alloc(max(1, values.nbytes))
        self._driver.memcpy_htod(buffer, np.ascontiguousarray(values))
        return Memory(int(buffer), buffer)

    def once(self, enqueue: Enqueue) -> None:
        enqueue(int(self._stream.handle))
        self._stream.synchronize()

    def timed(self, enqueue: Enqueue) -> Callable[[], float]:
        self.once(enqueue)
        start, end = self._driver.Event(), self._driver.Event()

        def run() -> float:
            start.record(self._stream)
            enqueue(int(self._stream.handle))
            end.record(self._stream)
            end.synchronize()
            return float(end.time_since(start))

        return run


_WAYS: tuple[tuple[str, Callable[[Any], Cuda]], ...] = (("cuda.core", CudaCore), ("pycuda.driver", PyCuda))


def open_cuda() -> Cuda:
    """Return the first GPU.

    Raises:
        RequestError: neither cuda-core nor pycuda can be used here; the reason of each is quoted.
    """
    reasons = []
    for name, way in _WAYS:
        try:
            return way(import_module(name))
        except Exception as error:  # a missing package, a missing driver or no GPU: each library has its own
            reasons.append(f"{name}: {error}")
    raise RequestError(
        f"no GPU can be used here ({'; '.join(reasons)}); install cuda-core, or pycuda, on a machine with one"
    )
