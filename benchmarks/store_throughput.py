"""Single-row transitions per second through the store: start and finish, one transaction each, on disk.

python -m benchmarks.store_throughput
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from trials.candidate import Candidate, Facts, Trial
from trials.store import Store

TRIALS = 1000
GROUPS = 50
CLASSES = 10


def main() -> None:
    facts = Facts(
        accuracy=0.9,
        accuracy_error=0.01,
        loss=0.3,
        divergence=0.1,
        macs=60_000_000,
        parameters=400_000,
        class_accuracy=(0.9,) * CLASSES,
        history={"pruned": 0.4, "repaired": 0.9},
        seconds={"prune": 0.03, "repair": 0.5, "evaluate": 0.4},
    )
    trials = [
        Trial(number=number, candidate=Candidate((32,) * GROUPS), seed=number, target=0.5, origin="random")
        for number in range(TRIALS)
    ]
    store_s = bare_s = 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder) / "store.sqlite") as store,
        closing(sqlite3.connect(Path(folder) / "bare.sqlite", isolation_level=None)) as bare,
    ):
        bare.execute("PRAGMA journal_mode = WAL")
        bare.execute("PRAGMA synchronous = FULL")
        bare.execute("CREATE TABLE transitions (content TEXT)")
        content = json.dumps(facts.to_json())
        store.create_job("throughput", spec={}, plan={})
        store.save("throughput", *trials)
        for trial in trials:
            begin_s = time.perf_counter()
            running = trial.start()
            store.save("throughput", running)
            store.save("throughput", running.finish(facts))
            middle_s = time.perf_counter()
            for _ in range(2):
                bare.execute("INSERT INTO transitions VALUES (?)", (content,))
            store_s += middle_s - begin_s
            bare_s += time.perf_counter() - middle_s
        begin_s = time.perf_counter()
        store.trials("throughput")
        read_s = time.perf_counter() - begin_s
    print(f"store: {2 * TRIALS / store_s:.0f} transitions/s; {TRIALS} trials read in {read_s * 1e3:.0f} ms")
    print(f"bare commits: {2 * TRIALS / bare_s:.0f}/s")
    print(f"overhead of the store: {(store_s - bare_s) / (2 * TRIALS) * 1e3:.2f} ms per transition")


if __name__ == "__main__":
    main()
