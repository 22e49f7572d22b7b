"""What one device makes of a job's model: its profile, and what that says of candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hwprofiles import Device, Profile, lowering_of, read_profile
from hwprofiles.errors import NotMeasuredError
from latency_models import uncovered
from search.devices import calibrating, open_table
from search.place import Place
from search.profiling import DENSE, dense_latency_ms, kernels_to_measure
from search.score import Scorer
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
    kind of the results, in the store, of measuring on the device.
    """

    profile: Profile
    scorer: Scorer
    known_dense_ms: float | None
    measured: str

    @property
    def device(self) -> Device:
        return self.profile.device

    @property
    def dense_ms(self) -> float:
        """What the dense model takes: as it was measured, else as it is predicted."""
        dense = self.scorer.costs.coupling.space().dense
        return self.known_dense_ms or self.scorer.score([dense])[0].latency_ms


def measured_on(name: str) -> str:
    """The kind of the results of measuring on a device that is not the first of its job."""
    return f"measured on {name}"


def elsewhere(path: Path, name: str, costs: Costs, space: Space, place: Place) -> OnDevice:
    """A device known by its profile alone, which may have been measured for other models, too.

    Raises:
        NotMeasuredError: candidates run operators that the profile does not hold; says how to measure them.
        RequestError: there is no such profile, or it is damaged.
    """
    profile = read_profile(path)
    profile = replace(profile, device=replace(profile.device, name=name))
    needed = kernels_to_measure(costs, space, lowering_of(profile.device))
    if lacking := uncovered(profile, needed):
        named = ", ".join(map(str, lacking[:NAMED]))
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise NotMeasuredError(
            f"profile {name!r} lacks {len(lacking)} of the {len(needed)} operators that candidates of job "
            f"{place.job!r} run there: {named}{more}; measure them on that device with `prunefront profile "
            f"--device {name} --model {place.bundle}`"
        )
    own = calibrating(profile, costs.op_graph)
    scorer = Scorer(costs, open_table(profile, costs.op_graph))
    holds_dense = any(net.name == DENSE and net.graph == costs.op_graph for net in own.networks)
    known_ms = dense_latency_ms(own) if holds_dense else None
    return OnDevice(profile=own, scorer=scorer, known_dense_ms=known_ms, measured=measured_on(name))
