"""What a search costs besides its trials. Bars: 100 trials/s, workers 95 % busy at trials of one second.

    python -m benchmarks.loop_overhead [--job examples/digits/job.toml] [--controllers random amc] [--profile]

All is real, the job's space, table, controller, front, store on disk and pool of two workers, but for the
trials: their workers answer with made-up facts, at once or after a second.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from search.job import Job
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Silent
from search.session import make_loop
from trials.candidate import Candidate, Facts
from trials.pool import Pool
from trials.run import Outcome, Request
from trials.store import Store

WORKERS = 2
SLOW_TRIALS = 40


class Canned:
    """A worker whose trials take `trial_s` and find what their candidate's widths say."""

    def __init__(self, trial_s: float, dense: Candidate) -> None:
        self.trial_s, self.dense = trial_s, np.array(dense.kept)

    def __call__(self, request: Request) -> Outcome:
        time.sleep(self.trial_s)
        keep = np.array(request.candidate.kept) / self.dense
        accuracy = float(0.95 - 0.3 * (1 - keep).mean() ** 2)
        facts = Facts(
            accuracy=accuracy,
            accuracy_error=0.01,
            loss=1 - accuracy,
            divergence=1 - accuracy,
            macs=1,
            parameters=1,
            class_accuracy=(accuracy,) * 10,
            history={"repaired": accuracy},
            seconds={"repair": self.trial_s, "evaluate": 0.0},
        )
        return Outcome(facts=facts, kept={})


def search(prepared: Prepared, controller: str, trials: int, trial_s: float) -> tuple[float, float]:
    """Run a search; return its trials a second and how busy the workers were, 0..1."""
    settings = {"controller": controller, "trials": trials, "workers": WORKERS}
    job = prepared.job.model_copy(update={"search": prepared.job.search.model_copy(update=settings)})
    plan = replace(prepared.plan, in_flight=2 * WORKERS)
    shared = {"trial_s": trial_s, "dense": prepared.space.dense}
    with (
        TemporaryDirectory() as folder,
        Store.open(Path(folder) / "store.db") as store,
        Pool(Canned, shared, workers=WORKERS, threads=1) as pool,
    ):
        store.create_job(job.name, {}, {})
        loop = make_loop(replace(prepared, job=job, plan=plan), store, Silent())
        begin_s = time.perf_counter()
        finished = loop.run(pool)
        return len(finished) / (time.perf_counter() - begin_s), pool.busy_share


def report(prepared: Prepared, controllers: Sequence[str], trials: int, profile: bool) -> None:
    for name in controllers:
        profiler = cProfile.Profile() if profile else nullcontext()
        before_s = os.times()
        with profiler:
            per_s, _ = search(prepared, name, trials, trial_s=0.0)
        used_s = os.times()
        share = (used_s.user + used_s.system - before_s.user - before_s.system) * per_s / trials
        _, busy = search(prepared, name, SLOW_TRIALS, trial_s=1.0)
        print(f"{name}: {per_s:.0f} trials/s ({share:.0%} of a core), workers {busy:.1%} busy at 1 s a trial")
        if isinstance(profiler, cProfile.Profile):
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", type=Path, default=Path("examples/digits/job.toml"))
    parser.add_argument("--controllers", nargs="+", default=["random", "amc"])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--profile", action="store_true", help="print where the main process spends its time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    job = Job.load(arguments.job)
    with TemporaryDirectory() as folder:
        place = Place(Path(folder), job.name)
        place.folder.mkdir()
        prepared = prepare(job, place, {}, Silent())
        print(f"{arguments.job}: {len(prepared.space.axes)} groups, budget in {prepared.limits[0].kind}")
        report(prepared, arguments.controllers, arguments.trials, arguments.profile)


if __name__ == "__main__":
    main()
