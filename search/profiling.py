"""Profiles measured for a model: a job's own, and those of devices, which grow from model to model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
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
    lowering_of,
    open_runtime,
    read_profile,
    write_profile,
)
from hwprofiles.errors import NotMeasuredError, ProfileError, RequestError, TransientError
from hwprofiles.runtimes import CALL
from latency_models import (
    LatencyTable,
    NetworkModel,
    build_profile,
    covers,
    extend,
    missing,
    plan,
    validate,
)
from latency_models.compare import compare
from search.bench import Bench, Measure, OpenBench, open_here
from search.devices import disturbed, fitting_profile, model_numbers, profile_path
from search.job import DeviceChoice, Job, Search
from search.model import open_coupling, open_model
from search.place import Place, hold
from search.progress import Listener
from trials.bundle import Bundle, read_bundle
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
            models.append(NetworkModel(name=name, graph=costs.candidate_graph(candidate), onnx_path=path))
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
    return plan(costs.op_graph, costs.candidate_graph(narrowest(space)), rules)


def open_profile(
    place: Place, job: Job, bundle: Bundle, coupling: Coupling, listener: Listener, *, planned: bool
) -> tuple[Profile, LatencyTable]:
    """The job's profile if it is there and fits, else a new one: from the device's own, or measured.

    Args:
        planned: whether the job was planned with the profile that is there; then nothing may take its place.

    Raises:
        ProfileError: the profile of a planned job is missing, damaged, or of another device or version.
    """
    path = place.profile
    runtime, device = open_device(job)
    space = make_space(job, coupling, device)
    if planned or path.exists():
        try:
            profile = read_profile(path)
            table = LatencyTable.from_profile(profile)
            table.check(device)
            if not planned:
                _check_model(profile, Costs(coupling), space, runtime)
            return profile, table
        except ProfileError as error:
            if planned:
                raise ProfileError(f"{error}; or run job {job.name!r} under another name") from None
            listener.note(f"measuring this device again: {error}")
    journal = path.with_suffix(".journal")
    known = _from_device(place, Costs(coupling), space, runtime, device)
    if known:
        listener.note(f"not measured: {place.devices} has a profile of this device that knows this model")
    profile = known or measure_profile(
        bundle, coupling, space, runtime, device, job.search.seed, journal, listener
    )
    write_profile(profile, path)
    journal.unlink(missing_ok=True)
    return profile, LatencyTable.from_profile(profile)


def _from_device(
    place: Place, costs: Costs, space: Space, runtime: Runtime, device: Device
) -> Profile | None:
    """What a profile of this device holds of the job's model, if it is enough for the job."""
    profile = fitting_profile(place.devices, device, costs.op_graph, DENSE)
    if profile is None or len(profile.networks) < CALIBRATION_NETWORKS:
        return None
    with suppress(ProfileError, NotMeasuredError):
        LatencyTable.from_profile(profile)
        if covers(profile, kernels_to_measure(costs, space, runtime)):
            return profile
    return None


def known_profile(
    place: Place, costs: Costs, space: Space, runtime: Runtime, device: Device
) -> Profile | None:
    """The job's own profile, else what the device's holds of its model; `None` where neither fits."""
    with suppress(ProfileError, NotMeasuredError):
        profile = read_profile(place.profile)
        LatencyTable.from_profile(profile).check(device)
        _check_model(profile, costs, space, runtime)
        return profile
    return _from_device(place, costs, space, runtime, device)


def _check_model(profile: Profile, costs: Costs, space: Space, runtime: Runtime) -> None:
    """Refuse a profile that was measured for another model or for wider candidates."""
    dense = [network.graph for network in profile.networks if network.name == DENSE]
    missing = set(kernels_to_measure(costs, space, runtime)) - profile.kernels.keys()
    if dense != [costs.op_graph] or missing:
        raise ProfileError(f"the profile of {profile.device.name!r} is one of another model or space")


def dense_latency_ms(profile: Profile) -> float:
    return next(net.rounds.summary().latency_ms for net in profile.networks if net.name == DENSE)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured or predicted: of a job file, or a bundle alone, with nothing but defaults."""

    bundle: Bundle
    coupling: Coupling
    search: Search
    device: DeviceChoice

    def space(self, step: int) -> Space:
        return self.coupling.space(step=step, lowest_keep=self.search.lowest_keep)


def open_subject(path: Path) -> Subject:
    """
    Raises:
        RequestError: the job file or the bundle is wrong, or nothing in the model may be pruned.
    """
    if not os.path.exists(path):  # unlike Path.exists, False for a name that is too long
        raise RequestError(f"{path} does not exist; give a job file, or the folder of a bundle")
    if path.is_dir():
        bundle, search, device = read_bundle(path), Search(), DeviceChoice()
    else:
        job = Job.load(path)
        bundle, search, device = open_model(job), job.search, job.device
    return Subject(bundle, open_coupling(bundle, seed=search.seed, whole=search.whole), search, device)


def profile_device(
    source: Path,
    name: str,
    folder: Path,
    asked: Mapping[str, Any],
    passes: int,
    listener: Listener,
    open_bench: OpenBench = open_here,
) -> dict[str, Any]:
    """Build the profile of a device for a model, or add to it what it lacks; then say how good it is.

    Args:
        source: a job file or a bundle.
        folder: of the profiles of devices.
        asked: keys of `DeviceChoice`; one left out is that of the profile that is there, else of the job.
        open_bench: finds the device; without it that is this machine.

    Raises:
        RequestError: the source, the name or a key is wrong, or the profile there is of another identity.
        TransientError: another process measures for this folder or on this machine, a server is away, or the
            device is faster or slower now than when it was measured for the models that are there.
    """
    path = profile_path(folder, name)
    known = read_profile(path) if path.exists() else None
    if known and "source" in known.device.versions:
        raise RequestError(
            f"profile {name!r} was imported, and nothing that is measured can join it; choose another "
            "--device name"
        )
    listener.stage("exporting")
    subject = open_subject(source)
    usual: Any = known.device if known else subject.device
    keys = ("runtime", "precision", "batch", "threads")
    choice = {key: getattr(usual, key) for key in keys} | dict(asked)
    bench = open_bench(name, **choice)
    if known:
        LatencyTable.from_profile(known).check(bench.device)
    listener.stage("profiling")
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder, f"another process measures for {folder}"):
        known = read_profile(path) if path.exists() else None
        profile = _grown(subject, known, bench, passes, path.with_suffix(".journal"), listener)
        if profile is not known:
            write_profile(profile, path)
            path.with_suffix(".journal").unlink(missing_ok=True)
    own = profile.of_model(Costs(subject.coupling).op_graph)
    table = LatencyTable.from_profile(own)
    found = validate(own)
    return {
        "profile": str(path),
        **told(profile, table),
        "added": {
            "kernels": len(profile.kernels) - (len(known.kernels) if known else 0),
            "networks": _networks(profile) - (_networks(known) if known else 0),
        },
        "validation": asdict(found) if found else None,
        "others": _others(known, profile, own) if known else [],
        "restless": disturbed(profile),
    }


def _others(before: Profile, after: Profile, own: Profile) -> list[dict[str, Any]]:
    """How good the predictions of each other model were and are, where new kernels changed them."""
    found = []
    for outline, number in model_numbers(after).items():
        old, new = (validate(profile.of_model(outline)) for profile in (before, after))
        if old and new and old != new and outline != own.networks[0].graph.outline:
            found.append({"model": number, "before": asdict(old), "after": asdict(new)})
    return found


def _grown(
    subject: Subject,
    known: Profile | None,
    bench: Bench,
    passes: int,
    journal: Path,
    listener: Listener,
) -> Profile:
    """`known` with all that the subject's model needs; the very same where it lacks nothing.

    Kernels of both share grids, so one known kernel of each family is measured again, and so is the call: a
    device that is in another state now would leave steps in those grids that no width has.

    Raises:
        ProfileError: the device became another while it was measured.
        TransientError: it is faster or slower now; what was measured is given up.
    """
    costs = Costs(subject.coupling)
    anywhere = subject.space(step=1)
    kernels = kernels_to_measure(costs, anywhere, lowering_of(bench.device))
    spaces = [subject.space(step=bench.device.channel_step), anywhere]
    rng = np.random.default_rng(subject.search.seed)
    fitted, proof = (drawn(spaces, count, rng) for count in (CALIBRATION_NETWORKS, HELD_OUT_NETWORKS))
    networks = {DENSE: anywhere.dense} | {f"calibration {i}": c for i, c in enumerate(fitted)}
    held_out = {f"held out {i}": c for i, c in enumerate(proof) if c not in networks.values()}
    if known:
        again = {kernel.family: kernel for kernel in sorted(known.kernels)}
        again = {family: again[family] for family in {kernel.family for kernel in kernels} & again.keys()}
        kernels = missing(kernels, known)
        there = {net.graph for net in (*known.networks, *known.held_out)}
        networks, held_out = (
            {name: c for name, c in named.items() if costs.candidate_graph(c) not in there}
            for named in (networks, held_out)
        )
        if not (kernels or networks or held_out):
            return known
        kernels += sorted(again.values())
    more = measured(
        subject.bundle,
        costs,
        kernels,
        networks,
        held_out,
        bench.measure,
        passes=passes,
        rounds=ROUNDS,
        journal=journal,
        listener=listener,
    )
    if not known:
        return more
    LatencyTable.from_profile(known).check(more.device)
    found = compare(known, more)
    if abs(found.median_change) > MOVED:
        journal.unlink(missing_ok=True)
        raise TransientError(
            f"device {known.device.name!r} is in another state than when its profile was measured: what was "
            f"measured again takes {found.median_change:+.0%} (median of {found.shared}), so its profile "
            "stays as it was; repeat this when the machine is at rest, of an agent with other --passes, or "
            "if it was not at rest before, begin a profile under another name"
        )
    return extend(known, more)


def _networks(profile: Profile) -> int:
    return len(profile.networks) + len(profile.held_out)


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
