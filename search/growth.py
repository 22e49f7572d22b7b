"""Profiles of devices, which grow from model to model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwprofiles import Lowering, OpSpec, Profile, lowering_of, read_profile, write_profile
from hwprofiles.errors import RequestError, TransientError
from latency_models import LatencyTable, extend, missing, shortened, validate
from latency_models.compare import compare
from search import profiling
from search.bench import Bench, OpenBench, open_here
from search.devices import alike, disturbed, find_like, model_numbers, profile_path
from search.job import DeviceChoice, Job, Search
from search.model import open_coupling, open_model
from search.place import hold
from search.profiling import DENSE, drawn, kernels_to_measure, measured, told
from search.progress import Listener
from trials.bundle import Bundle, read_bundle
from trials.candidate import Space
from trials.costs import Costs
from trials.groups import Coupling


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured or predicted: of a job file, or a bundle alone, with nothing but defaults."""

    bundle: Bundle
    coupling: Coupling
    search: Search
    device: DeviceChoice

    def space(self, step: int) -> Space:
        return self.coupling.space(step=step, lowest_keep=self.search.lowest_keep)


def open_subject(path: Path, *, blocks: bool = False) -> Subject:
    """
    Args:
        blocks: whether whole blocks may go, also of a bundle or where the job does not say so.

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
    return Subject(
        bundle,
        open_coupling(bundle, seed=search.seed, whole=search.whole, blocks=blocks or search.blocks),
        search,
        device,
    )


def profile_device(
    source: Path,
    name: str,
    folder: Path,
    asked: Mapping[str, Any],
    passes: int,
    listener: Listener,
    open_bench: OpenBench = open_here,
    like: str = "",
) -> dict[str, Any]:
    """Build the profile of a device for a model, or add to it what it lacks; then say how good it is.

    Args:
        source: a job file or a bundle.
        folder: of the profiles of devices.
        asked: keys of `DeviceChoice`; one left out is that of the profile that is there, else of the job.
        open_bench: finds the device; without it that is this machine.
        like: a device whose profile shows what need not be measured of this one.

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
    first = find_like(folder, like, bench.device) if like else None
    listener.stage("profiling")
    if not (like or known) and lowering_of(bench.device).points > 2:
        for other in alike(folder, bench.device)[:1]:
            listener.note(f"--like {other} would leave out kernels that there follow from others")
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder, f"another process measures for {folder}"):
        known = read_profile(path) if path.exists() else None
        profile = _grown(subject, known, first, bench, passes, path.with_suffix(".journal"), listener)
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
        if old and new and old != new and outline != own.networks[0].model:
            found.append({"model": number, "before": asdict(old), "after": asdict(new)})
    return found


def _grown(
    subject: Subject,
    known: Profile | None,
    first: Profile | None,
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
    rules = lowering_of(bench.device)
    kernels = kernels_to_measure(costs, anywhere, rules)
    if first:
        kernels = _like(first, kernels, rules, listener)
    # A network without some of its blocks would be one of another model: what runs in it is something else.
    spaces = [s.with_all_blocks for s in (subject.space(step=bench.device.channel_step), anywhere)]
    rng = np.random.default_rng(subject.search.seed)
    fitted, proof = (
        drawn(spaces, count, rng) for count in (profiling.CALIBRATION_NETWORKS, profiling.HELD_OUT_NETWORKS)
    )
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
        rounds=profiling.ROUNDS,
        journal=journal,
        listener=listener,
    )
    if not known:
        return more
    LatencyTable.from_profile(known).check(more.device)
    found = compare(known, more)
    if abs(found.median_change) > profiling.MOVED:
        journal.unlink(missing_ok=True)
        raise TransientError(
            f"device {known.device.name!r} is in another state than when its profile was measured: what was "
            f"measured again takes {found.median_change:+.0%} (median of {found.shared}), so its profile "
            "stays as it was; repeat this when the machine is at rest, of an agent with other --passes, or "
            "if it was not at rest before, begin a profile under another name"
        )
    return extend(known, more)


def _like(first: Profile, kernels: list[OpSpec], rules: Lowering, listener: Listener) -> list[OpSpec]:
    """The kernels that remain to be planned, and told so, when `first` is measured already."""
    found = shortened(kernels, first)
    name = first.device.name
    if rules.points <= 2:
        listener.note(f"like {name!r}: nothing to leave out, as only the ends of channel counts are measured")
    else:
        left = len(kernels) - len(found)
        listener.note(f"like {name!r}: {left} of {len(kernels)} kernels follow from others and are left out")
    return found


def _networks(profile: Profile) -> int:
    return len(profile.networks) + len(profile.held_out)
