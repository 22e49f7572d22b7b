"""What each repair buys: ResNets on CIFAR-10 with half of their inner channels, nothing trained.

    python -m benchmarks.repairs [--network resnet20 resnet56]

Needs the data folder beside the repository. Accuracy and divergence from the dense model are of the second
5 000 test images; repairs look at 1 024 training images and recalibration at 2 560. Prints and writes
`results/repairs.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar import CHECKPOINTS, DATA, load_checkpoint, load_splits
from trials import repair
from trials.candidate import Candidate
from trials.criteria import select
from trials.evaluate import Execution, Judge
from trials.export import export_model
from trials.graph import Input
from trials.groups import analyse
from trials.network import Network, build
from trials.prune import prune
from trials.requests import Recipe
from trials.run import Workbench

RESULTS = Path(__file__).parent / "results" / "repairs.json"


def repaired(bench: Workbench) -> Iterator[tuple[str, Network, float]]:
    """Each repair's name, what it comes to, and the seconds that it took once all else was worked out."""
    half = Candidate(tuple(group.size // 2 for group in bench.coupling.groups))
    by_weights = select(bench.coupling, bench.scores, half)
    by_error = select(bench.coupling, bench.errors, half)
    calibration = bench.calibration
    _ = calibration.inputs, calibration.targets(calibration.layers[0])

    started = time.perf_counter()
    cut = build(*prune(bench.coupling, bench.bundle.tensors, by_weights))
    yield "cut, units chosen by l1", cut, time.perf_counter() - started

    started = time.perf_counter()
    yield "batch norms recalibrated", bench.recalibrated(cut), time.perf_counter() - started

    for name, kept in (("", by_weights), (", units chosen by error", by_error)):
        started = time.perf_counter()
        yield f"fast{name}", build(*repair.fast(calibration, kept)), time.perf_counter() - started

    started = time.perf_counter()
    plain = build(*repair.sequential(calibration, by_weights, reaimed=0))
    yield "sequential, all that layers make", plain, time.perf_counter() - started

    for name, kept in (("", by_weights), (", units chosen by error", by_error)):
        started = time.perf_counter()
        found = build(*repair.sequential(calibration, kept))
        yield f"sequential, what passes{name}", found, time.perf_counter() - started
        if not name:
            started = time.perf_counter()
            again = bench.recalibrated(found)
            yield "the same, batch norms recalibrated", again, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=CHECKPOINTS, default=["resnet20", "resnet56"])
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.network:
        splits = load_splits(name, train_rows=(0, 10_000))
        bundle = export_model(load_checkpoint(name), [Input(name="x", shape=(3, 32, 32))])
        streams = {g.name: "a stream" for g in analyse(bundle.graph).groups if ".conv1" not in g.name}
        bench = Workbench(bundle, splits, Recipe(augment="shift+flip", frozen=streams))
        assert splits.test is not None
        judge = Judge(splits.test, bundle.network(), execution=Execution.CHANNELS_LAST)
        results[name] = {"dense": {"accuracy": judge(bundle.network()).accuracy}}
        for repair_name, network, taken_s in repaired(bench):
            found = judge(network.eval())
            results[name][repair_name] = {
                "accuracy": round(found.accuracy, 4),
                "divergence": round(found.divergence, 4),
                "seconds": round(taken_s, 2),
            }
            print(f"{name}: {repair_name}: {results[name][repair_name]}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
