"""Measure a device: the planned kernels and a few whole networks, interleaved with one another.

A profile grows: what was measured for one model stays when kernels and networks of another are added. Of a
measurement that is cut short the finished passes stay in a journal, itself a profile of fewer passes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np

from hwprofiles.board import energies_mj
from hwprofiles.device import Device
from hwprofiles.errors import ProfileError, RequestError
from hwprofiles.files import MeasuredNetwork, Profile, read_profile, write_profile
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.runtimes import CALL, Run, Runtime, prepare_kernels
from hwprofiles.samples import RUNS_PER_VISIT, Rounds, measure


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkModel:
    """A whole network to measure: its operators, and the file that runs them.

    `whole` is the outline of its model where it lacks some of that model's blocks.
    """

    name: str
    graph: OpGraph
    onnx_path: Path
    whole: OpGraph | None = None


def build_profile(
    device: Device,
    runtime: Runtime,
    kernels: Sequence[OpSpec],
    networks: Sequence[NetworkModel],
    *,
    held_out: Sequence[NetworkModel] = (),
    passes: int,
    rounds: int,
    journal: Path | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Profile:
    """Measure `kernels` (see `plan_measurements.plan`) and networks on `device`, in the same rounds.

    Where the runtime tells kernels of a network apart, those that one of `networks` runs are timed in it.

    Args:
        networks: drawn from the candidates that the table shall score, nine or more and dense among them;
            the error bar that they give is one for candidates like them.
        held_out: networks of the same kind that nothing is fitted to; see `validate`.
        journal: where each finished pass is kept, and from where the same measurement goes on; whoever has
            written the profile removes it. One of another measurement is never written over.
        progress: called after each round with the share that is done, up to 1.0.

    Raises:
        RequestError: a network cannot be loaded, or the journal keeps passes of another measurement.
        TransientError: the machine stayed busy with another measurement.
    """
    runs: dict[OpSpec | NetworkModel, Run] = dict(
        prepare_kernels(runtime, dict.fromkeys((CALL, *kernels)), [net.onnx_path for net in networks], device)
    )
    whole: dict[OpSpec | NetworkModel, Run] = {
        net: runtime.prepare_network(net.onnx_path, net.graph, device) for net in (*networks, *held_out)
    }
    runs |= whole

    def measured(number: int) -> Profile:
        times = measure(
            runs,
            passes=1,
            rounds=rounds,
            seed=number,
            progress=lambda share: progress((number + share) / passes),
        )

        energy_mj = {} if device.modelled else energies_mj(whole)

        def networks_of(models: Sequence[NetworkModel]) -> tuple[MeasuredNetwork, ...]:
            told = {m: (energy_mj[m],) if m in energy_mj else () for m in models}
            return tuple(
                MeasuredNetwork(name=m.name, graph=m.graph, rounds=times[m], energy_mj=told[m], whole=m.whole)
                for m in models
            )

        return Profile(
            device=device,
            kernels={key: rounds for key, rounds in times.items() if isinstance(key, OpSpec)},
            networks=networks_of(networks),
            held_out=networks_of(held_out),
            created=datetime.now(UTC),
        )

    profile = _begun(journal, device, runs, rounds) if journal else None
    done = len(profile.kernels[CALL].times_ms) if profile else 0
    progress(min(1.0, done / passes))
    for number in range(done, passes):
        latest = measured(number)
        profile = _with_pass(profile, latest) if profile else latest
        if journal:
            write_profile(profile, journal)
    assert profile is not None
    return profile


def extend(profile: Profile, more: Profile) -> Profile:
    """Both profiles of one device as one; what the first holds already stays as it is."""
    return replace(
        more,
        kernels={**more.kernels, **profile.kernels},
        networks=profile.networks + more.networks,
        held_out=profile.held_out + more.held_out,
    )


def missing(kernels: Sequence[OpSpec], profile: Profile) -> list[OpSpec]:
    """The kernels to measure beside those of a profile, so that each family is a whole grid again.

    A family of which the profile holds other channel counts than the planned ones gets the grid of both.
    """
    channels: dict[OpSpec, set[tuple[int, int]]] = defaultdict(set)
    for kernel in (*kernels, *profile.kernels):
        channels[kernel.family].add((kernel.in_channels, kernel.out_channels))
    families = sorted({kernel.family for kernel in kernels})
    wanted = [family.with_channels(*pair) for family in families for pair in _grid(channels[family])]
    return [kernel for kernel in wanted if kernel not in profile.kernels]


def covers(profile: Profile, kernels: Iterable[OpSpec]) -> bool:
    """Whether every kernel lies between channel counts that were measured of its family."""
    return not uncovered(profile, kernels)


def uncovered(profile: Profile, kernels: Iterable[OpSpec]) -> list[OpSpec]:
    """The kernels that do not lie between channel counts that were measured of their family."""
    channels: dict[OpSpec, list[tuple[int, int]]] = defaultdict(list)
    for kernel in profile.kernels:
        channels[kernel.family].append((kernel.in_channels, kernel.out_channels))

    def inside(kernel: OpSpec) -> bool:
        measured = channels.get(kernel.family)
        wanted = (kernel.in_channels, kernel.out_channels)
        return measured is not None and all(
            min(axis) <= count <= max(axis)
            for axis, count in zip(zip(*measured, strict=True), wanted, strict=True)
        )

    return [kernel for kernel in kernels if not inside(kernel)]


def _grid(channels: set[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    if all(inputs == outputs for inputs, outputs in channels):
        return sorted(channels)
    ins, outs = (sorted(set(axis)) for axis in zip(*channels, strict=True))
    return product(ins, outs)


def _begun(
    journal: Path, device: Device, runs: Iterable[OpSpec | NetworkModel], rounds: int
) -> Profile | None:
    """The finished passes of this very measurement; `None` if no pass was finished.

    Raises:
        RequestError: they are those of another measurement.
    """
    try:
        profile = read_profile(journal)
    except ProfileError:  # none there, or none that can still be read
        return None
    things = {key if isinstance(key, OpSpec) else (key.name, key.graph) for key in runs}
    networks = {(net.name, net.graph) for net in (*profile.networks, *profile.held_out)}
    if unlike := profile.device.unlike(device):
        differing = unlike
    elif profile.kernels.keys() | networks != things:
        differing = "other kernels or networks"
    elif (kept := profile.kernels[CALL].times_ms.shape[1:]) != (rounds, RUNS_PER_VISIT):
        differing = f"{kept[0]} rounds of {kept[1]} runs, not {rounds} of {RUNS_PER_VISIT}"
    else:
        return profile
    raise RequestError(
        f"{journal} keeps finished passes of a measurement with {differing}; repeat the command that began "
        "it, or remove the file to measure anew"
    )


def _with_pass(profile: Profile, latest: Profile) -> Profile:
    def networks(
        earlier: tuple[MeasuredNetwork, ...], later: tuple[MeasuredNetwork, ...]
    ) -> tuple[MeasuredNetwork, ...]:
        pairs = zip(earlier, later, strict=True)
        return tuple(
            replace(old, rounds=_joined(old.rounds, new.rounds), energy_mj=old.energy_mj + new.energy_mj)
            for old, new in pairs
        )

    return replace(
        latest,
        kernels={key: _joined(profile.kernels[key], rounds) for key, rounds in latest.kernels.items()},
        networks=networks(profile.networks, latest.networks),
        held_out=networks(profile.held_out, latest.held_out),
    )


def _joined(first: Rounds, second: Rounds) -> Rounds:
    return Rounds(np.concatenate([first.times_ms, second.times_ms]))
