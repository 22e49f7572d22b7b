"""Kernels timed inside of whole networks, where preparing each alone would take long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from hwprofiles.device import Device
from hwprofiles.ops import OpSpec
from hwprofiles.runtimes.protocol import Run, Runtime


@runtime_checkable
class Harvester(Protocol):
    """A runtime that tells the kernels of a whole network apart."""

    def harvest(self, onnx_path: Path, device: Device) -> dict[OpSpec, Run]:
        """Return the kernels of a network, each timed in its place, with what a call takes added.

        Raises:
            RequestError: as `prepare_network`; or what the runtime tells of its layers cannot be read.
        """
        ...


def prepare_kernels(
    runtime: Runtime, kernels: Iterable[OpSpec], networks: Iterable[Path], device: Device
) -> Iterator[tuple[OpSpec, Run]]:
    """Yield the run of each kernel: in one of the networks where the runtime tells it apart, else alone."""
    harvested: dict[OpSpec, Run] = {}
    if isinstance(runtime, Harvester):
        for path in networks:
            harvested |= runtime.harvest(path, device)
    for kernel in kernels:
        yield kernel, harvested.get(kernel) or runtime.prepare_kernel(kernel, device)
