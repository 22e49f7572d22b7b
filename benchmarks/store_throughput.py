"""Single-row transitions per second through the store: start and finish, one transaction each, on disk.

python -m benchmarks.store_throughput
"""

from __future__ import annotations

import tempfile
import time
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
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store.sqlite") as store:
        store.create_job("throughput", spec={}, plan={})
        store.add_trials("throughput", trials)
        begin_s = time.perf_counter()
        for trial in trials:
            running = trial.start()
            store.save("throughput", running)
            store.save("throughput", running.finish(facts))
        elapsed_s = time.perf_counter() - begin_s
        begin_s = time.perf_counter()
        assert len(store.trials("throughput")) == TRIALS
        read_s = time.perf_counter() - begin_s
    print(f"{2 * TRIALS / elapsed_s:.0f} transitions/s; {TRIALS} trials read in {read_s * 1000:.0f} ms")


if __name__ == "__main__":
    main()
