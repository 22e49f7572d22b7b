"""Measure a device: the planned operators and a few whole networks, interleaved with one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hwprofiles.device import Device
from hwprofiles.files import MeasuredNetwork, Profile
from hwprofiles.ops import OpSpec
from hwprofiles.runtimes import CALL, Runtime
from hwprofiles.samples import measure


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkModel:
    """A whole network to calibrate against: its operators in order, and the file that runs them."""

    name: str
    operators: tuple[OpSpec, ...]
    onnx_path: Path


def build_profile(
    device: Device,
    runtime: Runtime,
    specs: Sequence[OpSpec],
    networks: Sequence[NetworkModel],
    *,
    passes: int,
    rounds: int,
    progress: Callable[[float], None] = lambda done: None,
) -> Profile:
    """Measure `specs` (see `plan_measurements.plan`) and `networks` on `device`, in the same rounds.

    Args:
        networks: drawn from the candidates that the table shall score, nine or more and dense among them;
            the error bar that they give is one for candidates like them.
        progress: called after each round with the share that is done, up to 1.0.

    Raises:
        UnsupportedOpError: the runtime has no rule for an operator.
        RequestError: a network cannot be loaded.
        TransientError: the machine stayed busy with another measurement.
    """
    operators = dict.fromkeys(runtime.canon(spec) for spec in (CALL, *specs))
    runs: dict[OpSpec | str, Callable[[], None]] = {
        spec: runtime.prepare_operator(spec, device) for spec in operators
    }
    runs |= {network.name: runtime.prepare_network(network.onnx_path, device) for network in networks}
    measured = measure(runs, passes=passes, rounds=rounds, seed=0, progress=progress)
    return Profile(
        device=device,
        operators={spec: measured[spec] for spec in operators},
        networks=tuple(
            MeasuredNetwork(name=net.name, operators=net.operators, rounds=measured[net.name])
            for net in networks
        ),
        created=datetime.now(UTC),
    )
