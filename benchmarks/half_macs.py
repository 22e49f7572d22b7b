"""ResNet-56 on CIFAR-10 at half its MACs without any fine-tuning: the whole search, over several seeds.

    python -m benchmarks.half_macs --seeds 0 1 2

Needs the data folder beside the repository. The first 5 000 test images steer the search, the other 5 000 are
reported; neither is used to fit anything. The residual streams stay whole, as in the figures that this is
compared with, unless --streams is given. Prints and writes the accuracy of every finalist and of the uniform
baseline; the finalist that the validation split likes best is the result of a seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.cifar import DATA
from benchmarks.cifar_search import STREAMS, add_options, asked, search


def run_seed(folder: Path, seed: int, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run one search; returns its finalists and the seconds it took."""
    whole = () if options.streams else STREAMS
    found = search(asked("resnet56", [0.5], seed, folder, options, whole=whole), folder, console)
    return {
        "seed": seed,
        "seconds": round(found.seconds),
        "dense_test": found.report.dense.test_accuracy,
        "uniform_test": found.uniform and found.uniform.test_accuracy,
        "result_test": found.best.test_accuracy,
        "rows": [
            {
                "trial": row.trial,
                "origin": row.origin,
                "macs": row.macs / found.report.dense.macs,
                "validation": row.validation_accuracy,
                "test": row.test_accuracy,
            }
            for row in found.report.rows
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--streams", action="store_true", help="residual streams may lose channels, too")
    add_options(parser)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/half_macs.json"))
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    work = f"{options.controller}, {options.trials} trials"
    if options.streams:
        work += ", streams too"
    if options.lowest_keep:
        work += f", {options.lowest_keep:g} of each group at least"
    console = Console()
    with TemporaryDirectory(prefix="hm-") as folder:
        for seed in options.seeds:
            found = run_seed(Path(folder), seed, options, console)
            keep(options.output, work, found)
            console.print(
                f"seed {seed}: {found['result_test']:.2%} (uniform {found['uniform_test']:.2%}, dense "
                f"{found['dense_test']:.2%}) in {found['seconds']} s",
                highlight=False,
            )


def keep(path: Path, search: str, found: dict[str, Any]) -> None:
    """Add a seed's result to what the file holds by now."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results.setdefault(search, {})[str(found["seed"])] = found
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
