"""Where a device is measured: on this machine here, or by an agent through `search.service.client`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from hwprofiles import Device, OpSpec, Profile, open_runtime
from latency_models import NetworkModel, build_profile


class Measure(Protocol):
    """Measures kernels and whole networks on one device; see `latency_models.build_profile`.

    `journal` is the file through which a measurement that is cut short goes on; whoever has written the
    profile removes it, and one of another measurement is refused.
    """

    def __call__(
        self,
        kernels: Sequence[OpSpec],
        networks: Sequence[NetworkModel],
        *,
        held_out: Sequence[NetworkModel] = (),
        passes: int,
        rounds: int,
        journal: Path,
        progress: Callable[[float], None],
    ) -> Profile: ...


class Bench(NamedTuple):
    """A device, and what measures on it."""

    device: Device
    measure: Measure


class OpenBench(Protocol):
    """Finds the device of a name and a way of running networks on it.

    Raises:
        RequestError: there is no such device, or it does not run networks so.
    """

    def __call__(self, name: str, *, runtime: str, precision: str, batch: int, threads: int) -> Bench: ...


def open_here(name: str, *, runtime: str, precision: str, batch: int, threads: int) -> Bench:
    """This machine, which is called `name`."""
    opened = open_runtime(runtime, precision)
    device = opened.describe(name=name, batch=batch, threads=threads)
    return Bench(device, partial(build_profile, device, opened))
