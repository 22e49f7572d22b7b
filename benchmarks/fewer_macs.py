"""ResNets on CIFAR-10 with some times fewer MACs, after 1 000 steps of our own fine-tuning.

    python -m benchmarks.fewer_macs [--network resnet56] [--fewer 2.11 2.55] [--steps 1000] [--seeds 0]
    python -m benchmarks.fewer_macs --fewer 2.55 --steps 4000 --folder runs/fewer
    python -m benchmarks.fewer_macs --network resnet20 --fewer 1.3716

Needs the data folder beside the repository. A search as in `benchmarks.half_macs`; the finalist that
validation images like best is trained as finalists are, and of it before, after and averaged that one is
kept which validation images like best. Accuracies are of the 5 000 test images that choose nothing. The bars
are for 1 000 steps; more of them are the full recipe, for hours or a GPU. With a folder the search stays
there, and what was found is not searched for again. The third command is what ModelOpt shows its FastNAS by:
59.2 M of 81.2 M operations, twice the MACs. Writes `results/fewer_macs.json`; what is there stays.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.cifar import CHECKPOINTS, DATA, load_splits
from benchmarks.cifar_search import add_options, asked, search
from benchmarks.side_by_side import Subject, trained_by_us
from trials.bundle import read_bundle
from trials.evaluate import Execution

RESULTS = Path(__file__).parent / "results" / "fewer_macs.json"


def run(subject: Subject, fewer: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Search, then train what was found."""
    with TemporaryDirectory(prefix="fewer-") as passing:
        folder = options.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        job = asked(subject.name, [1 / fewer], seed, folder, options)
        found = search(job, folder, Console())
        pupil = read_bundle(found.bundle).network().eval()
    return {
        "macs": round(found.best.macs / found.report.dense.macs, 4),
        "untrained": subject.accuracy(pupil),
        "search_seconds": round(found.seconds),
        **trained_by_us(subject, pupil, options.steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet56", choices=CHECKPOINTS)
    parser.add_argument("--fewer", type=float, nargs="+", default=[2.11, 2.55])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--execution", default="bfloat16", choices=list(Execution), help="of training")
    parser.add_argument("--folder", type=Path, help="of the searches; a passing one if left out")
    add_options(parser)
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    subject = Subject(options.network, load_splits(options.network), Execution(options.execution))
    for fewer in options.fewer:
        for seed in options.seeds:
            started = time.perf_counter()
            row = run(subject, fewer, seed, options)
            row["seconds"] = round(time.perf_counter() - started)
            work = f"{subject.name}, {fewer:g} times fewer, {options.steps} steps"
            keep(work, seed, row)
            print(f"{work}, seed {seed}: {row}", flush=True)


def keep(work: str, seed: int, row: dict[str, Any]) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results.setdefault(work, {})[str(seed)] = row
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
