"""How well latency is predicted for networks that nothing was fitted on, beside what others do.

    python -m benchmarks.latency [--network resnet56 …] [--precision int8] [--passes 3] [--seconds 120]
                                 [--candidates 30]

For each network of `benchmarks.zoo`, on this machine's CPU under ONNX Runtime, one thread, batch 1: the
planned kernels, calibration networks and held-out candidates are measured in the same interleaved rounds.
Half of the candidates keep whole steps of the device, half any count. Compared, on the same measurements:

    table             ours, as `profile` makes it: kernels of the lowered graph, one scale, error bars from
                      calibration networks
    table, N counts   the same from another number of counts along each axis of kernels
    layers alone      each layer timed as a network of its own, summed, as AMC, HALP and NetAdapt do
    MACs              an affine function of MACs, fitted to the calibration networks
    kernel forest     random forests on measured kernels, summed, as nn-Meter does (Zhang et al. 2021)

The floor is how far two halves of the same rounds are apart. Writes `results/latency.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from benchmarks.zoo import ZOO
from hwprofiles import (
    INPUT,
    Device,
    MeasuredNetwork,
    OpGraph,
    OpSpec,
    Profile,
    Rounds,
    lower,
    measure,
    open_runtime,
)
from hwprofiles.runtimes import CALL, Run, Runtime
from hwprofiles.runtimes.onnx_drawing import layer_model
from latency_models import LatencyTable, plan
from latency_models.interpolate import Grid
from latency_models.plan_measurements import grid
from latency_models.validate import repeatability, spearman
from search.profiling import narrowest
from trials.candidate import Candidate, Counts
from trials.costs import Costs
from trials.export import export_model
from trials.groups import analyse, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune

Array = NDArray[np.float64]

CALIBRATION = 20
"""As many networks as stable error bars need: those of ten held between 50 and 100 % of networks."""
LEAST_ROUNDS, MOST_ROUNDS = 12, 40
LOWEST_KEEP = 0.25
POINTS = (2, 4)
"""Counts along each axis of kernels that are compared; layers alone have the most of them."""
RESULTS = Path(__file__).parent / "results" / "latency.json"


@dataclass(frozen=True)
class Measured:
    """What one network's rounds gave: calibration networks first, then those held out."""

    costs: Costs
    least: OpGraph
    counts: Counts
    networks: tuple[MeasuredNetwork, ...]
    kernels: dict[OpSpec, Rounds]
    layers: dict[OpSpec, Rounds]

    @property
    def measured_ms(self) -> Array:
        return np.array([network.rounds.summary().latency_ms for network in self.networks])


def drawn(costs: Costs, step: int, count: int, rng: np.random.Generator) -> Counts:
    """(count, groups) candidates: a level each, and every group somewhere about it."""
    space = costs.coupling.space(step=step, lowest_keep=LOWEST_KEEP)
    level = rng.uniform(LOWEST_KEEP, 1.0, (count, 1))
    about = level + rng.uniform(-0.3, 0.3, (count, len(space.axes)))
    return space.round(np.clip(about, LOWEST_KEEP, 1.0) * space.sizes)


def layers_of(dense: OpGraph, narrowest: OpGraph) -> list[OpSpec]:
    """The layers to time alone, on grids as fine as those of the kernels."""
    reachable: dict[OpSpec, set[tuple[int, int]]] = defaultdict(set)
    for most, least in zip(dense.operators, narrowest.operators, strict=True):
        ins, outs = (
            range(getattr(least, axis), getattr(most, axis) + 1) for axis in ("in_channels", "out_channels")
        )
        if most.square:
            reachable[most.family] |= {(count, count) for count in outs}
        else:
            reachable[most.family] |= {(count, most.out_channels) for count in ins}
            reachable[most.family] |= {(most.in_channels, count) for count in outs}
    families = sorted(reachable.items())
    return [layer for family, channels in families for layer in grid(family, channels, max(POINTS))]


def measure_network(name: str, options: argparse.Namespace, runtime: Runtime, device: Device) -> Measured:
    entry = ZOO[name]
    bundle = export_model(entry.build(), [entry.input])
    coupling = analyse(bundle.graph)
    costs = Costs(coupling)
    rng = np.random.default_rng(0)
    half = options.candidates // 2
    parts = [
        (device.channel_step, CALIBRATION // 2),
        (1, CALIBRATION // 2),
        (device.channel_step, half),
        (1, half),
    ]
    counts = np.concatenate([drawn(costs, step, count, rng) for step, count in parts])
    least = costs.candidate_graph(narrowest(coupling.space(lowest_keep=LOWEST_KEEP)))
    kernels = [CALL, *plan(costs.op_graph, least, runtime, max(POINTS))]
    layers = layers_of(costs.op_graph, least)
    graphs = [costs.candidate_graph(Candidate(tuple(row))) for row in counts.tolist()]
    with TemporaryDirectory() as folder:
        runs: dict[Any, Run] = {("kernel", k): runtime.prepare_kernel(k, device) for k in kernels}
        path = Path(folder) / "network.onnx"
        for layer in layers:
            onnx.save(layer_model(layer, device.batch), path)
            alone = OpGraph(operators=(layer,), sources=((INPUT,),), outputs=(0,))
            runs["layer", layer] = runtime.prepare_network(path, alone, device)
        # Shuffled: which networks come first to memory makes a per cent of difference to them.
        for index in rng.permutation(len(counts)).tolist():
            candidate = Candidate(tuple(counts[index].tolist()))
            write_onnx(*prune(coupling, bundle.tensors, even_kept(coupling, candidate)), path)
            runs["network", index] = runtime.prepare_network(path, graphs[index], device)
        start = time.perf_counter()
        measure(runs, passes=1, rounds=1, seed=0)
        affordable = options.seconds / (time.perf_counter() - start) / options.passes
        rounds = round(min(max(affordable, LEAST_ROUNDS), MOST_ROUNDS))
        times = measure(runs, passes=options.passes, rounds=rounds, seed=0)
    return Measured(
        costs=costs,
        least=least,
        counts=counts,
        networks=tuple(
            MeasuredNetwork(name=str(i), graph=graph, rounds=times["network", i])
            for i, graph in enumerate(graphs)
        ),
        kernels={kernel: times["kernel", kernel] for kernel in kernels},
        layers={layer: times["layer", layer] for layer in layers},
    )


def by_family(rounds: dict[OpSpec, Rounds]) -> dict[OpSpec, Grid]:
    measured_ms: dict[OpSpec, dict[tuple[int, int], tuple[float]]] = defaultdict(dict)
    for spec, times in rounds.items():
        measured_ms[spec.family][spec.in_channels, spec.out_channels] = (times.summary().latency_ms,)
    return {family: Grid(points) for family, points in measured_ms.items()}


def layers_alone(run: Measured) -> Array:
    """(networks,) the sum of layers timed alone, between measured channel counts interpolated."""
    grids = by_family(run.layers)
    return np.array(
        [
            sum(float(grids[s.family].at(s.in_channels, s.out_channels)[0]) for s in net.graph.operators)
            for net in run.networks
        ]
    )


def described(kernel: OpSpec) -> list[float]:
    """What a forest is told of a kernel: channels, sizes, window, and its work."""
    taps, positions = np.prod(kernel.kernel or (1,)), np.prod(kernel.result_size or (1,))
    groups = kernel.groups or kernel.in_channels
    macs = positions * taps * kernel.in_channels * kernel.out_channels / groups
    stride = kernel.stride[0] if kernel.stride else 1
    return [kernel.in_channels, kernel.out_channels, positions, taps, stride, len(kernel.fused), macs]


def kernel_forest(run: Measured, runtime: Runtime) -> Array:
    """(networks,) the sum of kernels that a random forest for each kind of kernel predicts."""
    by_kind: dict[str, list[OpSpec]] = defaultdict(list)
    for kernel in run.kernels:
        by_kind[kernel.kind].append(kernel)
    forests = {}
    for kind, kernels in by_kind.items():
        times_ms = [run.kernels[kernel].summary().latency_ms for kernel in kernels]
        forest = RandomForestRegressor(50, random_state=0)
        forests[kind] = forest.fit([described(kernel) for kernel in kernels], times_ms)
    lowered = [[k for kernels in lower(net.graph, runtime) for k in kernels] for net in run.networks]
    return np.array([sum(forests[k.kind].predict([described(k)])[0] for k in kernels) for kernels in lowered])


def scaled(summed_ms: Array, measured_ms: Array) -> Array:
    """Multiplied by the median ratio of the calibration networks."""
    return summed_ms * np.median(measured_ms[:CALIBRATION] / summed_ms[:CALIBRATION])


def affine(macs: Array, measured_ms: Array) -> Array:
    slope, constant = np.polyfit(macs[:CALIBRATION], measured_ms[:CALIBRATION], 1)
    return np.asarray(slope * macs + constant)


def scores(predicted: Array, measured: Array) -> dict[str, float]:
    off = np.abs(predicted / measured - 1)
    return {
        "mape": float(off.mean()),
        "within_5": float((off <= 0.05).mean()),
        "within_10": float((off <= 0.10).mean()),
        "spearman": spearman(predicted, measured),
    }


def profile_of(run: Measured, device: Device, runtime: Runtime, points: int) -> Profile:
    """What `profile` would have measured at so many counts along each axis of kernels."""
    kernels = [CALL, *plan(run.costs.op_graph, run.least, runtime, points)]
    return Profile(
        device=device,
        kernels={kernel: run.kernels[kernel] for kernel in kernels},
        networks=run.networks[:CALIBRATION],
        created=datetime.now(UTC),
    )


def evaluate(name: str, options: argparse.Namespace) -> dict[str, Any]:
    runtime = open_runtime("onnxruntime", options.precision)
    device = runtime.describe(name="this-cpu", batch=1, threads=1)
    start = time.perf_counter()
    run = measure_network(name, options, runtime, device)
    took_s = time.perf_counter() - start
    measured_ms = run.measured_ms
    profiles = {points: profile_of(run, device, runtime, points) for points in POINTS}
    tables = {points: LatencyTable.from_profile(profile) for points, profile in profiles.items()}
    channels = run.costs.dense.channels(run.counts)
    predictions = {points: table.predict(run.costs.op_graph, *channels) for points, table in tables.items()}
    ours = runtime.points
    prediction = predictions[ours]
    alone_ms = layers_alone(run)
    methods = {
        "table": prediction.latency_ms,
        **{f"table, {n} counts": found.latency_ms for n, found in predictions.items() if n != ours},
        "layers alone": alone_ms,
        "layers alone, scaled": scaled(alone_ms, measured_ms),
        "MACs": affine(run.costs.macs(run.counts), measured_ms),
        "kernel forest": scaled(kernel_forest(run, runtime), measured_ms),
    }
    held_out = slice(CALIBRATION, None)
    half = CALIBRATION + options.candidates // 2
    holds = np.abs(prediction.latency_ms - measured_ms) <= prediction.error_ms
    timed = [*profiles[ours].kernels.values(), *(network.rounds for network in profiles[ours].networks)]
    result = {
        "network": name,
        "precision": device.precision,
        "board": device.board,
        "seconds": round(took_s),
        "rounds": run.networks[0].rounds.times_ms.shape[1],
        "kernels": len(profiles[ours].kernels),
        "kernels_by_counts": {points: len(profile.kernels) for points, profile in profiles.items()},
        "layers": len(run.layers),
        "profile_s": sum(rounds.times_ms.sum() for rounds in timed) / 1e3,
        "latency_ms": [float(measured_ms.min()), float(measured_ms.max())],
        "floor": repeatability(run.networks[held_out]),
        "cache_mb": tables[ours].calibration.cache_mb,
        "error_bar": tables[ours].calibration.relative_error,
        "bars_that_hold": float(holds[held_out].mean()),
        "methods": {title: scores(ms[held_out], measured_ms[held_out]) for title, ms in methods.items()},
        "on_the_grid": scores(prediction.latency_ms[CALIBRATION:half], measured_ms[CALIBRATION:half]),
        "any_count": scores(prediction.latency_ms[half:], measured_ms[half:]),
        "points": np.column_stack([prediction.latency_ms, measured_ms]).round(5).tolist(),
    }
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    low, high = result["latency_ms"]
    print(
        f"\n{result['network']}, {result['precision']}: {low:.2f} to {high:.2f} ms, {result['kernels']} "
        f"kernels, profile in {result['profile_s']:.0f} s of measuring; floor {result['floor']:.1%}, "
        f"error bar {result['error_bar']:.1%} holds {result['bars_that_hold']:.0%}"
    )
    parts = {
        **result["methods"],
        "table, on the grid": result["on_the_grid"],
        "table, any count": result["any_count"],
    }
    for title, found in parts.items():
        print(
            f"  {title:22} MAPE {found['mape']:6.1%}  within 5 % {found['within_5']:4.0%}, 10 % "
            f"{found['within_10']:4.0%}  Spearman {found['spearman']:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=ZOO, nargs="+", default=[*ZOO])
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="of measuring; sets the number of rounds")
    parser.add_argument("--candidates", type=int, default=30, help="held out, half of each kind")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    results = {(result["network"], result["precision"]): result for result in known}
    for name in options.network:
        results[name, options.precision] = evaluate(name, options)
        RESULTS.write_text(json.dumps(list(results.values()), indent=1))


if __name__ == "__main__":
    main()
