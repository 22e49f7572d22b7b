"""From a job to everything that a search needs: bundle, groups, profile, table, space, targets.

What was worked out once is kept in the run's folder and its plan, so that a resumed job does not do it again
and cannot come to another answer.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from hwprofiles import Profile, read_profile
from hwprofiles.disk import file_sha256
from hwprofiles.errors import InvariantError, RequestError, TrialError
from search.budget import Cost, Limit, combined
from search.devices import find_profile, name_in_file
from search.job import DeviceChoice, Job
from search.limits import budget_limits, check, check_counted, check_on
from search.model import open_coupling, open_model, open_regularised, open_splits
from search.on_device import OnDevice, describe, elsewhere, in_words, open_devices
from search.place import Place
from search.profiling import make_space, profile_file
from search.progress import Listener
from search.score import Scorer
from trials.bundle import Bundle, read_bundle
from trials.candidate import Space, Trial
from trials.costs import Costs
from trials.data import Splits
from trials.groups import Coupling, analyse
from trials.probe import probe_execution, probe_training
from trials.requests import Recipe, merit
from trials.run import Workbench

PLAN_VERSION = 3
"""Of the JSON that the store holds."""
READABLE_PLANS = (1, 2, PLAN_VERSION)
"""Plans of earlier versions lack what has a default now."""

OTHER_DATA = (
    "the data are not those that the job was planned with, so what was found before they changed cannot be "
    "compared with what is found now; restore them, or run the job under another name with --name"
)


CHANCE_FACTOR = 1.5
"""A dense model less accurate than this times guessing is warned about."""

LONG_TAIL = 3.0
"""A 99th percentile above this times the latency is warned about, where it is limited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is decided before the first trial and never changes after; stored with the job.

    `in_flight`: the controller is asked for trial n once exactly the trials up to n - in_flight have been
    told to it, whatever finished when, so a search does not depend on timing. `execution` is how torch
    computes accuracies and `training` how it trains, "" if alike; unless the job says so, what was fastest
    here. The same seed gives the same candidates where all of these are the same. `targets` are in the unit
    of the budget. `data_sha256` is "" where it was not kept. `profile_sha256` and `dense_ms`, measured if its
    profile holds it, are of the first device, `others_sha256` of the profiles of the others, in the job's
    order.
    """

    bundle_sha256: str
    profile_sha256: str
    frozen: Mapping[str, str]
    execution: str
    in_flight: int
    targets: tuple[float, ...]
    dense_ms: float
    dense_accuracy: float
    dense_accuracy_error: float
    dense_test: Mapping[str, float] | None
    dense_calibration_error: float | None = None
    training: str = ""
    others_sha256: tuple[str, ...] = ()
    data_sha256: str = ""

    @property
    def profiles(self) -> tuple[str, ...]:
        """The sha256 of the profile of each device."""
        return self.profile_sha256, *self.others_sha256

    def to_json(self) -> dict[str, Any]:
        lists = {"targets": list(self.targets), "others_sha256": list(self.others_sha256)}
        return {"version": PLAN_VERSION, **asdict(self), **lists}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild a plan from `to_json`.

        Raises:
            RequestError: another version of prunefront made it.
        """
        if stored.get("version") not in READABLE_PLANS:
            allowed = " or ".join(map(str, READABLE_PLANS))
            raise RequestError(
                f"the stored plan has format version {stored.get('version')!r}; allowed: {allowed}; run the "
                "job under another name"
            )
        content = {key: value for key, value in stored.items() if key != "version"}
        lists = {key: tuple(content.get(key, ())) for key in ("targets", "others_sha256")}
        return cls(**{**content, **lists})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job ready to search."""

    job: Job
    place: Place
    plan: Plan
    bundle: Bundle
    splits: Splits
    coupling: Coupling
    devices: tuple[OnDevice, ...]
    limits: tuple[Limit, ...]
    space: Space
    recipe: Recipe

    @property
    def cost(self) -> Cost:
        """What all limits make of a candidate, in the unit of the first one, as targets are."""
        return combined(self.limits)

    @property
    def profile(self) -> Profile:
        """Of the first device."""
        return self.devices[0].profile

    @property
    def scorer(self) -> Scorer:
        """Of the first device."""
        return self.devices[0].scorer

    def on(self, name: str) -> OnDevice:
        """A device of the job, its first without a name, or else one that has a profile.

        Args:
            name: of a device of the job, of a profile, or a file that is one.

        Raises:
            RequestError: there is no such profile, or it cannot predict the job's model.
        """
        for device in self.devices:
            if name in ("", device.device.name):
                return device
        path = find_profile(self.place.devices, name)
        profile = read_profile(path)
        own = [device.device.name for device in self.devices]
        called = name_in_file(profile, path, own) if name.endswith(".parquet") else name
        profile = replace(profile, device=replace(profile.device, name=called))
        return elsewhere(profile, self.scorer.costs, self.space, self.place)

    def merit(self, trial: Trial) -> float:
        """What the search maximises; of a trial that is done."""
        if trial.facts is None:
            raise InvariantError(f"trial {trial.number} is {trial.state} and has no merit")
        return merit(trial.facts, self.splits.carved)


def prepare(
    job: Job, place: Place, stored: Mapping[str, Any], listener: Listener, *, shared: bool = False
) -> Prepared:
    """Do, or take up again, everything before the first trial.

    Args:
        stored: the plan of an earlier start, {} if there is none.
        shared: whether the budget is one of several jobs together, of which this one's part is not known yet:
            a new plan has no targets.

    Raises:
        RequestError: the model, the data, the device or the budget is wrong.
        InvariantError: the files of a planned job are not those that it was planned with.
    """
    before = Plan.from_json(stored) if stored else None
    listener.stage("exporting")
    if before:
        bundle = read_bundle(place.bundle)
        coupling = analyse(bundle.graph, blocks=job.search.blocks).without(before.frozen)
        splits = open_splits(job, bundle)
        if before.data_sha256 not in ("", splits.sha256):
            splits = replace(splits, warnings=(*splits.warnings, OTHER_DATA))
    else:
        bundle = open_model(job)
        splits = open_splits(job, bundle)
        listener.update(0.5, "finding what may be pruned")
        coupling = open_coupling(
            bundle, seed=job.search.seed, whole=job.search.whole, blocks=job.search.blocks
        )
        bundle = open_regularised(job, bundle, coupling, splits, listener)
    for warning in splits.warnings:
        listener.note(f"warning: {warning}")
    costs = Costs(coupling)
    planned = before is not None
    described = describe(place, job, planned=planned)
    space = make_space(job, coupling, described)
    if before is None and not shared:
        # Refused before minutes of measuring, if it is to be refused.
        check_counted(job.budget, costs, max(device.batch for device in described), space)
    listener.stage("profiling")

    def check_device(choice: DeviceChoice, on: OnDevice) -> None:
        if before is None and not shared:
            check_on(job, choice, on, space)

    devices = open_devices(place, job, bundle, costs, space, listener, planned=planned, check=check_device)
    profiles = tuple(file_sha256(profile_file(place, job, choice)) for choice in job.devices)
    if before and (before.bundle_sha256, before.profiles) != (bundle.sha256, profiles):
        raise InvariantError(
            f"the files in {place.folder} are not those that the job was planned with; restore them, or run "
            "the job under another name"
        )
    limits = budget_limits(job, devices)
    for on in devices:
        if on.scorer.table.tail > LONG_TAIL and any(limit.kind == "latency_p99_ms" for limit in limits):
            listener.note(
                f"warning: one run in a hundred on {on.device.name} took {on.scorer.table.tail:.1f} times as "
                "long as most while it was measured, and p99 latencies are predicted so; measure it again as "
                "busy as it will be"
            )
    if before is None:
        if not shared:
            check(limits, space)
        targets = () if shared else limits[0].most
        listener.update(1.0, "evaluating the dense model")
        before = _plan(job, bundle, splits, coupling, targets, devices[0].dense_ms, profiles)
        shutil.rmtree(place.bundle, ignore_errors=True)  # of a start that was killed right here
        bundle.write(place.bundle)
    listener.update(1.0, f"{in_words(devices)}, {before.dense_accuracy:.1%} right")
    if before.dense_accuracy < CHANCE_FACTOR / len(splits.classes):
        listener.note(
            f"warning: the dense model gets {before.dense_accuracy:.1%} right, hardly more than guessing; "
            "check its checkpoint, [data] normalize and the labels"
        )
    recipe = recipe_of(job, before.frozen, before.execution, before.training)
    return Prepared(
        job=job, place=place, plan=before, bundle=bundle, splits=splits, coupling=coupling,
        devices=devices, limits=limits, space=space, recipe=recipe,
    )  # fmt: skip


def recipe_of(job: Job, frozen: Mapping[str, str], execution: str, training: str = "") -> Recipe:
    search, tune = job.search, job.finetune
    return Recipe(
        criterion=search.criterion,
        repair=search.repair,
        final_repair=search.final_repair,
        validation_images=search.validation_images,
        brief_steps=tune.brief_steps,
        final_steps=tune.final_steps,
        batch_size=tune.batch_size,
        learning_rate=tune.learning_rate,
        distill=tune.distill,
        augment=tune.augment,
        zeros=job.sparsity.zeros,
        zeros_scope=job.sparsity.scope,
        schedule=job.sparsity.schedule,
        execution=execution,
        training=training or execution,
        seed=search.seed,
        blocks=search.blocks,
        frozen=frozen,
    )


def _plan(
    job: Job,
    bundle: Bundle,
    splits: Splits,
    coupling: Coupling,
    targets: tuple[float, ...],
    dense_ms: float,
    profiles: tuple[str, ...],
) -> Plan:
    execution = training = job.search.execution
    if execution == "auto":
        execution = probe_execution(bundle.network(), splits.train).value
        training = probe_training(bundle.network(), splits.train).value
    found = {group.name for group in analyse(bundle.graph, blocks=job.search.blocks).groups}
    found -= {group.name for group in coupling.groups}  # a layer may be frozen in part, under the same name
    refused = {item.name: item.reason for item in coupling.frozen if item.name in found}
    try:
        evaluation, test = Workbench(bundle, splits, recipe_of(job, refused, execution, training)).dense()
    except TrialError as error:
        raise RequestError(f"the dense model: {error}; check its checkpoint and [data] normalize") from None
    return Plan(
        bundle_sha256=bundle.sha256,
        profile_sha256=profiles[0],
        others_sha256=profiles[1:],
        frozen=refused,
        execution=execution,
        in_flight=2 * job.search.workers,
        targets=targets,
        data_sha256=splits.sha256,
        dense_ms=dense_ms,
        dense_accuracy=evaluation.accuracy,
        dense_accuracy_error=evaluation.accuracy_error,
        dense_test=test,
        dense_calibration_error=evaluation.calibration_error,
        training=training,
    )
