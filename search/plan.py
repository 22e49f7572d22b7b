"""From a job to everything that a search needs: bundle, groups, profile, table, space, targets.

What was worked out once is kept in the run's folder and its plan, so that a resumed job does not do it again
and cannot come to another answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwprofiles import Device, Profile, Runtime, open_runtime, read_profile, write_profile
from hwprofiles.errors import InvariantError, RequestError
from latency_models import LatencyTable, NetworkModel, build_profile, plan
from search.job import Job
from search.progress import Listener
from search.score import CostKind, Scorer
from trials.bundle import Bundle, export_model, read_bundle
from trials.candidate import Candidate, Space, Trial, as_counts
from trials.costs import Costs
from trials.data import Splits, load
from trials.evaluate import probe_execution
from trials.factory import call_factory
from trials.groups import Coupling, analyse, even_kept
from trials.onnx_file import write_onnx
from trials.proof import prove
from trials.prune import prune
from trials.run import Recipe, Workbench, merit

CALIBRATION_NETWORKS = 10
PASSES, ROUNDS = 3, 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run keeps its files: `runs/<job>/`, beside the store that all runs share."""

    runs: Path
    job: str

    @property
    def folder(self) -> Path:
        return self.runs / self.job

    @property
    def store(self) -> Path:
        return self.runs / "prunefront.db"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def profile(self) -> Path:
        return self.folder / "profile.parquet"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def finalist(self, trial: int) -> Path:
        return self.folder / "finalists" / f"trial-{trial}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is decided before the first trial and never changes after; stored with the job.

    `in_flight`: the controller is asked for trial n once exactly the trials up to n - in_flight have been
    told to it, whatever finished when, so a search does not depend on timing. `targets` are in the unit of
    the budget; `dense_ms` is measured.
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

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "targets": tuple(data["targets"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job ready to search."""

    job: Job
    place: Place
    plan: Plan
    bundle: Bundle
    splits: Splits
    coupling: Coupling
    profile: Profile
    scorer: Scorer
    space: Space
    recipe: Recipe

    @property
    def kind(self) -> CostKind:
        return self.job.budget.kind

    def merit(self, trial: Trial) -> float:
        """What the search maximises; of a trial that is done."""
        if trial.facts is None:
            raise InvariantError(f"trial {trial.number} is {trial.state} and has no merit")
        return merit(trial.facts, self.splits.carved)


def open_bundle(job: Job) -> Bundle:
    """The job's model as a bundle: read, or exported from the user's code and checkpoint.

    Raises:
        RequestError: the factory, the checkpoint or the bundle is wrong, or the model cannot be exported.
    """
    if job.model.bundle:
        return read_bundle(job.folder / job.model.bundle)
    model = call_factory(job.model.factory, job.folder, "model.factory", job.model.args)
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"model.factory {job.model.factory!r} returned {type(model).__name__}, not an nn.Module"
        )
    if job.model.checkpoint:
        _load_checkpoint(model, job.folder / job.model.checkpoint)
    return export_model(model.float(), job.model.input_specs)


def _load_checkpoint(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises classes of its own
        reason = str(error).splitlines()[0][:200]
        raise RequestError(
            f"the checkpoint {path} cannot be read: {reason}; save a plain state dict"
        ) from None
    wanted = model.state_dict()
    # A missing counter of batches changes nothing that a model computes.
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in wanted]
    if missing or unknown:
        raise RequestError(
            f"the checkpoint {path} does not fit the model: it lacks {missing[:3] or 'nothing'} and has "
            f"unknown {unknown[:3] or 'nothing'}; check model.factory and model.args"
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise RequestError(
                f"the checkpoint {path} holds {name!r} as {list(tensor.shape)}, the model has "
                f"{list(wanted[name].shape)}; check model.args"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RequestError(
                f"the checkpoint {path} holds NaN or infinite numbers in {name!r}; train it again"
            )
    model.load_state_dict(state, strict=False)


def open_splits(job: Job, bundle: Bundle) -> Splits:
    """The job's data, held against its model."""
    splits = load(job.data_spec(), job.folder, job.search.seed)
    example = bundle.network().eval()(*_zeros(bundle))
    if not isinstance(example, torch.Tensor) or example.ndim != 2:
        raise RequestError(
            "the model does not give one row of logits per example; searches are for classifiers so far"
        )
    splits.check_model([item.shape for item in bundle.graph.inputs], example.shape[1])
    return splits


def _zeros(bundle: Bundle) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.zeros((1, *item.shape), dtype=getattr(torch, item.dtype)) for item in bundle.graph.inputs
    )


def open_coupling(bundle: Bundle, *, seed: int) -> Coupling:
    """The model's groups, each of them proved.

    Raises:
        RequestError: nothing in the model may be pruned; says why.
    """
    coupling = prove(analyse(bundle.graph), bundle.tensors, seed=seed)
    if not coupling.groups:
        reasons = (
            "; ".join(f"{item.name}: {item.reason}" for item in coupling.frozen[:3]) or "it has no layers"
        )
        raise RequestError(f"the model has no group that may be pruned ({reasons})")
    return coupling


def make_space(job: Job, coupling: Coupling, device: Device) -> Space:
    """The candidates of a job: counts in steps that the device likes, or of the job's own `round_to`."""
    # Below a latency budget only whole blocks pay; else a multiple of 4 at least avoids the slowest kernels.
    liked = device.channel_step if job.budget.kind == "latency_ms" else min(4, device.channel_step)
    return coupling.space(step=job.search.round_to or liked, lowest_keep=job.search.lowest_keep)


def open_device(job: Job) -> tuple[Runtime, Device]:
    choice = job.device
    runtime = open_runtime(choice.runtime)
    return runtime, runtime.describe(name=choice.name, batch=choice.batch, threads=choice.threads)


def narrowest(space: Space) -> Candidate:
    return Candidate(tuple(int(axis.allowed[0]) for axis in space.axes))


def measure_profile(
    job: Job,
    bundle: Bundle,
    coupling: Coupling,
    space: Space,
    runtime: Runtime,
    device: Device,
    listener: Listener,
) -> Profile:
    """Measure the operators of a space, and the dense and random candidates as whole networks."""
    costs = Costs(coupling)
    specs = plan(costs.specs, costs.candidate_specs(narrowest(space)), runtime)
    rng = np.random.default_rng(job.search.seed)
    drawn = space.round(
        rng.uniform(0.0, 1.0, (CALIBRATION_NETWORKS, 1)) ** 0.5
        * rng.uniform(0.5, 1.0, (CALIBRATION_NETWORKS, len(space.axes)))
        * space.sizes
    )
    candidates = {"dense": space.dense} | {
        f"calibration {i}": Candidate(tuple(row)) for i, row in enumerate(drawn.tolist())
    }
    with TemporaryDirectory() as folder:
        networks = []
        for position, (name, candidate) in enumerate(candidates.items()):
            listener.update(
                0.3 * position / len(candidates), f"converting network {position + 1} of {len(candidates)}"
            )
            graph, tensors = prune(coupling, bundle.tensors, even_kept(coupling, candidate))
            path = Path(folder) / f"{position}.onnx"
            write_onnx(graph, tensors, path)
            networks.append(
                NetworkModel(name=name, operators=costs.candidate_specs(candidate), onnx_path=path)
            )
        return build_profile(
            device,
            runtime,
            specs,
            networks,
            passes=PASSES,
            rounds=ROUNDS,
            progress=lambda share: listener.update(
                0.3 + 0.7 * share, f"{len(specs)} operators, {len(networks)} networks"
            ),
        )


def open_profile(
    job: Job, place: Place, bundle: Bundle, coupling: Coupling, space: Space, listener: Listener
) -> tuple[Profile, Runtime]:
    """The job's profile: the one measured before, or a new one.

    Raises:
        RequestError: the one there is of another device, runtime or version.
    """
    runtime, device = open_device(job)
    if place.profile.exists():
        profile = read_profile(place.profile)
        LatencyTable.from_profile(profile, runtime).check(device)
    else:
        profile = measure_profile(job, bundle, coupling, space, runtime, device, listener)
        write_profile(profile, place.profile)
    return profile, runtime


def dense_latency_ms(profile: Profile) -> float:
    return next(net.rounds.summary().latency_ms for net in profile.networks if net.name == "dense")


def prepare(job: Job, place: Place, stored: Mapping[str, Any], listener: Listener) -> Prepared:
    """Do, or take up again, everything before the first trial.

    Args:
        stored: the plan of an earlier start, {} if there is none.

    Raises:
        RequestError: the model, the data, the device or the budget is wrong; nothing has been started.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    before = Plan.from_json(stored) if stored else None
    listener.stage("exporting")
    if place.bundle.exists():
        bundle = read_bundle(place.bundle)
    else:
        bundle = open_bundle(job)
    splits = open_splits(job, bundle)
    for warning in splits.warnings:
        listener.note(f"warning: {warning}")
    listener.update(0.5, "finding what may be pruned")
    if before is None:
        coupling = open_coupling(bundle, seed=job.search.seed)
    else:
        coupling = analyse(bundle.graph).without(before.frozen)
    if not place.bundle.exists():
        bundle.write(place.bundle)
    runtime, device = open_device(job)
    space = make_space(job, coupling, device)
    listener.stage("profiling")
    profile, runtime = open_profile(job, place, bundle, coupling, space, listener)
    table = LatencyTable.from_profile(profile, runtime)
    scorer = Scorer(Costs(coupling), table)
    error = table.calibration.relative_error
    listener.update(1.0, f"dense {dense_latency_ms(profile):.3g} ms, predictions within ±{error:.1%}")
    if before is None:
        before = _decide(job, place, bundle, splits, coupling, space, profile, scorer)
    elif (before.bundle_sha256, before.profile_sha256) != (bundle.sha256, _sha256(place.profile)):
        raise InvariantError(
            f"the files in {place.folder} are not those that the job was planned with; restore them, or run "
            "the job under another name"
        )
    recipe = recipe_of(job, before.frozen, before.execution)
    return Prepared(
        job=job, place=place, plan=before, bundle=bundle, splits=splits, coupling=coupling, profile=profile,
        scorer=scorer, space=space, recipe=recipe,
    )  # fmt: skip


def recipe_of(job: Job, frozen: Mapping[str, str], execution: str) -> Recipe:
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
        execution=execution,
        seed=search.seed,
        frozen=frozen,
    )


def _decide(
    job: Job,
    place: Place,
    bundle: Bundle,
    splits: Splits,
    coupling: Coupling,
    space: Space,
    profile: Profile,
    scorer: Scorer,
) -> Plan:
    dense = as_counts([space.dense])
    dense_cost = {
        "latency_ms": dense_latency_ms(profile),
        "macs": float(scorer.costs.macs(dense)[0]),
        "parameters": float(scorer.costs.parameters(dense)[0]),
    }[job.budget.kind]
    targets = tuple(
        level.value * dense_cost if level.relative else level.value for level in job.budget.levels
    )
    least = float(scorer.cost(job.budget.kind)(as_counts([narrowest(space)]))[0])
    for target in targets:
        if target < least:
            raise RequestError(
                f"the budget {job.budget.kind} = {target:.6g} cannot be met: the smallest reachable is "
                f"{least:.6g} ({least / dense_cost:.0%} of dense); raise it, or lower search.lowest_keep"
            )
    execution = probe_execution(bundle.network(), splits.train)
    found = {group.name for group in analyse(bundle.graph).groups}
    refused = {item.name: item.reason for item in coupling.frozen if item.name in found}
    evaluation, test = Workbench(bundle, splits, recipe_of(job, refused, execution.value)).dense()
    return Plan(
        bundle_sha256=bundle.sha256,
        profile_sha256=_sha256(place.profile),
        frozen=refused,
        execution=execution.value,
        in_flight=2 * job.search.workers,
        targets=targets,
        dense_ms=dense_latency_ms(profile),
        dense_accuracy=evaluation.accuracy,
        dense_accuracy_error=evaluation.accuracy_error,
        dense_test=test,
    )


def features(scorer: Scorer) -> NDArray[np.float64]:
    """(groups, 5) what a controller is told of each group: place, size, width, shares of MACs and latency."""
    groups = scorer.costs.coupling.groups
    breakdown = scorer.table.breakdown(scorer.costs.specs)
    latency_share = scorer.costs.touched @ breakdown / breakdown.sum()
    sizes = np.log([group.size * group.width for group in groups])
    return np.column_stack(
        [
            np.linspace(-1, 1, len(groups)),
            sizes / sizes.max(initial=1.0),
            [float(group.kind == "heads") for group in groups],
            scorer.costs.macs_shares(),
            latency_share,
        ]
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
