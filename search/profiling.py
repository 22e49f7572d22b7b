"""The job's profile: what its device needs for the operators of its candidates, measured once and kept."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hwprofiles import Device, OpSpec, Profile, Runtime, open_runtime, read_profile, write_profile
from hwprofiles.errors import ProfileError
from latency_models import LatencyTable, NetworkModel, build_profile, plan
from search.job import Job
from search.progress import Listener
from trials.bundle import Bundle
from trials.candidate import Candidate, Space
from trials.costs import Costs
from trials.groups import Coupling, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune

CALIBRATION_NETWORKS = 10
PASSES, ROUNDS = 3, 10
DENSE = "dense"
"""The name of the dense model among a profile's networks."""


def make_space(job: Job, coupling: Coupling, device: Device) -> Space:
    """The candidates of a job: counts in steps that the device likes, or of the job's own `round_to`."""
    # Below a latency budget only whole blocks pay; else a multiple of 4 at least avoids the slowest kernels.
    liked = device.channel_step if job.budget.kind == "latency_ms" else min(4, device.channel_step)
    return coupling.space(step=job.search.round_to or liked, lowest_keep=job.search.lowest_keep)


def open_device(job: Job) -> tuple[Runtime, Device]:
    choice = job.device
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
    listener: Listener,
) -> Profile:
    """Measure the kernels of a space, and the dense and random candidates as whole networks."""
    costs = Costs(coupling)
    kernels = kernels_to_measure(costs, space, runtime)
    rng = np.random.default_rng(seed)
    drawn = space.round(
        rng.uniform(0.0, 1.0, (CALIBRATION_NETWORKS, 1)) ** 0.5
        * rng.uniform(0.5, 1.0, (CALIBRATION_NETWORKS, len(space.axes)))
        * space.sizes
    )
    candidates = {DENSE: space.dense} | {
        f"calibration {i}": Candidate(tuple(row)) for i, row in enumerate(drawn.tolist())
    }
    with TemporaryDirectory() as folder:
        networks = []
        for position, (name, candidate) in enumerate(candidates.items()):
            listener.update(
                0.3 * position / len(candidates), f"converting network {position + 1} of {len(candidates)}"
            )
            path = Path(folder) / f"{position}.onnx"
            write_onnx(*prune(coupling, bundle.tensors, even_kept(coupling, candidate)), path)
            networks.append(NetworkModel(name=name, graph=costs.candidate_graph(candidate), onnx_path=path))
        measuring = f"{len(kernels)} kernels, {len(networks)} networks"
        return build_profile(
            device,
            runtime,
            kernels,
            networks,
            passes=PASSES,
            rounds=ROUNDS,
            progress=lambda share: listener.update(0.3 + 0.7 * share, measuring),
        )


def kernels_to_measure(costs: Costs, space: Space, runtime: Runtime) -> list[OpSpec]:
    return plan(costs.op_graph, costs.candidate_graph(narrowest(space)), runtime)


def open_profile(
    path: Path, job: Job, bundle: Bundle, coupling: Coupling, listener: Listener, *, planned: bool
) -> tuple[Profile, LatencyTable]:
    """The profile at `path` if it fits, else a new one in its place.

    Args:
        planned: whether a job was planned with what is at `path`; then nothing may take its place.

    Raises:
        ProfileError: the profile of a planned job is missing, damaged, or of another device or version.
    """
    runtime, device = open_device(job)
    space = make_space(job, coupling, device)
    if planned or path.exists():
        try:
            profile = read_profile(path)
            table = LatencyTable.from_profile(profile, runtime)
            table.check(device)
            if not planned:
                _check_model(profile, Costs(coupling), space, runtime)
            return profile, table
        except ProfileError as error:
            if planned:
                raise ProfileError(f"{error}; or run job {job.name!r} under another name") from None
            listener.note(f"measuring this device again: {error}")
    profile = measure_profile(bundle, coupling, space, runtime, device, job.search.seed, listener)
    write_profile(profile, path)
    return profile, LatencyTable.from_profile(profile, runtime)


def _check_model(profile: Profile, costs: Costs, space: Space, runtime: Runtime) -> None:
    """Refuse a profile that was measured for another model or for wider candidates."""
    dense = [network.graph for network in profile.networks if network.name == DENSE]
    missing = set(kernels_to_measure(costs, space, runtime)) - profile.kernels.keys()
    if dense != [costs.op_graph] or missing:
        raise ProfileError(f"the profile of {profile.device.name!r} is one of another model or space")


def dense_latency_ms(profile: Profile) -> float:
    return next(net.rounds.summary().latency_ms for net in profile.networks if net.name == DENSE)
