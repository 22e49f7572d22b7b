"""What candidates of a model take on a device: predicted, operator by operator, and measured beside it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hwprofiles import MeasuredNetwork, OpGraph, Profile, read_profile
from hwprofiles.errors import NotMeasuredError, RequestError
from latency_models import LatencyTable
from search.bench import OpenBench
from search.devices import calibrating, find_profile, open_table
from search.growth import open_subject
from search.inspection import read_widths
from search.profiling import DENSE, measured
from search.progress import Silent
from search.score import Scorer
from trials.candidate import Candidate, as_counts
from trials.costs import Costs
from trials.memory import Memory

PASSES, ROUNDS = 3, 20


def predict(
    source: Path, name: str, folder: Path, widths: Path | None, open_bench: OpenBench | None = None
) -> dict[str, Any]:
    """Predict candidates on the device whose profile goes by `name`, and the memory that they take in fp32.

    One that runs a kernel that the profile does not hold says so under "failed". With what is measured the
    dense model is measured again if the profile holds it: under "dense" stands what it took then and now.

    Args:
        source: a job file or a bundle.
        folder: of the profiles of devices.
        widths: a JSON file of candidates; without one the dense model is predicted.
        open_bench: finds the device, to measure the candidates, too; without it they are not measured.

    Raises:
        RequestError: a file or a name is wrong, or the profile is one of another device.
        NotMeasuredError: every candidate runs a kernel that the profile does not hold.
        TransientError: another process measures on this machine, or a server is away.
    """
    path = find_profile(folder, name)
    profile = read_profile(path)
    if open_bench and "source" in profile.device.versions:
        raise RequestError(
            f"profile {name!r} was imported: nothing can be measured with it; leave out --measure"
        )
    subject = open_subject(source, blocks=True)
    costs = Costs(subject.coupling)
    space = subject.space(step=1)
    candidates = [space.parse(item) for item in read_widths(widths)] if widths else [space.dense]
    table = open_table(profile, costs.op_graph)
    if open_bench:
        keys = ("name", "runtime", "precision", "batch", "threads")
        bench = open_bench(**{key: getattr(profile.device, key) for key in keys})
        table.check(bench.device)
    counts, memory = as_counts(candidates), Memory(costs)
    peak_bytes = memory.peak_bytes(counts, batch=profile.device.batch).tolist()
    weight_bytes = memory.weight_bytes(counts).tolist()
    blocks = [axis.name for axis in space.axes if axis.is_block]
    found: list[dict[str, Any]] = []
    for candidate in candidates:
        kept = space.named(candidate)
        found.append({"widths": kept, "dropped": [name for name in blocks if not kept[name]]})
    scorer = Scorer(costs, table)
    for item, candidate, peak, weights in zip(found, candidates, peak_bytes, weight_bytes, strict=True):
        try:
            (score,) = scorer.score([candidate])
        except NotMeasuredError as error:
            item["failed"] = str(error)
            continue
        item.update(
            {
                "predicted": {
                    "latency_ms": score.latency_ms,
                    "error_ms": score.error_ms if table.calibration.networks else None,
                },
                "memory": {"peak_bytes": peak, "weight_bytes": weights},
                "operators": _operators(costs, candidate, table, score.latency_ms),
            }
        )
    if all("failed" in item for item in found):
        raise NotMeasuredError(found[0]["failed"])
    dense: dict[str, float] | None = None
    if open_bench:
        good = [
            (item, candidate)
            for item, candidate in zip(found, candidates, strict=True)
            if "failed" not in item
        ]
        named = {f"candidate {number}": candidate for number, (_, candidate) in enumerate(good, start=1)}
        with TemporaryDirectory() as temporary:
            networks = measured(
                subject.bundle,
                costs,
                [],
                named | {DENSE: space.dense},
                {},
                bench.measure,
                passes=PASSES,
                rounds=ROUNDS,
                journal=Path(temporary) / "journal",
                listener=Silent(),
            ).networks
        for (item, _), network in zip(good, networks[:-1], strict=True):
            summary = network.rounds.summary()
            item["measured"] = {
                "latency_ms": summary.latency_ms,
                "p50_ms": summary.p50_ms,
                "p90_ms": summary.p90_ms,
                "p99_ms": summary.p99_ms,
                "spread": summary.spread,
            }
        dense = _then_and_now(profile, networks[-1])
    return {
        "device": profile.device.name,
        "precision": profile.device.precision,
        "modelled": profile.device.modelled,
        "profile": str(path),
        "coverage": table.calibration.coverage,
        "relative_error": table.calibration.relative_error,
        "calibrated_on": _calibrated_on(table, profile, costs.op_graph),
        "calibrated_on_dropped": any(net.whole for net in calibrating(profile, costs.op_graph).networks),
        "dense": dense,
        "candidates": found,
    }


def _then_and_now(profile: Profile, now: MeasuredNetwork) -> dict[str, float] | None:
    """What a network took when the profile was measured, and what it takes; `None` if it is not in there."""
    for then in (*profile.networks, *profile.held_out):
        if then.graph == now.graph:
            then_ms, now_ms = (net.rounds.summary().latency_ms for net in (then, now))
            return {"then_ms": then_ms, "now_ms": now_ms, "change": now_ms / then_ms - 1}
    return None


def _calibrated_on(table: LatencyTable, profile: Profile, model: OpGraph) -> str | None:
    """What the error bars come from, if there are any."""
    if not table.calibration.networks:
        return None
    if "source" in profile.device.versions:  # their graphs are told as engines run them
        return "the imported engines"
    return "this model" if profile.of_model(model).networks else "other models"


def _operators(
    costs: Costs, candidate: Candidate, table: LatencyTable, latency_ms: float
) -> list[dict[str, Any]]:
    """Every operator in running order, with what it takes and its share.

    What is left is the call, and what whole networks take beyond their kernels; see `LatencyTable.breakdown`.
    """
    variant = costs.variant(candidate)
    graph = variant.candidate_graph(candidate)
    return [
        {"name": operator.name, "operator": str(spec), "latency_ms": ms, "share": ms / latency_ms}
        for operator, spec, ms in zip(
            variant.operators, graph.operators, table.breakdown(graph).tolist(), strict=True
        )
    ]
