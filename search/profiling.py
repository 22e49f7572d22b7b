"""The profile of a job: measured for its model, or taken from its device's; and what any profile measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwprofiles import (
    Device,
    Lowering,
    OpSpec,
    Profile,
    Runtime,
    open_runtime,
    read_profile,
    write_profile,
)
from hwprofiles.errors import NotMeasuredError, ProfileError
from hwprofiles.runtimes import CALL
from latency_models import (
    LatencyTable,
    NetworkModel,
    build_profile,
    covers,
    plan,
)
from search.bench import Measure
from search.devices import fitting_profile
from search.job import DeviceChoice, Job
from search.place import Place
from search.progress import Listener
from trials.bundle import Bundle
from trials.candidate import Candidate, Space
from trials.costs import Costs
from trials.groups import Coupling, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune

CALIBRATION_NETWORKS = 20
"""Whole networks that a table is calibrated on; the error bars of ten would hold 50 to 100 % of networks."""
HELD_OUT_NETWORKS = 10
"""Networks of a device's profile that nothing is fitted to: they say how good its predictions are."""
PASSES, ROUNDS = 3, 10
MOVED = 0.1
"""From there on, as a share, what a profile holds and what is measured now are of a device in two states."""
DENSE = "dense"
"""The name of the dense model among a profile's networks."""


def make_space(job: Job, coupling: Coupling, devices: Sequence[Device]) -> Space:
    """The candidates of a job: counts in steps that all devices like, or of the job's own `round_to`."""
    step = math.lcm(*(device.channel_step for device in devices))
    # Below a budget of time only whole blocks pay; else a multiple of 4 at least avoids the slowest kernels.
    liked = step if job.budget.is_measured else min(4, step)
    return coupling.space(step=job.search.round_to or liked, lowest_keep=job.search.lowest_keep)


def open_device(choice: DeviceChoice) -> tuple[Runtime, Device]:
    """This machine, run as a job asks."""
    runtime = open_runtime(choice.runtime, choice.precision)
    return runtime, runtime.describe(name=choice.name, batch=choice.batch, threads=choice.threads)


def narrowest(space: Space) -> Candidate:
    return Candidate(tuple(int(axis.allowed[0]) for axis in space.axes))


def measure_profile(
    bundle: Bundle,
    coupling: Coupling,
    space: Space,
    runtime: Runtime,
    device: Device,
    seed: int,
    journal: Path,
    listener: Listener,
) -> Profile:
    """Measure the kernels of a space, and the dense and random candidates as whole networks."""
    costs = Costs(coupling)
    candidates = drawn([space], CALIBRATION_NETWORKS, np.random.default_rng(seed))
    return measured(
        bundle,
        costs,
        kernels_to_measure(costs, space, runtime),
        {DENSE: space.dense} | {f"calibration {i}": candidate for i, candidate in enumerate(candidates)},
        {},
        partial(build_profile, device, runtime),
        passes=PASSES,
        rounds=ROUNDS,
        journal=journal,
        listener=listener,
    )


def drawn(spaces: Sequence[Space], count: int, rng: np.random.Generator) -> list[Candidate]:
    """Candidates of all sizes, from each space in turn: a level each, and every group somewhere below it."""
    axes = len(spaces[0].axes)
    share = rng.uniform(0.0, 1.0, (count, 1)) ** 0.5 * rng.uniform(0.5, 1.0, (count, axes))
    wanted = share * spaces[0].sizes
    rounded = [space.round(wanted) for space in spaces]
    return [Candidate(tuple(rounded[i % len(spaces)][i].tolist())) for i in range(count)]


def measured(
    bundle: Bundle,
    costs: Costs,
    kernels: Sequence[OpSpec],
    networks: Mapping[str, Candidate],
    held_out: Mapping[str, Candidate],
    measure: Measure,
    *,
    passes: int,
    rounds: int,
    journal: Path,
    listener: Listener,
) -> Profile:
    """What `measure` makes of kernels, and of candidates by their names as whole networks.

    The share that the listener is told is that of measuring: how long a device takes is not known before.
    """
    with TemporaryDirectory() as folder:
        models = []
        for position, (name, candidate) in enumerate([*networks.items(), *held_out.items()]):
            total = len(networks) + len(held_out)
            listener.update(0.0, f"converting network {position + 1} of {total}")
            path = Path(folder) / f"{position}.onnx"
            write_onnx(*prune(costs.coupling, bundle.tensors, even_kept(costs.coupling, candidate)), path)
            graph, model = costs.candidate_graph(candidate), costs.op_graph.outline
            whole = None if graph.outline == model else model
            models.append(NetworkModel(name=name, graph=graph, onnx_path=path, whole=whole))
        measuring = f"{len({CALL, *kernels})} kernels, {len(models)} networks"
        return measure(
            kernels,
            models[: len(networks)],
            held_out=models[len(networks) :],
            passes=passes,
            rounds=rounds,
            journal=journal,
            progress=lambda share: listener.update(share, measuring),
        )


def kernels_to_measure(costs: Costs, space: Space, rules: Lowering) -> list[OpSpec]:
    """The kernels of every candidate of a space.

    What runs behind and before a block depends on who is next to it when others are gone: the blocks beside
    it, or what stands at either end of their row. So it is enough to look at each block dropped alone, each
    one left alone, and all dropped up to one and from one on.
    """
    least = narrowest(space)
    row = range(len(costs.coupling.blocks))
    drops = [drop for i in row for drop in ([i], [*row[:i], *row[i + 1 :]], row[: i + 1], row[i:])]
    whole, *shorter = [
        (left.op_graph, left.candidate_graph(least))
        for left in map(costs.without, dict.fromkeys(map(tuple, [[], *drops])))
    ]
    return plan(*whole, rules, shorter=shorter)


def profile_file(place: Place, job: Job, choice: DeviceChoice) -> Path:
    """Where a job keeps the profile of one of its devices."""
    return place.profile if choice == job.device else place.profile_on(choice.name)


def is_measured(place: Place, job: Job) -> bool:
    """Whether a job keeps a profile of this machine."""
    here = [choice for choice in job.devices if not choice.profile]
    return any(profile_file(place, job, choice).exists() for choice in here)


def kept_profile(
    place: Place,
    job: Job,
    choice: DeviceChoice,
    costs: Costs,
    space: Space,
    listener: Listener,
    *,
    planned: bool,
) -> Profile | None:
    """The job's profile of this machine if it is there and fits, else what the device's own holds of the
    model, which is the job's from then on; None where it has to be measured.

    Args:
        choice: the one of the job's devices that it is of.
        planned: whether the job was planned with the profile that is there; then nothing may take its place.

    Raises:
        ProfileError: the profile of a planned job is missing, damaged, or of another device or version.
    """
    path = profile_file(place, job, choice)
    runtime, device = open_device(choice)
    if planned or path.exists():
        try:
            profile = read_profile(path)
            LatencyTable.from_profile(profile).check(device)
            if not planned:
                _check_model(profile, costs, space, runtime)
            return profile
        except ProfileError as error:
            if planned:
                raise ProfileError(f"{error}; or run job {job.name!r} under another name") from None
            listener.note(f"measuring this device again: {error}")
    known = _from_device(place, costs, space, runtime, device)
    if known:
        listener.note(f"not measured: {place.devices} has a profile of this device that knows this model")
        write_profile(known, path)
    return known


def new_profile(
    place: Place,
    job: Job,
    choice: DeviceChoice,
    bundle: Bundle,
    coupling: Coupling,
    space: Space,
    listener: Listener,
) -> Profile:
    """Measure this machine, run as a job asks, for its model, and keep that as the job's profile."""
    path = profile_file(place, job, choice)
    runtime, device = open_device(choice)
    journal = path.with_suffix(".journal")
    profile = measure_profile(bundle, coupling, space, runtime, device, job.search.seed, journal, listener)
    write_profile(profile, path)
    journal.unlink(missing_ok=True)
    return profile


def _from_device(place: Place, costs: Costs, space: Space, rules: Lowering, device: Device) -> Profile | None:
    """What a profile of this device holds of the job's model, if it is enough for the job.

    It is not where blocks may be dropped: all networks of a device's profile have theirs.
    """
    if space.are_blocks.any():
        return None
    profile = fitting_profile(place.devices, device, costs.op_graph, DENSE)
    if profile is None or len(profile.networks) < CALIBRATION_NETWORKS:
        return None
    with suppress(ProfileError, NotMeasuredError):
        LatencyTable.from_profile(profile)
        if covers(profile, kernels_to_measure(costs, space, rules)):
            return profile
    return None


def known_profile(
    place: Place, costs: Costs, space: Space, rules: Lowering, device: Device
) -> Profile | None:
    """The job's own profile, else what the device's holds of its model; `None` where neither fits."""
    with suppress(ProfileError, NotMeasuredError):
        profile = read_profile(place.profile)
        LatencyTable.from_profile(profile).check(device)
        _check_model(profile, costs, space, rules)
        return profile
    return _from_device(place, costs, space, rules, device)


def _check_model(profile: Profile, costs: Costs, space: Space, rules: Lowering) -> None:
    """Refuse a profile that was measured for another model or for wider candidates."""
    dense = [network.graph for network in profile.networks if network.name == DENSE]
    if dense != [costs.op_graph] or not covers(profile, kernels_to_measure(costs, space, rules)):
        raise ProfileError(f"the profile of {profile.device.name!r} is one of another model or space")


def dense_latency_ms(profile: Profile) -> float:
    return next(net.rounds.summary().latency_ms for net in profile.networks if net.name == DENSE)


def told(profile: Profile, table: LatencyTable) -> dict[str, Any]:
    """What a profile is, and how far its table vouches for itself."""
    device, calibration = profile.device, table.calibration
    return {
        "device": f"{device.name}: {device.board}, {device.runtime} {device.precision}",
        "batch": device.batch,
        "threads": device.threads,
        "identity": device.identity,
        "kernels": len(profile.kernels),
        "networks": len(profile.networks),
        "held_out": len(profile.held_out),
        "scale": round(calibration.scale, 4),
        "error bar": f"±{calibration.relative_error:.1%} for {calibration.coverage:.0%} of candidates",
        "created": profile.created.isoformat(timespec="seconds"),
    }
