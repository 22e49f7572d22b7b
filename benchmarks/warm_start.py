"""What a second device's profile saves, and loses, when a first one's says which kernels it needs.

    python -m benchmarks.warm_start [--network unet resnet56] [--runtime onnxruntime] [--precision int8]
                                    [--batch 4] [--threads 1] [--passes 3] [--rounds 10]

For each network of `benchmarks.zoo`: the kernels of its whole plan are measured at batch 1 on one thread, the
first device, and then at another batch or on more threads, the second device, together with 20 networks to
calibrate on and 30 that nothing is fitted to, half of each on the device's steps. Compared are tables of the
second device, all of measurements that were really made there:

    whole     four counts along each axis of kernels
    like      without those that the first device shows to follow from the others, at several tolerances
    ends      two counts along each axis

Writes `results/warm_start.json`, and prints the table of docs/latency.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.latency import CALIBRATION, LOWEST_KEEP, drawn
from benchmarks.zoo import ZOO
from hwprofiles import OpSpec, Profile, open_runtime
from hwprofiles.runtimes import CALL
from latency_models import NetworkModel, build_profile, plan, shortened, validate
from latency_models.warm_start import TOLERANCE
from search.profiling import narrowest
from trials.candidate import Candidate
from trials.costs import Costs
from trials.export import export_model
from trials.groups import analyse, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune

HELD_OUT = 30
WHOLE = 4
"""Counts along each axis of kernels in a whole plan."""
TOLERANCES = (0.02, TOLERANCE, 0.1, 0.2)
RESULTS = Path(__file__).parent / "results" / "warm_start.json"


def measured(name: str, options: argparse.Namespace) -> tuple[Profile, Profile, dict[str, list[OpSpec]]]:
    """The first device's kernels, all of the second's, and the plans to compare."""
    runtime = open_runtime(options.runtime, options.precision)
    first = runtime.describe(name="first", batch=1, threads=1)
    second = runtime.describe(name="second", batch=options.batch, threads=options.threads)
    entry = ZOO[name]
    bundle = export_model(entry.build(), [entry.input])
    coupling = analyse(bundle.graph)
    costs = Costs(coupling)
    rng = np.random.default_rng(0)
    steps = (second.channel_step, 1) * 2
    halves = (CALIBRATION // 2, CALIBRATION // 2, HELD_OUT // 2, HELD_OUT // 2)
    counts = np.concatenate([drawn(costs, step, half, rng) for step, half in zip(steps, halves, strict=True)])
    outline = costs.op_graph, costs.candidate_graph(narrowest(coupling.space(lowest_keep=LOWEST_KEEP)))
    plans = {"whole": plan(*outline, runtime, WHOLE), "ends": plan(*outline, runtime, 2)}
    how = {"passes": options.passes, "rounds": options.rounds}
    shape = build_profile(first, runtime, plans["whole"], [], **how)
    with TemporaryDirectory() as folder:
        models = []
        for number, row in enumerate(counts.tolist()):
            candidate = Candidate(tuple(row))
            path = Path(folder) / f"{number}.onnx"
            write_onnx(*prune(coupling, bundle.tensors, even_kept(coupling, candidate)), path)
            graph = costs.candidate_graph(candidate)
            models.append(NetworkModel(name=str(number), graph=graph, onnx_path=path))
        profile = build_profile(
            second, runtime, plans["whole"], models[:CALIBRATION], held_out=models[CALIBRATION:], **how
        )
    plans |= {f"like, {share:.0%}": shortened(plans["whole"], shape, share) for share in TOLERANCES}
    return shape, profile, plans


def evaluate(name: str, options: argparse.Namespace) -> dict[str, Any]:
    shape, profile, plans = measured(name, options)
    found = {}
    for title, kernels in plans.items():
        timed = {kernel: profile.kernels[kernel] for kernel in dict.fromkeys([CALL, *kernels])}
        validation = validate(replace(profile, kernels=timed))
        assert validation is not None
        seconds = sum(rounds.times_ms.sum() for rounds in timed.values()) / 1e3
        found[title] = {"kernels": len(timed), "kernel_s": seconds, **asdict(validation)}
    networks = (*profile.networks, *profile.held_out)
    return {
        "network": name,
        "runtime": options.runtime,
        "precision": options.precision,
        "batch": options.batch,
        "threads": options.threads,
        "board": profile.device.board,
        "networks_s": sum(network.rounds.times_ms.sum() for network in networks) / 1e3,
        "first_kernel_s": sum(rounds.times_ms.sum() for rounds in shape.kernels.values()) / 1e3,
        "plans": found,
    }


def show(result: dict[str, Any]) -> None:
    floor = result["plans"]["whole"]["floor"]
    print(
        f"\n{result['network']}, {result['runtime']} {result['precision']}, batch {result['batch']}, "
        f"{result['threads']} threads; floor {floor:.1%}"
    )
    for title, plan_found in result["plans"].items():
        print(
            f"  {title:10} {plan_found['kernels']:5} kernels  {plan_found['kernel_s']:6.1f} s  MAPE "
            f"{plan_found['mean_error']:5.2%}  within 5 % {plan_found['within_5']:4.0%}  Spearman "
            f"{plan_found['spearman']:.3f}  bars hold {plan_found['covered']:.0%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=ZOO, nargs="+", default=["resnet56", "unet"])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    keys = ("network", "runtime", "precision", "batch", "threads")
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    results = {tuple(result[key] for key in keys): result for result in known}
    for name in options.network:
        result = evaluate(name, options)
        show(result)
        results[tuple(result[key] for key in keys)] = result
        RESULTS.write_text(json.dumps(list(results.values()), indent=1))


if __name__ == "__main__":
    main()
