"""How many candidates a second a table scores in one process, and how much memory it comes to.

    python -m benchmarks.scoring_speed [--network mobilenet_v2 …] [--candidates 100000]

From kept counts to milliseconds with error bars, as a search asks for them: the first batch, which works out
the costs of all counts that come along, and the best of five later ones, each of new candidates; on the
device's steps, then of any widths. Kernels are measured hastily, and whole networks, which a table needs for
its scale, not at all: no latency that comes out means anything here. Writes `results/scoring_speed.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency import LOWEST_KEEP, drawn
from benchmarks.zoo import ZOO
from hwprofiles import MeasuredNetwork, Profile, Rounds, measure, open_runtime
from hwprofiles.runtimes import CALL
from latency_models import LatencyTable, plan
from search.profiling import narrowest
from search.score import Scorer
from trials.costs import Costs
from trials.export import export_model
from trials.groups import analyse

RESULTS = Path(__file__).parent / "results" / "scoring_speed.json"


def scorer_of(name: str) -> Scorer:
    runtime = open_runtime("onnxruntime")
    device = runtime.describe(name="this-cpu", batch=1, threads=1)
    costs = Costs(analyse(export_model(ZOO[name].build(), [ZOO[name].input]).graph))
    least = costs.candidate_graph(narrowest(costs.coupling.space(lowest_keep=LOWEST_KEEP)))
    kernels = [CALL, *plan(costs.op_graph, least, runtime)]
    runs = {kernel: runtime.prepare_kernel(kernel, device) for kernel in kernels}
    whole = tuple(
        MeasuredNetwork(name=str(ms), graph=graph, rounds=Rounds(np.full((1, 1, 1), ms)))
        for graph, ms in ((costs.op_graph, 10.0), (least, 1.0))
    )
    profile = Profile(
        device=device,
        kernels=measure(runs, passes=1, rounds=1, seed=0),
        networks=whole,
        created=datetime.now(UTC),
    )
    return Scorer(costs, LatencyTable.from_profile(profile))


def per_second(scorer: Scorer, step: int, candidates: int) -> tuple[float, float]:
    """The first batch, and the best of five later ones."""
    found = []
    for seed in range(6):
        counts = drawn(scorer.costs, step, candidates, np.random.default_rng(seed))
        start = time.perf_counter()
        scorer.latency(counts)
        found.append(candidates / (time.perf_counter() - start))
    return found[0], max(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=ZOO, nargs="+", default=[*ZOO])
    parser.add_argument("--candidates", type=int, default=100_000, help="in a batch")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in options.network:
        scorer = scorer_of(name)
        result: dict[str, Any] = {"network": name, "board": scorer.table.device.board}
        for title, step in (("on steps", scorer.table.device.channel_step), ("any width", 1)):
            first, later = per_second(scorer, step, options.candidates)
            result[title] = {"first": round(first), "later": round(later)}
        result["table_mb"] = scorer.table.nbytes / 1e6
        results.append(result)
        steps, any_width = result["on steps"], result["any width"]
        print(
            f"{name}: {steps['later']:,} candidates/s on steps (first batch {steps['first']:,}), "
            f"{any_width['later']:,} of any width (first batch {any_width['first']:,}); "
            f"{result['table_mb']:.1f} MB",
            flush=True,
        )
    RESULTS.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
