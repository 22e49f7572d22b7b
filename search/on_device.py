"""What one device makes of a job's model: its profile, and what that says of candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwprofiles import Device, Profile, lowering_of, read_profile, write_profile
from hwprofiles.errors import NotMeasuredError
from latency_models import uncovered
from search.devices import calibrating, find_profile, open_table
from search.job import DeviceChoice, Job
from search.place import Place
from search.profiling import (
    DENSE,
    dense_latency_ms,
    kernels_to_measure,
    open_device,
    open_profile,
    profile_file,
)
from search.progress import Listener
from search.score import Scorer
from trials.bundle import Bundle
from trials.candidate import Space
from trials.costs import Costs

MEASURED = "measured"
"""The kind of the results, in the store, of measuring on the first device of a job."""
NAMED = 3
"""Operators that a message names at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice:
    """Candidates of one model on one device.

    `known_dense_ms` is what the dense model took when the profile was measured, if it was. `measured` is the
    kind of the results, in the store, of measuring on the device, which can be done if it `is_here`.
    """

    profile: Profile
    scorer: Scorer
    known_dense_ms: float | None
    measured: str
    is_here: bool

    @property
    def device(self) -> Device:
        return self.profile.device

    @property
    def dense_ms(self) -> float:
        """What the dense model takes: as it was measured, else as it is predicted."""
        dense = self.scorer.costs.coupling.space().dense
        return self.known_dense_ms or self.scorer.score([dense])[0].latency_ms


def describe(place: Place, job: Job, *, planned: bool) -> list[Device]:
    """The devices of a job, in its order: this machine, run as asked, or another by its profile.

    Raises:
        RequestError: this machine cannot run networks so, or there is no such profile.
    """
    return [
        _given(place, job, choice, planned).device if choice.profile else open_device(choice)[1]
        for choice in job.devices
    ]


def open_on(
    place: Place,
    job: Job,
    choice: DeviceChoice,
    bundle: Bundle,
    costs: Costs,
    space: Space,
    listener: Listener,
    *,
    planned: bool,
) -> OnDevice:
    """One of a job's devices, with the job's own profile of it, which is measured or copied if need be.

    Raises:
        RequestError: as `open_profile` and `elsewhere`.
    """
    if choice.profile:
        on = elsewhere(_given(place, job, choice, planned), costs, space, place)
        if not planned:
            write_profile(on.profile, profile_file(place, job, choice))
    else:
        profile, table = open_profile(
            place, job, choice, bundle, costs.coupling, space, listener, planned=planned
        )
        on = OnDevice(
            profile=profile,
            scorer=Scorer(costs, table),
            known_dense_ms=dense_latency_ms(profile),
            measured=measured_on(choice.name),
            is_here=True,
        )
    return replace(on, measured=MEASURED) if choice == job.device else on


def measured_on(name: str) -> str:
    """The kind of the results of measuring on a device that is not the first of its job."""
    return f"measured on {name}"


def _given(place: Place, job: Job, choice: DeviceChoice, planned: bool) -> Profile:
    """The profile that stands for a device that is elsewhere: of a planned job its own copy."""
    if planned:
        path = profile_file(place, job, choice)
    elif choice.profile.endswith(".parquet"):
        path = job.folder / choice.profile
    else:
        path = find_profile(place.devices, choice.profile)
    profile = read_profile(path)
    return replace(profile, device=replace(profile.device, name=choice.name))


def elsewhere(profile: Profile, costs: Costs, space: Space, place: Place) -> OnDevice:
    """A device known by its profile alone, which may have been measured for other models, too.

    Raises:
        NotMeasuredError: candidates run operators that the profile does not hold; says how to measure them.
    """
    name = profile.device.name
    needed = kernels_to_measure(costs, space, lowering_of(profile.device))
    if lacking := uncovered(profile, needed):
        named = ", ".join(map(str, lacking[:NAMED]))
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        model = place.bundle if place.bundle.exists() else "job.toml"
        raise NotMeasuredError(
            f"profile {name!r} lacks {len(lacking)} of the {len(needed)} operators that candidates of job "
            f"{place.job!r} run there: {named}{more}; measure them on that device with `prunefront profile "
            f"--device {name} --model {model}`"
        )
    own = calibrating(profile, costs.op_graph)
    holds_dense = any(net.name == DENSE and net.graph == costs.op_graph for net in own.networks)
    return OnDevice(
        profile=own,
        scorer=Scorer(costs, open_table(profile, costs.op_graph)),
        known_dense_ms=dense_latency_ms(own) if holds_dense else None,
        measured=measured_on(name),
        is_here=False,
    )
