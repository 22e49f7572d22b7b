"""What the pool costs: start, requests a second with nothing to do, and how busy workers are kept.

    python -m benchmarks.pool

Starts with all parts of Ray and with those that are asked take turns; seconds of a core are those of Ray's
own processes that had ended with the pool, without what raylet starts.
"""

from __future__ import annotations

import time
from resource import RUSAGE_CHILDREN, getrusage
from unittest.mock import patch

import trials.cluster
from trials.pool import Pool, Runner

WORKERS = 2
STARTS = 3
REQUESTS = 3000
SLEEPS = 20
SLEEP_S = 1.0


def sleeper() -> Runner:
    return time.sleep


def run(pool: Pool, requests: int, seconds: float) -> float:
    """Keep every worker supplied until `requests` have ended, as the search loop does; return the seconds."""
    begin_s = time.perf_counter()
    submitted = ended = 0
    while ended < requests:
        while pool.free and submitted < requests:
            pool.submit(submitted, seconds)
            submitted += 1
        ended += len(pool.wait())
    return time.perf_counter() - begin_s


def show_starts(parts: str, unasked: tuple[str, ...]) -> None:
    """How long a pool takes to start and to close, where these parts of Ray are left out."""
    before, begin_s = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    with patch.object(trials.cluster, "UNASKED", unasked), Pool(sleeper, {}, workers=WORKERS, threads=1):
        warm_s = time.perf_counter() - begin_s
    after, seconds = getrusage(RUSAGE_CHILDREN), time.perf_counter() - begin_s
    cores_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{parts}: warm after {warm_s:.1f} s, closed after {seconds:.1f} s, {cores_s:.1f} s of a core")


def main() -> None:
    for _ in range(STARTS):
        show_starts("all of Ray", ())
        show_starts("what is asked of Ray", trials.cluster.UNASKED)
    begin_s = time.perf_counter()
    with Pool(sleeper, {}, workers=WORKERS, threads=1) as pool:
        print(f"start, until all workers are warm: {time.perf_counter() - begin_s:.1f} s")
        run(pool, SLEEPS, SLEEP_S)
        print(f"busy share at requests of {SLEEP_S:.0f} s: {pool.busy_share:.2%}")
        print(f"requests that do nothing: {REQUESTS / run(pool, REQUESTS, 0.0):.0f}/s")
        begin_s = time.perf_counter()
    print(f"close: {time.perf_counter() - begin_s:.1f} s")


if __name__ == "__main__":
    main()
