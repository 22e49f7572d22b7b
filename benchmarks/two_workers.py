"""How much faster two workers search than one: real trials of a ResNet-56 on CIFAR-10.

    python -m benchmarks.two_workers [--network resnet56] [--trials 8] [--rounds 2]

Needs the data folder beside the repository, and a machine with nothing else to do. Pruned to half the MACs
at random, repaired in sequence on few images, judged on 2 000: what a trial is by default. Compared are two
workers of one torch thread each with one worker of one and of two threads; a job gives its workers all
cores between them. Rounds take turns; shown are the most trials a second of each.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cifar import CHECKPOINTS, DATA
from benchmarks.cifar_search import add_options, asked
from search.controllers.sampling import RandomController
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Silent
from trials.candidate import Candidate
from trials.pool import Pool
from trials.requests import Request
from trials.run import Workbench

SETTINGS = ((1, 1), (1, 2), (2, 1))
"""Workers, and torch threads of each."""


def per_second(prepared: Prepared, workers: int, threads: int, candidates: list[Candidate]) -> float:
    """Trials a second, once every worker has had its first."""
    shared = {"bundle": prepared.bundle, "splits": prepared.splits, "recipe": prepared.recipe}
    with Pool(Workbench, shared, workers=workers, threads=threads) as pool:
        run(pool, candidates[:1] * workers)
        begin_s = time.perf_counter()
        run(pool, candidates)
        return len(candidates) / (time.perf_counter() - begin_s)


def run(pool: Pool, candidates: list[Candidate]) -> None:
    submitted = ended = 0
    while ended < len(candidates):
        while pool.free and submitted < len(candidates):
            pool.submit(submitted, Request(candidate=candidates[submitted], seed=0))
            submitted += 1
        for finished in pool.wait():
            assert not finished.error, finished.error
            ended += 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet56", choices=CHECKPOINTS)
    parser.add_argument("--rounds", type=int, default=2)
    add_options(parser)
    parser.set_defaults(trials=8)
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    with TemporaryDirectory(prefix="two-") as folder:
        job = asked(options.network, [0.5], 0, Path(folder), options, runtime="synthetic")
        place = Place(Path(folder), job.name)
        place.folder.mkdir()
        prepared = prepare(job, place, {}, Silent())
        targets = prepared.plan.targets
        proposals = RandomController(prepared.space, prepared.scorer.cost("macs"), targets, seed=0)
        candidates = [proposal.candidate for proposal in proposals.ask(options.trials)]
        found = defaultdict[tuple[int, int], list[float]](list)
        for _ in range(options.rounds):
            for setting in SETTINGS:
                found[setting].append(per_second(prepared, *setting, candidates))
    best = {setting: float(np.max(rates)) for setting, rates in found.items()}
    for (workers, threads), rate in best.items():
        times = rate / best[1, 1]
        print(
            f"{workers} worker(s) of {threads} thread(s): {rate:.3f} trials/s, {times:.2f} times one of one"
        )


if __name__ == "__main__":
    main()
