"""Both ways to a GPU, held against stand-ins that know what the libraries document and no more.

cuda-core: the type stubs of its wheel, 1.2.2 (`_device.pyi`, `_stream.pyi`, `_event.pyi`, `graph/`).
pycuda: the page "Device Interface" of its documentation.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from hwprofiles.runtimes.cuda import CudaCore, PyCuda

Steps = list[str]


class HostBuffer:
    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(size, dtype=np.int8)

    def __dlpack__(self, **options: Any) -> Any:
        return self.bytes.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.bytes.__dlpack_device__()


class CoreStream:
    handle = 5

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def sync(self) -> None:
        self._steps.append("wait")

    def record(self, event: SimpleNamespace) -> None:
        self._steps.append(f"record {event.name}")

    def create_graph_builder(self) -> GraphBuilder:
        return GraphBuilder(self._steps)


class GraphBuilder:
    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.stream = SimpleNamespace(handle=6)

    def begin_building(self, mode: str = "relaxed") -> GraphBuilder:
        self._steps.append("begin")
        return self

    def end_building(self) -> GraphBuilder:
        self._steps.append("end")
        return self

    def complete(self) -> SimpleNamespace:
        return SimpleNamespace(
            upload=lambda stream: self._steps.append("upload"),
            launch=lambda stream: self._steps.append("launch"),
        )


class CoreEvent:
    def __init__(self, steps: Steps, name: str) -> None:
        self._steps, self.name = steps, name

    def sync(self) -> None:
        self._steps.append(f"wait for {self.name}")

    def __sub__(self, other: CoreEvent) -> float:
        assert (self.name, other.name) == ("2", "1")
        return 0.5


def core(steps: Steps, copied: list[bytes]) -> SimpleNamespace:
    names = iter("12")

    def event(options: SimpleNamespace) -> CoreEvent:
        assert options.timing_enabled
        return CoreEvent(steps, next(names))

    def allocate(size: int, *, stream: CoreStream) -> SimpleNamespace:
        return SimpleNamespace(
            handle=1000, copy_from=lambda host, *, stream: copied.append(host.bytes.tobytes())
        )

    device = SimpleNamespace(
        name="Some GPU",
        set_current=lambda: steps.append("current"),
        create_stream=lambda: CoreStream(steps),
        create_event=event,
        allocate=allocate,
    )
    return SimpleNamespace(
        Device=lambda: device,
        EventOptions=SimpleNamespace,
        LegacyPinnedMemoryResource=lambda: SimpleNamespace(allocate=HostBuffer),
    )


def test_cuda_core_captures_after_a_first_run_and_times_between_events() -> None:
    steps = Steps()
    gpu = CudaCore(core(steps, []))
    run = gpu.timed(lambda stream: steps.append(f"enqueue on {stream}"))
    assert steps == ["current", "enqueue on 5", "wait", "begin", "enqueue on 6", "end", "upload"]
    steps.clear()
    assert run() == 0.5
    assert steps == ["record 1", "launch", "record 2", "wait for 2"]
    assert (gpu.board, gpu.launch) == ("Some GPU", "graph")


def test_cuda_core_copies_values_whole_before_they_may_be_freed() -> None:
    steps, copied = Steps(), list[bytes]()
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    memory = CudaCore(core(steps, copied)).upload(values)
    assert copied == [values.tobytes()]
    assert memory.address == 1000
    assert steps[-1] == "wait"


class CudaEvent:
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def record(self, stream: SimpleNamespace) -> None:
        self._steps.append("record")

    def synchronize(self) -> None:
        self._steps.append("wait for it")

    def time_since(self, event: CudaEvent) -> float:
        return 0.25


def test_pycuda_launches_between_events_and_is_another_way_to_launch() -> None:
    steps, copied = Steps(), list[bytes]()
    context = SimpleNamespace(push=lambda: steps.append("push"))
    device = SimpleNamespace(retain_primary_context=lambda: context, name=lambda: "Some board")
    driver = SimpleNamespace(
        init=lambda: steps.append("init"),
        Device=lambda number: device,
        Stream=lambda: SimpleNamespace(handle=9, synchronize=lambda: steps.append("wait")),
        Event=lambda: CudaEvent(steps),
        mem_alloc=lambda size: 2000 + size,
        memcpy_htod=lambda address, values: copied.append(values.tobytes()),
    )
    gpu = PyCuda(driver)
    assert gpu.upload(np.ones(3, dtype=np.float32)).address == 2012
    assert copied == [np.ones(3, dtype=np.float32).tobytes()]
    run = gpu.timed(lambda stream: steps.append(f"enqueue on {stream}"))
    steps.clear()
    assert run() == 0.25
    assert steps == ["record", "enqueue on 9", "record", "wait for it"]
    assert gpu.launch == "stream"
