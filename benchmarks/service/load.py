"""How long calls take of many clients at once. Bars: submit p95 200 ms, list p95 500 ms, no errors.

    python -m benchmarks.service.load [--databases sqlite postgresql] [--jobs 1000] [--clients 20]

A service is started as a process, with nothing that works on jobs, and clients on threads of this one call it
over loopback. First they queue so many jobs, each client as fast as it is answered. With these in the queue
each then lists a page and the one behind it, shows a job and submits another, again and again: with a second
between its calls, as people do, which the bars are for, and without, which tells how many calls the service
can answer. Clients and service share the machine. Writes `results/service_load.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from benchmarks.service.started import DATABASES, database, started
from hwprofiles.wire import API

RESULTS = Path(__file__).parents[1] / "results" / "service_load.json"
ROUNDS = 10
PAUSE_S = 1.0
ASKED = {
    "name": "mine",
    "model": {"bundle": "source:model"},
    "data": {"source": "npz", "train": "source:examples"},
    "budget": {"latency": ["50%"]},
}


class Caller:
    """A client of the service, which notes how long each of its calls took."""

    def __init__(self, address: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=f"{address}{API}", headers=headers, timeout=60)
        self.took_ms: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []
        self.pause_s = 0.0

    def call(self, what: str, verb: str, path: str, **how: Any) -> Any:
        time.sleep(random.uniform(0, 2 * self.pause_s))
        begin_s = time.perf_counter()
        answer = self._client.request(verb, path, **how)
        self.took_ms[what].append((time.perf_counter() - begin_s) * 1e3)
        if answer.status_code >= 400:
            self.errors.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.content else None

    def submit(self) -> None:
        key = {"Idempotency-Key": secrets.token_hex(8)}
        self.call("submit", "POST", "/jobs", json=ASKED, headers=key)

    def look(self) -> None:
        """What a person does who looks at jobs, and submits another."""
        page = self.call("list", "GET", "/jobs")
        page = self.call("list, next page", "GET", "/jobs", params={"cursor": page["next"]})
        self.call("show", "GET", f"/jobs/{page['jobs'][0]['name']}")
        self.submit()


def loaded(kind: str, jobs: int, clients: int) -> dict[str, Any]:
    """Put a service under load."""
    with TemporaryDirectory() as folder, database(kind, Path(folder)) as url:
        with started(Path(folder), url, jobs=0) as service:
            admin = Caller(service.address, service.token)
            admin.call("prepare", "PUT", "/sources/model", json={"location": folder})
            admin.call("prepare", "PUT", "/sources/examples", json={"location": __file__})
            quota = {"queued_jobs": 10**6, "running_jobs": 1, "worker_minutes": 1e6, "stored_bytes": 2**40}
            admin.call("prepare", "PUT", "/quotas/admin", json=quota)
            callers = [Caller(service.address, service.token) for _ in range(clients)]

            def queue(which: int) -> None:
                for _ in range(which, jobs, clients):
                    callers[which].submit()

            def look(which: int) -> None:
                for _ in range(ROUNDS):
                    callers[which].look()

            phases = {}
            for name, work, pause_s in (
                ("filling the queue", queue, 0.0),
                ("a second between calls", look, PAUSE_S),
                ("nothing between calls", look, 0.0),
            ):
                for caller in callers:
                    caller.took_ms.clear()
                    caller.pause_s = pause_s
                before_s, begin_s = service.cpu_s, time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    list(pool.map(work, range(clients)))
                seconds = time.perf_counter() - begin_s
                phases[name] = {
                    "calls": summary(callers),
                    "calls_per_s": round(
                        sum(len(t) for c in callers for t in c.took_ms.values()) / seconds, 1
                    ),
                    "service_cores": round((service.cpu_s - before_s) / seconds, 2),
                    "load": round(os.getloadavg()[0], 1),
                }
            errors = [error for caller in (admin, *callers) for error in caller.errors]
            return {"phases": phases, "errors": len(errors), "first_errors": errors[:5]}


def summary(callers: list[Caller]) -> dict[str, dict[str, float]]:
    """By call: how many there were, and how long they took."""
    took_ms: dict[str, list[float]] = defaultdict(list)
    for caller in callers:
        for what, times in caller.took_ms.items():
            took_ms[what] += times
    return {
        what: {"count": len(times)}
        | {f"p{p}_ms": round(float(np.percentile(times, p)), 1) for p in (50, 95, 99)}
        for what, times in took_ms.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=20)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"jobs": arguments.jobs, "clients": arguments.clients, "cores": os.cpu_count()}
    for kind in arguments.databases:
        found[kind] = loaded(kind, arguments.jobs, arguments.clients)
        print(kind, json.dumps(found[kind], indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
