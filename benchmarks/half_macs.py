"""ResNet-56 on CIFAR-10 at half its MACs without any fine-tuning: the whole search, over several seeds.

    python -m benchmarks.half_macs --seeds 0 1 2

Needs the data folder beside the repository. The first 5 000 test images steer the search, the other 5 000 are
reported; neither is used to fit anything. The residual streams stay whole, as in the figures that this is
compared with. Prints and writes the accuracy of every finalist and of the uniform baseline; the finalist that
the validation split likes best is the result of a seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.cifar import DATA
from search.job import Job
from search.plan import Place
from search.progress import Bars
from search.session import run_job
from trials.store import Store

JOB = """
name = "half-macs-{seed}"
[model]
factory = "benchmarks.cifar:resnet56"
checkpoint = "{data}/checkpoints/resnet56_cifar10.safetensors"
input = {{ shape = [3, 32, 32] }}
[data]
source = "parquet"
train = {{ path = "{data}/cifar10_train.parquet", rows = [0, 10000] }}
validation = {{ path = "{data}/cifar10_test.parquet", rows = [0, 5000] }}
test = {{ path = "{data}/cifar10_test.parquet", rows = [5000, 10000] }}
normalize = {{ mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }}
[budget]
macs = "50%"
[search]
controller = "{controller}"
trials = {trials}
workers = 2
seed = {seed}
finalists = {finalists}
validation_images = 2000
round_to = 1
lowest_keep = 0.25
whole = ["conv1", "layer?.0.conv2"]
[finetune]
final_steps = 0
augment = "shift+flip"
"""


def run_seed(folder: Path, seed: int, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run one search; returns its finalists and the seconds it took."""
    path = folder / f"job-{seed}.toml"
    path.write_text(
        JOB.format(
            seed=seed,
            data=DATA.as_posix(),
            controller=options.controller,
            trials=options.trials,
            finalists=options.finalists,
        )
    )
    job = Job.load(path)
    place = Place(folder, job.name)
    started = time.monotonic()
    with Store.open(place.store) as store, Bars(console) as bars:
        report = run_job(job, place, store, bars)
    rows = [
        {
            "trial": row.trial,
            "origin": row.origin,
            "macs": row.macs / report.dense.macs,
            "validation": row.validation_accuracy,
            "test": row.test_accuracy,
        }
        for row in report.rows
    ]
    found = [row for row in rows if row["origin"] != "uniform"]
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - started),
        "dense_test": report.dense.test_accuracy,
        "uniform_test": next((row["test"] for row in rows if row["origin"] == "uniform"), None),
        "result_test": max(found, key=lambda row: row["validation"])["test"] if found else None,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--controller", default="amc")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/half_macs.json"))
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    console = Console()
    results = []
    with TemporaryDirectory(prefix="hm-") as folder:
        for seed in options.seeds:
            results.append(run_seed(Path(folder), seed, options, console))
            found = results[-1]
            console.print(
                f"seed {seed}: {found['result_test']:.2%} (uniform {found['uniform_test']:.2%}, dense "
                f"{found['dense_test']:.2%}) in {found['seconds']} s",
                highlight=False,
            )
            settings = {"controller": options.controller, "trials": options.trials}
            options.output.write_text(json.dumps({**settings, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
