"""How good a front every controller draws, by hypervolume over trials, and how soon it draws NSGA-II's.

    python -m benchmarks.fronts [--network resnet20] [--seeds 0 1 2] [--run auto:60 nsga2:300 …]

Needs the data folder beside the repository. One search draws the front of accuracy over MACs, at 30, 45, 60
and 75 % of the dense model's; the device is modelled, as no latency matters here. Accuracies are of rung-1
trials: pruned and repaired, not trained, on 2 000 validation images. The hypervolume is of (accuracy, share
of MACs saved), 0 at no accuracy or no MACs saved, at most 1. Prints, for each controller, its mean over
seeds and the trials after which it had what NSGA-II has in the end; writes `results/fronts.json`, where
what is there stays.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.cifar import CHECKPOINTS, DATA
from benchmarks.cifar_search import Searched, add_options, asked, search
from search.pareto import hypervolume
from trials.store import Store

RESULTS = Path(__file__).parent / "results" / "fronts.json"
LEVELS = (0.3, 0.45, 0.6, 0.75)
RUNS = ("auto:60", "knapsack:60", "amc:60", "evolution:60", "random:60", "nsga2:300")
RIVAL = "nsga2:300"


def volumes(found: Searched) -> list[float]:
    """The hypervolume after each trial; one that failed adds nothing."""
    with Store.open(found.place.store) as store:
        trials = store.trials(found.report.job)
    points, after = np.empty((0, 2)), list[float]()
    for trial in trials:
        if trial.facts is not None:
            point = [1 - trial.facts.accuracy, trial.facts.macs / found.report.dense.macs]
            points = np.vstack([points, point])
        after.append(round(hypervolume(points, np.ones(2)), 5))
    return after


def table(runs: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row for a controller and its number of trials."""
    lines = [
        f"| controller, trials | hypervolume, mean and deviation | trials to what {RIVAL} ends at |",
        "| --- | --- | --- |",
    ]
    rival = runs.get(RIVAL, {})
    for run, seeds in runs.items():
        ends = [after[-1] for after in seeds.values()]
        soon = [reached(after, rival[seed][-1]) for seed, after in seeds.items() if seed in rival]
        lines.append(f"| {run} | {np.mean(ends):.4f} ± {np.std(ends):.4f} | {', '.join(soon) or '–'} |")
    return "\n".join(lines)


def reached(after: list[float], volume: float) -> str:
    """The number of trials after which a search had this hypervolume."""
    return next((str(count) for count, each in enumerate(after, start=1) if each >= volume), "never")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet20", choices=CHECKPOINTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run", nargs="+", default=RUNS, help="controllers and their numbers of trials")
    add_options(parser)
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    options.finalists = 1
    console = Console()
    for seed in options.seeds:
        for run in options.run:
            controller, _, trials = run.partition(":")
            options.controller, options.trials = controller, int(trials)
            with TemporaryDirectory(prefix="fronts-") as folder:
                # Trials are what counts: finalists are not even repaired.
                job = asked(
                    options.network, LEVELS, seed, Path(folder), options,
                    runtime="synthetic", final_repair="none",
                )  # fmt: skip
                found = search(job, Path(folder), console)
                after = volumes(found)
            print(f"seed {seed}, {run}: {after[-1]:.4f} in {found.seconds:.0f} s", flush=True)
            print(table(keep(options.network, run, seed, after)[options.network]), flush=True)


def keep(network: str, run: str, seed: int, after: list[float]) -> dict[str, Any]:
    """Add a search to what the file holds by now; returns all of it."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results.setdefault(network, {}).setdefault(run, {})[str(seed)] = after
    RESULTS.write_text(json.dumps(results) + "\n")
    return results


if __name__ == "__main__":
    main()
