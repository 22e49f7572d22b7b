"""A whole search of one of `benchmarks.cifar.CHECKPOINTS` under a budget, as a user runs it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from benchmarks.cifar import CHECKPOINTS, DATA
from search.job import Job
from search.place import Place
from search.progress import Bars
from search.report import Report, Row
from search.session import run_job
from trials.store import Store

STREAMS = ("conv1", "layer?.0.conv2", "layer?.0.downsample.0")
"""Groups of the residual streams, which stay whole, as in the figures that these are compared with."""

JOB = """
name = "{name}"
[model]
factory = "benchmarks.cifar:{factory}"
checkpoint = "{data}/checkpoints/{checkpoint}.safetensors"
input = {{ shape = [3, 32, 32] }}
[data]
source = "parquet"
train = {{ path = "{data}/cifar10_train.parquet", rows = [0, 10000] }}
validation = {{ path = "{data}/cifar10_test.parquet", rows = [0, 5000] }}
test = {{ path = "{data}/cifar10_test.parquet", rows = [5000, 10000] }}
normalize = {{ mean = {mean}, std = {std} }}
[[devices]]
runtime = "{runtime}"
[budget]
{kind} = {levels}
[search]
controller = "{controller}"
trials = {trials}
workers = 2
seed = {seed}
finalists = {finalists}
validation_images = 2000
final_repair = "{final_repair}"
round_to = 1
lowest_keep = {lowest_keep}
whole = {whole}
[finetune]
final_steps = 0
augment = "shift+flip"
"""


@dataclass(frozen=True)
class Searched:
    """What a search came to: the finalist that validation images like best, and all of its report."""

    report: Report
    best: Row
    place: Place
    seconds: float

    @property
    def bundle(self) -> Path:
        """The network of `best`."""
        assert self.best.trial is not None
        return self.place.finalist(self.best.trial)

    @property
    def uniform(self) -> Row | None:
        return next((row for row in self.report.rows if row.origin == "uniform"), None)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--controller", default="auto")
    parser.add_argument(
        "--lowest-keep", type=float, help="of each group; half of the least share if left out"
    )


def asked(
    network: str,
    shares: Sequence[float],
    seed: int,
    folder: Path,
    options: argparse.Namespace,
    *,
    kind: Literal["macs", "latency"] = "macs",
    runtime: str = "onnxruntime",
    whole: Sequence[str] = STREAMS,
    final_repair: str = "sequential",
) -> Job:
    """What is asked for, written as a file and read.

    Args:
        shares: of the dense model's MACs or latency, a level each.
        folder: for the file.
        options: those of `add_options`.
        whole: groups that stay whole.
    """
    checkpoint = CHECKPOINTS[network]
    there = [name for name in whole if "downsample" not in name or "projection" in network]
    levels = "-".join(f"{share:.3f}" for share in shares)
    path = folder / f"{network}-{options.controller}-{kind}-{levels}-{seed}.toml"
    path.write_text(
        JOB.format(
            name=path.stem,
            factory=checkpoint.factory.__name__,
            checkpoint=checkpoint.file,
            data=DATA.as_posix(),
            mean=list(checkpoint.normalize.mean),
            std=list(checkpoint.normalize.std),
            runtime=runtime,
            kind=kind,
            levels=json.dumps([f"{share:.1%}" for share in shares]),
            seed=seed,
            controller=options.controller,
            trials=options.trials,
            finalists=options.finalists,
            lowest_keep=options.lowest_keep or min(shares) / 2,
            final_repair=final_repair,
            whole=json.dumps(there),
        )
    )
    return Job.load(path)


def search(job: Job, folder: Path, console: Console) -> Searched:
    """Run it in a folder of runs, which keeps what is found."""
    place = Place(folder, job.name)
    started = time.monotonic()
    with Store.open(place.store) as store, Bars(console) as bars:
        report = run_job(job, place, store, bars)
    found = [row for row in report.rows if row.origin != "uniform"]
    best = max(found, key=lambda row: row.validation_accuracy)
    return Searched(report, best, place, time.monotonic() - started)
