"""What one device makes of a job's model: its profile, and what that says of candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hwprofiles import Device, Profile, lowering_of, read_profile, write_profile
from hwprofiles.board import tells_energy
from hwprofiles.errors import NotMeasuredError
from latency_models import LatencyTable, uncovered
from search.devices import calibrating, find_profile, open_table
from search.job import DeviceChoice, Job
from search.place import Place
from search.profiling import (
    DENSE,
    dense_latency_ms,
    kept_profile,
    kernels_to_measure,
    new_profile,
    open_device,
    profile_file,
)
from search.progress import Listener, Part
from search.results import MEASURED, measured_on
from search.score import Scorer, no_energy
from trials.bundle import Bundle
from trials.candidate import Space
from trials.costs import Costs

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

    def __str__(self) -> str:
        error = self.scorer.table.calibration.relative_error
        return f"dense {self.dense_ms:.3g} ms, predictions within ±{error:.1%}"

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


def open_devices(
    place: Place,
    job: Job,
    bundle: Bundle,
    costs: Costs,
    space: Space,
    listener: Listener,
    *,
    planned: bool,
    check: Callable[[DeviceChoice, OnDevice], object] = lambda choice, on: None,
) -> tuple[OnDevice, ...]:
    """A job's devices in its order, each with the job's own profile of it, measured or copied if need be.

    Args:
        check: refuses the job for what it asks of a device. What is known comes first, so that nothing is
            measured for a job that is refused anyway, nor more than it takes to refuse it.

    Raises:
        RequestError: as `kept_profile`, `elsewhere` and `check`, or energy is limited and none is told here.
    """
    found, missing = dict[str, OnDevice](), list[DeviceChoice]()
    named = {choice.name: choice.name if len(job.devices) > 1 else "" for choice in job.devices}
    for choice in job.devices:
        of_it = Part(listener, 0, 1, named[choice.name])
        if on := known_on(place, job, choice, costs, space, of_it, planned=planned):
            check(choice, on)
            found[choice.name] = on
        else:
            missing.append(choice)
    for choice in missing:
        _check_energy(job, choice)
    for number, choice in enumerate(missing):
        part = Part(listener, number, len(missing), named[choice.name])
        on = found[choice.name] = measure_on(place, job, choice, bundle, costs, space, part)
        check(choice, on)
    opened = tuple(found[choice.name] for choice in job.devices)
    listener.update(1.0, in_words(opened))
    return opened


def in_words(devices: Sequence[OnDevice]) -> str:
    """What the dense model takes on each, by name where there are several."""
    return "; ".join(f"{on.device.name} {on}" if len(devices) > 1 else str(on) for on in devices)


def known_on(
    place: Place,
    job: Job,
    choice: DeviceChoice,
    costs: Costs,
    space: Space,
    listener: Listener,
    *,
    planned: bool,
) -> OnDevice | None:
    """One of a job's devices; None where this machine has to be measured for it.

    Raises:
        RequestError: as `kept_profile` and `elsewhere`.
    """
    if not choice.profile:
        profile = kept_profile(place, job, choice, costs, space, listener, planned=planned)
        return _here(job, choice, costs, profile) if profile else None
    on = elsewhere(_given(place, job, choice, planned), costs, space, place)
    if not planned:
        write_profile(on.profile, profile_file(place, job, choice))
    return replace(on, measured=_measured(job, choice))


def measure_on(
    place: Place,
    job: Job,
    choice: DeviceChoice,
    bundle: Bundle,
    costs: Costs,
    space: Space,
    listener: Listener,
) -> OnDevice:
    """This machine as one of a job's devices, measured now."""
    return _here(job, choice, costs, new_profile(place, job, choice, bundle, costs.coupling, space, listener))


def _here(job: Job, choice: DeviceChoice, costs: Costs, profile: Profile) -> OnDevice:
    return OnDevice(
        profile=profile,
        scorer=Scorer(costs, LatencyTable.from_profile(profile)),
        known_dense_ms=dense_latency_ms(profile),
        measured=_measured(job, choice),
        is_here=True,
    )


def _measured(job: Job, choice: DeviceChoice) -> str:
    """The kind of the results of measuring on one of a job's devices."""
    return MEASURED if choice == job.device else measured_on(choice.name)


def _check_energy(job: Job, choice: DeviceChoice) -> None:
    """Refuse a limit on energy before minutes of measuring that would tell none.

    Raises:
        RequestError: the job has one, and this machine tells no energy, or is not what runs.
    """
    limited = any(asked.kind == "energy_mj" for asked in job.measured_on(choice))
    if limited and (open_device(choice)[1].modelled or not tells_energy()):
        raise no_energy(f"{choice.name!r} tells no energy here")


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
