"""How long a job of many trials takes to show: its front as JSON, and its page until the front is drawn.

    python -m benchmarks.dashboard RUNS JOB [--trials 10000]

JOB is one of the folder of runs that is planned; a job of so many made-up trials is added to a copy. Times
are the medians of several calls to a service on this machine; the first call, which reads the job's graph and
profile, is told apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.large_job import add_large_job
from hwprofiles.wire import API
from search.place import Place
from tests.serving import client, served, token
from trials.store import Store
from trials.tokens import Role

CALLS = 5
DRAWN = (
    "() => document.querySelector('#figures dd') !== null && document.querySelector('#front canvas') !== null"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("job")
    parser.add_argument("--trials", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        shutil.copytree(asked.runs, runs)
        with Store.open(runs / "prunefront.db") as store:
            add_large_job(store, Place(runs, asked.job), "large", "ann", asked.trials)
            with served(store, runs / ".service") as address:
                text = token(store, Role.VIEWER, "ann")
                print(json.dumps({"trials": asked.trials, **front_s(address, text), **page_s(address, text)}))


def front_s(address: str, text: str) -> dict[str, float]:
    took_s = []
    with client(address, text) as caller:
        for _ in range(CALLS + 1):
            begun_s = time.perf_counter()
            size_bytes = len(caller.get("/jobs/large/front").raise_for_status().content)
            took_s.append(time.perf_counter() - begun_s)
    return {
        "front_first_s": round(took_s[0], 3),
        "front_s": round(statistics.median(took_s[1:]), 3),
        "front_bytes": size_bytes,
    }


def page_s(address: str, text: str) -> dict[str, float]:
    took_s = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(CALLS):
            context = browser.new_context(base_url=address)
            context.request.post(f"{API}/session", data={"token": text})
            page = context.new_page()
            begun_s = time.perf_counter()
            page.goto("/jobs/large", wait_until="commit")
            page.wait_for_function(DRAWN)
            page.evaluate(
                "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
            )
            took_s.append(time.perf_counter() - begun_s)
            context.close()
        browser.close()
    return {"page_drawn_s": round(statistics.median(took_s), 3)}


if __name__ == "__main__":
    main()
