"""Measure a device: the planned kernels and a few whole networks, interleaved with one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hwprofiles.device import Device
from hwprofiles.files import MeasuredNetwork, Profile
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes import CALL, Run, Runtime
from hwprofiles.samples import measure


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkModel:
    """A whole network to calibrate against: its operators, and the file that runs them."""

    name: str
    graph: OpGraph
    onnx_path: Path


def build_profile(
    device: Device,
    runtime: Runtime,
    kernels: Sequence[OpSpec],
    networks: Sequence[NetworkModel],
    *,
    passes: int,
    rounds: int,
    progress: Callable[[float], None] = lambda done: None,
) -> Profile:
    """Measure `kernels` (see `plan_measurements.plan`) and `networks` on `device`, in the same rounds.

    Args:
        networks: drawn from the candidates that the table shall score, nine or more and dense among them;
            the error bar that they give is one for candidates like them.
        progress: called after each round with the share that is done, up to 1.0.

    Raises:
        RequestError: a network cannot be loaded.
        TransientError: the machine stayed busy with another measurement.
    """
    runs: dict[OpSpec | str, Run] = {
        kernel: runtime.prepare_kernel(kernel, device) for kernel in dict.fromkeys((CALL, *kernels))
    }
    runs |= {net.name: runtime.prepare_network(net.onnx_path, net.graph, device) for net in networks}
    measured = measure(runs, passes=passes, rounds=rounds, seed=0, progress=progress)
    return Profile(
        device=device,
        kernels={key: rounds for key, rounds in measured.items() if isinstance(key, OpSpec)},
        networks=tuple(
            MeasuredNetwork(name=net.name, graph=net.graph, rounds=measured[net.name]) for net in networks
        ),
        created=datetime.now(UTC),
    )
