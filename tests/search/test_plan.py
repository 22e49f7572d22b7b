"""What is decided before the first trial: targets, a plan that is kept, and a profile that fits."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwprofiles import Profile, read_profile, write_profile
from hwprofiles.errors import InvariantError, ProfileError, RequestError
from search import plan as plans
from search import profiling
from search.job import Budget, Job, Sparsity
from search.on_device import open_devices
from search.place import Place
from search.plan import Plan, Prepared, prepare, recipe_of
from search.profiling import make_space, open_device
from search.progress import Listener, Silent
from search.score import features
from tests.search.test_progress import Heard
from trials.costs import Costs

SILENT = Silent()


def test_a_plan_comes_back_from_the_store_as_it_was(prepared: Prepared) -> None:
    assert Plan.from_json(prepared.plan.to_json()) == prepared.plan
    with pytest.raises(
        RequestError, match="format version 0; allowed: 1 or 2 or 3; run the job under another name"
    ):
        Plan.from_json({**prepared.plan.to_json(), "version": 0})


def test_a_plan_of_before_training_was_timed_trains_as_it_evaluates(prepared: Prepared) -> None:
    stored = {**prepared.plan.to_json(), "version": 1, "execution": "channels_last"}
    del stored["dense_calibration_error"], stored["training"]
    plan = Plan.from_json(stored)
    assert plan.dense_calibration_error is None
    recipe = recipe_of(prepared.job, plan.frozen, plan.execution, plan.training)
    assert recipe.training == recipe.execution == "channels_last"


def test_the_zeros_that_a_job_asks_for_reach_its_trials(small_job: Path) -> None:
    sparsity = Sparsity(zeros="2:4", schedule="gradual")
    job = Job.load(small_job).model_copy(update={"sparsity": sparsity})
    recipe = recipe_of(job, {}, "float32", "float32")
    assert (recipe.zeros, recipe.zeros_scope, recipe.schedule) == ("2:4", "global", "gradual")


def test_targets_are_shares_of_the_measured_dense_latency(prepared: Prepared) -> None:
    assert prepared.plan.targets == pytest.approx((prepared.plan.dense_ms / 2, prepared.plan.dense_ms * 0.75))
    assert prepared.plan.in_flight == 2 * prepared.job.search.workers
    assert prepared.plan.dense_test is not None


def test_controllers_are_told_five_finite_features_of_each_group(prepared: Prepared) -> None:
    told = features(prepared.scorer)
    assert told.shape == (len(prepared.coupling.groups), 5)
    assert np.isfinite(told).all()
    assert (np.abs(told) <= 1).all()


@pytest.fixture
def place(planned_runs: Path, tmp_path: Path) -> Place:
    """A copy of the planned run that a test may damage."""
    return Place(Path(shutil.copytree(planned_runs, tmp_path / "runs")), "small")


def test_files_that_are_not_those_of_the_plan_are_refused(prepared: Prepared, place: Place) -> None:
    changed = {**prepared.plan.to_json(), "bundle_sha256": "0" * 64}
    with pytest.raises(InvariantError, match="are not those that the job was planned with"):
        prepare(prepared.job, place, changed, Silent())


def test_data_that_have_changed_since_the_plan_are_warned_about(prepared: Prepared, place: Place) -> None:
    planned, before = prepared.plan.to_json(), {"version": 2, "data_sha256": ""}
    for plan, warned in ((planned, 0), ({**planned, **before}, 0), ({**planned, "data_sha256": "0" * 64}, 1)):
        heard = Heard()
        found = prepare(prepared.job, place, plan, heard)
        assert sum("warning: the data are not those that" in note for note in heard.notes) == warned
        assert sum("the data are not those that" in each for each in found.splits.warnings) == warned


@pytest.mark.parametrize(
    ("key", "tail", "doubted"), [("latency_p99", 0.5, 1), ("latency", 0.5, 0), ("latency_p99", 1e9, 0)]
)
def test_a_tail_that_is_limited_is_doubted_where_it_is_long(
    key: str, tail: float, doubted: int, prepared: Prepared, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "LONG_TAIL", tail)
    job = prepared.job.model_copy(update={"budget": Budget.checked({key: "80%"}, "here")})
    heard = Heard()
    prepare(job, place, prepared.plan.to_json(), heard)
    assert sum("warning: one run in a hundred on this-cpu took" in note for note in heard.notes) == doubted


def test_a_planned_job_whose_profile_is_of_another_device_is_refused(
    prepared: Prepared, place: Place
) -> None:
    job = prepared.job.model_copy(update={"devices": (prepared.job.device.model_copy(update={"batch": 2}),)})
    with pytest.raises(ProfileError, match=r"measured with batch 1, not 2; .* under another name"):
        prepare(job, place, prepared.plan.to_json(), Silent())


def test_a_job_may_say_how_torch_computes(prepared: Prepared, place: Place) -> None:
    search = prepared.job.search
    assert search.execution == "auto"
    for execution in ("float32", "channels_last"):
        job = prepared.job.model_copy(update={"search": search.model_copy(update={"execution": execution})})
        again = prepare(job, place, {}, Silent())
        assert again.plan.execution == again.recipe.execution == execution


class Noting(Silent):
    """Keeps what it is told to show."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class MeasuredError(Exception):
    """A profile was about to be measured."""


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: object) -> Profile:
        raise MeasuredError

    monkeypatch.setattr(profiling, "measure_profile", measure)


def opened(prepared: Prepared, place: Place, job: Job, listener: Listener = SILENT) -> Profile:
    """The profile of a job that was not planned yet."""
    bundle, coupling = prepared.bundle, prepared.coupling
    space = make_space(job, coupling, [open_device(job.device)[1]])
    [on] = open_devices(place, job, bundle, Costs(coupling), space, listener, planned=False)
    return on.profile


def test_a_profile_that_fits_is_not_measured_again(prepared: Prepared, place: Place, measuring: None) -> None:
    assert opened(prepared, place, prepared.job) == prepared.profile


@pytest.mark.parametrize("change", ["another device", "wider space", "damaged"])
def test_before_there_is_a_plan_a_profile_that_does_not_fit_is_measured_again(
    change: str, prepared: Prepared, place: Place, measuring: None
) -> None:
    job = prepared.job
    if change == "another device":
        job = job.model_copy(update={"devices": (job.device.model_copy(update={"batch": 2}),)})
    if change == "wider space":
        # Below a sixteenth of 32 channels other kernels run than those that were measured.
        search = job.search.model_copy(update={"lowest_keep": 0.01, "round_to": 1})
        job = job.model_copy(update={"search": search})
    if change == "damaged":
        place.profile.write_bytes(place.profile.read_bytes()[:100])
    with pytest.raises(MeasuredError):
        opened(prepared, place, job)


def test_a_profile_of_the_device_is_the_jobs_if_it_holds_all_that_the_job_needs(
    prepared: Prepared, place: Place, measuring: None
) -> None:
    profile = prepared.profile
    place.profile.unlink()
    of_another_name = replace(profile, device=replace(profile.device, name="bench"))
    write_profile(of_another_name, place.devices / "bench.parquet")
    listener = Noting()
    found = opened(prepared, place, prepared.job, listener)
    assert found == profile == read_profile(place.profile)
    assert listener.notes == [
        f"not measured: {place.devices} has a profile of this device that knows this model"
    ]


@pytest.mark.parametrize("change", ["another device", "without a kernel", "of another model", "damaged"])
def test_a_profile_of_the_device_that_does_not_fit_is_passed_over(
    change: str, prepared: Prepared, place: Place, measuring: None
) -> None:
    profile, path = prepared.profile, place.devices / "bench.parquet"
    place.profile.unlink()
    if change == "another device":
        profile = replace(profile, device=replace(profile.device, threads=2))
    if change == "without a kernel":
        profile = replace(profile, kernels=dict(list(profile.kernels.items())[:-1]))
    if change == "of another model":
        profile = replace(profile, networks=profile.networks[1:])
    write_profile(profile, path)
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MeasuredError):
        opened(prepared, place, prepared.job)
    assert not place.profile.exists()
