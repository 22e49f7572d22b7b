"""What a search costs besides its trials. Bars: 100 trials/s, workers 95 % busy at trials of one second.

    python -m benchmarks.loop_overhead [--job examples/digits/job.toml] [--controllers random amc] [--profile]
    python -m benchmarks.loop_overhead --simulated 64 --controllers auto --trials 640

All is real, the job's space, table, controller, front, store on disk and pool of two workers, but for the
trials: their workers answer with made-up facts, at once or after a second. With --simulated there are so many
workers that only the clock knows, for whom this machine would have no room, and trials of one second alone.
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

import torch

from benchmarks.simulated import Canned, Simulated
from search.job import Job
from search.loop import Workers
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Silent
from search.session import make_loop
from trials.pool import Pool
from trials.store import Store

WORKERS = 2
SLOW_TRIALS = 40
TRIAL_S = 1.0


def search(prepared: Prepared, controller: str, trials: int, trial_s: float) -> tuple[float, float]:
    """Run a search; return its trials a second and how busy the workers were, 0..1."""
    shared = {"trial_s": trial_s, "dense": prepared.space.dense}
    with Pool(Canned, shared, workers=WORKERS, threads=1) as pool:
        seconds = run(prepared, controller, trials, WORKERS, pool)
        return trials / seconds, pool.busy_share


def run(prepared: Prepared, controller: str, trials: int, workers: int, pool: Workers) -> float:
    """Run a search; return its seconds."""
    settings = {"controller": controller, "trials": trials, "workers": workers}
    job = prepared.job.model_copy(update={"search": prepared.job.search.model_copy(update=settings)})
    plan = replace(prepared.plan, in_flight=2 * workers)
    losses = [(1 - axis.allowed / axis.size) ** 2 for axis in prepared.space.axes]
    with TemporaryDirectory() as folder, Store.open(Path(folder) / "store.db") as store:
        store.create_job(job.name, {}, {})
        loop = make_loop(replace(prepared, job=job, plan=plan), store, Silent(), losses)
        begin_s = time.perf_counter()
        found = loop.run(pool)
        assert len(found) == trials
        return time.perf_counter() - begin_s


def simulate(prepared: Prepared, controller: str, trials: int, workers: int) -> None:
    seconds = run(prepared, controller, trials, workers, Simulated(workers, TRIAL_S, prepared.space.dense))
    # The last ones leave the others with nothing to do, however fast the search is.
    rounds = -(-trials // workers)
    busy = rounds * TRIAL_S / seconds
    print(f"{controller}: {workers} simulated workers {busy:.1%} busy over {trials} trials of {TRIAL_S:g} s")


def report(prepared: Prepared, controllers: Sequence[str], trials: int, profile: bool) -> None:
    for name in controllers:
        profiler = cProfile.Profile() if profile else nullcontext()
        before_s = os.times()
        with profiler:
            per_s, _ = search(prepared, name, trials, trial_s=0.0)
        used_s = os.times()
        share = (used_s.user + used_s.system - before_s.user - before_s.system) * per_s / trials
        _, busy = search(prepared, name, SLOW_TRIALS, trial_s=TRIAL_S)
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
    parser.add_argument("--simulated", type=int, metavar="WORKERS", help="that only the clock knows")
    parser.add_argument("--profile", action="store_true", help="print where the main process spends its time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    job = Job.load(arguments.job)
    with TemporaryDirectory() as folder:
        place = Place(Path(folder), job.name)
        place.folder.mkdir()
        prepared = prepare(job, place, {}, Silent())
        print(f"{arguments.job}: {len(prepared.space.axes)} groups, budget in {prepared.limits[0].kind}")
        if arguments.simulated:
            for name in arguments.controllers:
                simulate(prepared, name, arguments.trials, arguments.simulated)
        else:
            report(prepared, arguments.controllers, arguments.trials, arguments.profile)


if __name__ == "__main__":
    main()
