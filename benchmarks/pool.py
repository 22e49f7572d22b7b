"""What the pool costs: start, requests a second with nothing to do, and how busy workers are kept.

python -m benchmarks.pool
"""

from __future__ import annotations

import time

from trials.pool import Pool, Runner

WORKERS = 2
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


def main() -> None:
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
