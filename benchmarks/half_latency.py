"""ResNet-56 on CIFAR-10 at half its measured latency, untrained: latency against MACs as the budget.

    python -m benchmarks.half_latency [--seeds 0]

Needs the data folder beside the repository, and a machine with nothing else to do. Two searches of as
many trials, nothing whole: one is asked for half the latency; the other for 15, 20, 25 and 30 % of the
MACs, as who counts MACs does not know which of them is half the latency. Both measure their finalists.
Compared are the best accuracies of finalists that take at most half of what the dense model takes beside
them, on the 5 000 test images that choose nothing; and for MACs, too, what a line between the two
finalists around half the latency says. Writes `results/half_latency.json`; what is there stays.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.cifar import DATA
from benchmarks.cifar_search import Searched, add_options, asked, search

RESULTS = Path(__file__).parent / "results" / "half_latency.json"
SHARE, SLACK = 0.5, 0.02
"""Of the dense latency; a finalist that was predicted to be within it may be measured a little above."""
MACS_LEVELS = (0.15, 0.2, 0.25, 0.3)


def finalists(found: Searched) -> list[dict[str, Any]]:
    """All networks that were measured, fastest first, the uniform ones too."""
    rows = [row for row in found.report.rows if row.measured_ms is not None]
    return [
        {
            "origin": row.origin,
            "macs": round(row.macs / found.report.dense.macs, 4),
            "latency": round(1 / found.report.speedup(row), 4),
            "validation": row.validation_accuracy,
            "test": row.test_accuracy,
        }
        for row in sorted(rows, key=lambda row: row.latency_ms)
    ]


def within(rows: list[dict[str, Any]]) -> float | None:
    """The accuracy of the one that validation images like best of those that take half the time."""
    fast = [row for row in rows if row["latency"] <= SHARE + SLACK and row["origin"] != "uniform"]
    return max(fast, key=lambda row: row["validation"])["test"] if fast else None


def between(rows: list[dict[str, Any]]) -> float | None:
    """The best accuracy at half the time that a line between two neighbours promises."""
    told = [
        float(np.interp(SHARE, [a["latency"], b["latency"]], [a["test"], b["test"]]))
        for a, b in pairwise(row for row in rows if row["origin"] != "uniform")
        if a["latency"] <= SHARE < b["latency"]
    ]
    return max(told, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    add_options(parser)
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    options.finalists = 2 * len(MACS_LEVELS)
    console = Console()
    for seed in options.seeds:
        with TemporaryDirectory(prefix="hl-") as name:
            folder = Path(name)
            one = asked("resnet56", [SHARE], seed, folder, options, kind="latency", whole=())
            other = asked("resnet56", MACS_LEVELS, seed, folder, options, whole=())
            by_latency, by_macs = (search(job, folder, console) for job in (one, other))
        found = {"latency": finalists(by_latency), "macs": finalists(by_macs)}
        keep(seed, found)
        print(
            f"seed {seed}, at half the measured latency: {within(found['latency'])} by latency, "
            f"{within(found['macs'])} by MACs ({between(found['macs'])} by a line between finalists)",
            flush=True,
        )


def keep(seed: int, found: dict[str, Any]) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[str(seed)] = found
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
