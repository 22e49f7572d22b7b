"""Looking before searching: a job's groups, its profile, and named candidates made real."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwprofiles import Device, Runtime, Summary, lowering_of, measure
from hwprofiles.errors import NotMeasuredError, RequestError, TrialError
from hwprofiles.foreign import parse_json
from latency_models import LatencyTable, validate
from latency_models.stairs import NOTICEABLE
from search.devices import disturbed
from search.job import Job
from search.model import open_coupling, open_model, open_splits
from search.on_device import OnDevice, describe, open_devices
from search.place import Place
from search.plan import recipe_of
from search.profiling import known_profile, make_space, open_device, profile_file, told
from search.progress import Listener, Silent
from search.score import Scorer, features
from trials.bundle import Bundle
from trials.candidate import Candidate, Space, as_counts
from trials.costs import Costs
from trials.groups import Coupling, analyse, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune
from trials.requests import Request
from trials.run import Workbench


def _model(job: Job) -> tuple[Bundle, Coupling]:
    bundle = open_model(job)
    return bundle, open_coupling(
        bundle, seed=job.search.seed, whole=job.search.whole, blocks=job.search.blocks
    )


def inspect_job(job: Job, place: Place) -> dict[str, Any]:
    """A model's groups, blocks that the job lets stay, and what is frozen; with a profile latency shares and
    where pruning does not pay.
    """
    bundle, coupling = _model(job)
    costs = Costs(coupling)
    blocks = () if job.search.blocks else analyse(bundle.graph, blocks=True).blocks
    dense = as_counts([Candidate(tuple(group.size for group in coupling.groups))])
    devices = describe(place, job, planned=place.bundle.exists())
    space, device = make_space(job, coupling, devices), devices[0]
    shares: list[float | None] = [None] * len(coupling.groups)
    dear: list[dict[str, Any] | None] = [None] * len(coupling.groups)
    profile = known_profile(place, costs, space, lowering_of(device), device)
    if profile:
        scorer = Scorer(costs, LatencyTable.from_profile(profile))
        shares = features(scorer)[:, 4].tolist()
        dear = [_dear(scorer, space, group, share) for group, share in enumerate(shares)]
    return {
        "macs": int(costs.macs(dense)[0]),
        "parameters": int(costs.parameters(dense)[0]),
        "profile": device.identity if profile else None,
        "step": device.channel_step,
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "size": group.size,
                "macs_share": float(share),
                "latency_share": latency,
                "dear": more,
                "members": list(group.members),
            }
            for group, share, latency, more in zip(
                coupling.groups, costs.macs_shares(), shares, dear, strict=True
            )
        ],
        "blocks_that_stay": [block.name for block in blocks],
        "frozen": [{"name": f.name, "size": f.size, "reason": f.reason} for f in coupling.frozen],
    }


def _dear(scorer: Scorer, space: Space, group: int, share: float | None) -> dict[str, Any] | None:
    """The counts of a group that the job may keep and that cost more than all of its units, with the dearest;
    `None` without any.
    """
    counts = space.axes[group].allowed
    population = np.tile(space.sizes, (len(counts), 1))
    population[:, group] = counts
    latency_ms, _ = scorer.latency(population)
    # Differences below that are noise of the few operators that the group touches.
    more = latency_ms > latency_ms[-1] * (1 + NOTICEABLE * (share or 0.0))
    if not more.any():
        return None
    worst = int(latency_ms.argmax())
    return {
        "counts": counts[more].tolist(),
        "worst": int(counts[worst]),
        "worst_ms": float(latency_ms[worst]),
        "whole_ms": float(latency_ms[-1]),
    }


def _space(job: Job, place: Place, coupling: Coupling) -> Space:
    return make_space(job, coupling, describe(place, job, planned=place.bundle.exists()))


def _on_devices(
    job: Job, place: Place, space: Space, bundle: Bundle, coupling: Coupling, listener: Listener
) -> tuple[OnDevice, ...]:
    """A job's devices, measured if need be."""
    planned = place.bundle.exists()
    with nullcontext() if planned else place.lock():
        return open_devices(place, job, bundle, Costs(coupling), space, listener, planned=planned)


def profile_job(job: Job, place: Place, listener: Listener) -> list[dict[str, Any]]:
    """Measure the job's profile of each device if it is not there, and say how good it is."""
    listener.stage("exporting")
    bundle, coupling = _model(job)
    listener.stage("profiling")
    opened = _on_devices(job, place, _space(job, place, coupling), bundle, coupling, listener)
    facts = []
    for choice, on in zip(job.devices, opened, strict=True):
        found = validate(on.profile)
        facts.append(
            {
                "profile": str(profile_file(place, job, choice)),
                **told(on.profile, on.scorer.table),
                "validation": asdict(found) if found else None,
                "restless": disturbed(on.profile),
            }
        )
    return facts


def try_candidates(
    job: Job, place: Place, widths: Path, *, rung: int, measured: bool
) -> list[dict[str, Any]]:
    """Facts of named candidates, one dictionary each; one that fails, or that the profile cannot predict,
    says why under "failed".

    Raises:
        RequestError: the file is not a list of `{group: kept}`, or names something unknown.
    """
    if measured and job.device.profile:
        raise RequestError(
            f"device {job.device.name!r} is elsewhere, known by its profile alone: leave out --measure"
        )
    bundle, coupling = _model(job)
    space = _space(job, place, coupling)
    candidates = [space.parse(item) for item in read_widths(widths)]
    splits = open_splits(job, bundle)
    first = job.model_copy(update={"devices": job.devices[:1]})
    [on] = _on_devices(first, place, space, bundle, coupling, Silent())
    refused = {item.name: item.reason for item in coupling.frozen}
    recipe = recipe_of(job, refused, "float32")
    if rung == 1:
        recipe = replace(recipe, brief_steps=0)
    bench = Workbench(bundle, splits, recipe)
    found: list[dict[str, Any]] = []
    for candidate in candidates:
        item: dict[str, Any] = {"widths": space.named(candidate)}
        try:
            [score] = on.scorer.score([candidate])
            outcome = bench(Request(candidate=candidate, seed=job.search.seed))
        except (NotMeasuredError, TrialError) as error:
            found.append({**item, "failed": str(error)})
            continue
        item |= {
            "facts": outcome.facts.to_json(),
            "predicted": {"latency_ms": score.latency_ms, "error_ms": score.error_ms},
        }
        found.append(item)
    if measured:
        runtime, device = open_device(job.device)
        timed = measure_candidates(bundle, coupling, candidates, runtime, device)
        for item, summary in zip(found, timed, strict=True):
            item |= {"measured_ms": summary.latency_ms, "modelled": device.modelled}
    return found


def measure_candidates(
    bundle: Bundle, coupling: Coupling, candidates: Sequence[Candidate], runtime: Runtime, device: Device
) -> list[Summary]:
    """Measure candidates as whole networks, interleaved with one another."""
    with TemporaryDirectory() as folder:
        runs = {}
        for position, candidate in enumerate(candidates):
            path = Path(folder) / f"{position}.onnx"
            write_onnx(*prune(coupling, bundle.tensors, even_kept(coupling, candidate)), path)
            graph = Costs(coupling).candidate_graph(candidate)
            runs[position] = runtime.prepare_network(path, graph, device)
        rounds = measure(runs, passes=3, rounds=20, seed=0)
    return [rounds[position].summary() for position in runs]


def read_widths(path: Path) -> list[dict[str, int]]:
    try:
        data = parse_json(path.read_bytes())
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}; give a JSON file") from None
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}; mend that place") from None
    data = [data] if isinstance(data, dict) else data
    if not isinstance(data, list) or not data:
        raise RequestError(f'{path} holds no candidates; write a list such as [{{"layer1.0.conv1": 8}}]')
    for number, item in enumerate(data, start=1):
        if not isinstance(item, dict):
            raise RequestError(
                f"{path}: candidate {number} is {str(item)[:40]}, not counts by group such as "
                '{"layer1.0.conv1": 8}; mend it'
            )
    return data
