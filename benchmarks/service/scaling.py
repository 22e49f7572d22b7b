"""What a thousand workers ask of controllers and database: 33 results a second on one machine.

    python -m benchmarks.service.scaling [--controllers 10] [--workers 100] [--seconds 90]

Each controller is a process that holds the lease of a job of its own, renews it every second, and searches as
ever: proposals, table, front, each transition guarded by the lease and committed to one PostgreSQL. Workers
alone are simulated: the clock says when a trial of 30 s ends, and its facts are made up. So what Ray and the
network between machines take is not in it. Writes `results/service_scaling.json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sqlalchemy import create_engine, text

from benchmarks.service.started import database, used_s
from benchmarks.simulated import Simulated
from search.job import Job
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Silent
from search.session import make_loop
from trials.candidate import Candidate
from trials.leases import Lease, Leases
from trials.pool import Finished
from trials.requests import Request
from trials.service_jobs import ServiceJobs
from trials.store import Store

RESULTS = Path(__file__).parents[1] / "results" / "service_scaling.json"
TRIAL_S = 30.0
RENEW_EVERY_S = 1.0
WRITTEN = """select xact_commit, tup_inserted + tup_updated as rows, pg_current_wal_lsn() - '0/0' as bytes
from pg_stat_database where datname = 'postgres'"""


class OverError(Exception):
    """The time of the benchmark is over."""


class Watched(Simulated):
    """Workers of which each is busy the first time for a part of `TRIAL_S` only, so that they end apart.

    `lags_s` are the seconds from the end of each trial until its result was committed and its worker had the
    next one: the loop commits just before it gives that.
    """

    def __init__(self, workers: int, dense: Candidate, from_s: float, until_s: float) -> None:
        super().__init__(workers, TRIAL_S, dense)
        self._from_s, self._until_s, self._new = from_s, until_s, workers
        self._idle_from_s: list[float] = []
        self.lags_s: list[float] = []

    def submit(self, key: Any, request: Request) -> None:
        if self._idle_from_s:
            ended_s = self._idle_from_s.pop(0)
            if ended_s >= self._from_s:
                self.lags_s.append(time.time() - ended_s)
        share = random.random() if self._new > 0 else 1.0
        self._new -= 1
        self.begin(key, request, share * TRIAL_S)

    def wait(self, timeout_s: float) -> list[Finished]:
        if time.time() > self._until_s:
            raise OverError
        found = super().wait(timeout_s)
        self._idle_from_s += self.ended_s
        return found


def control(
    prepared: Prepared, url: str, lease: Lease, workers: int, from_s: float, until_s: float, found: Any
) -> None:
    """Be the controller of one job until the time is over."""
    settings = {"controller": "random", "trials": 10**6, "workers": workers}
    job = prepared.job.model_copy(
        update={"name": lease.job, "search": prepared.job.search.model_copy(update=settings)}
    )
    ours = replace(prepared, job=job, plan=replace(prepared.plan, in_flight=2 * workers))
    simulated = Watched(workers, prepared.space.dense, from_s, until_s)
    with Store.open(url) as store:
        leases, over, renewed_s = Leases(store), threading.Event(), list[float]()

        def renew() -> None:
            while not over.wait(RENEW_EVERY_S):
                begin_s = time.perf_counter()
                leases.renew(lease, {"stage": "searching"}, workers * RENEW_EVERY_S)
                renewed_s.append(time.perf_counter() - begin_s)

        threading.Thread(target=renew, daemon=True).start()
        loop = make_loop(ours, leases.guarded(lease), Silent(), ())
        time.sleep(max(0.0, from_s - TRIAL_S - time.time()))
        try:
            loop.run(simulated)
        except OverError:
            over.set()
    found.put((simulated.lags_s, renewed_s))


def below(pid: int, name: str) -> list[int]:
    """Processes of a name that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        if head.endswith(f"({name}") and int(rest.split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def run(prepared: Prepared, controllers: int, workers: int, seconds: float) -> dict[str, Any]:
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    with TemporaryDirectory() as folder, database("postgresql", Path(folder)) as url:
        with Store.open(url) as store:
            jobs, leases = ServiceJobs(store), Leases(store)
            for number in range(controllers):
                jobs.submit("ann", f"job-{number}", {}, str(number))
            from_s = time.time() + 10 + TRIAL_S
            taken = [leases.take(f"holder-{number}", most=controllers) for number in range(controllers)]
        processes = [
            fork.Process(
                target=control, args=(prepared, url, lease, workers, from_s, from_s + seconds, found)
            )
            for lease in taken
            if lease
        ]
        for process in processes:
            process.start()
        engine = create_engine(url)
        (server,) = below(os.getpid(), "postgres")

        def now() -> np.ndarray[Any, Any]:
            with engine.connect() as connection:
                written = connection.execute(text(WRITTEN)).one()
            database_s = sum(used_s(pid) for pid in (server, *below(server, "postgres")))
            controllers_s = sum(used_s(process.pid) for process in processes if process.pid)
            return np.array([*map(float, written), database_s, controllers_s])

        time.sleep(max(0.0, from_s - time.time()))
        before, before_s = now(), time.time()
        time.sleep(max(0.0, from_s + seconds - 2 - time.time()))
        per_s = (now() - before) / (time.time() - before_s)
        load = os.getloadavg()[0]
        parts = [found.get() for _ in processes]
        for process in processes:
            process.join()
        engine.dispose()
    lags_ms, renewals_ms = (1e3 * np.concatenate([part[which] for part in parts]) for which in (0, 1))
    return {
        "controllers": controllers,
        "workers": controllers * workers,
        "trial_s": TRIAL_S,
        "seconds": seconds,
        "load": round(load, 1),
        "results_per_s": round(len(lags_ms) / seconds, 1),
        "lag_ms": {f"p{p}": round(float(np.percentile(lags_ms, p)), 1) for p in (50, 95, 99, 100)},
        "renewal_ms": {f"p{p}": round(float(np.percentile(renewals_ms, p)), 1) for p in (50, 95, 99, 100)},
        "commits_per_s": round(float(per_s[0]), 1),
        "rows_written_per_s": round(float(per_s[1]), 1),
        "wal_kb_per_s": round(float(per_s[2]) / 1e3, 1),
        "database_cores": round(float(per_s[3]), 3),
        "controllers_cores": round(float(per_s[4]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", type=Path, default=Path("examples/digits/job.toml"))
    parser.add_argument("--controllers", type=int, default=10)
    parser.add_argument("--workers", type=int, default=100, help="of each controller")
    parser.add_argument("--seconds", type=float, default=90.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    job = Job.load(arguments.job)
    with TemporaryDirectory() as folder:
        place = Place(Path(folder), job.name)
        place.folder.mkdir()
        prepared = prepare(job, place, {}, Silent())
        found = run(prepared, arguments.controllers, arguments.workers, arguments.seconds)
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
