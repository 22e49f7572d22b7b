"""What a worker takes in memory for a trial and a finalist of 3 steps, each model in a process of its own.

    python -m benchmarks.worker_memory [--network resnet56 …] [--working-mb 1024]

Networks of `benchmarks.zoo` with random weights and images. What is counted is the most memory that the
process ever had, less what it had before it read the model: interpreter, torch and the other libraries. It is
exported elsewhere, as for a worker. Prints and writes `results/worker_memory.json`: model, data,
the rest, and that as a multiple of the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.zoo import ZOO
from trials import room
from trials.bundle import read_bundle
from trials.candidate import Candidate
from trials.data import Split, Splits
from trials.export import export_model
from trials.requests import Recipe, Request
from trials.run import Workbench

RESULTS = Path(__file__).parent / "results" / "worker_memory.json"
IMAGES = 1_024
CLASSES = 10


def status_mb(field: str) -> float:
    """VmRSS, what this process holds now, or VmHWM, the most that it ever held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def images(shape: tuple[int, ...], random: np.random.Generator) -> Split:
    """As data sets hold them: bytes, until a batch is made."""
    pixels = random.integers(0, 256, (IMAGES, *shape), dtype=np.uint8)
    return Split(inputs=(pixels,), labels=random.integers(0, CLASSES, IMAGES))


def measured(folder: Path) -> dict[str, Any]:
    """Of this process, which has done nothing else, and the bundle in a folder."""
    torch.set_num_threads(1)
    before_mb, random = status_mb("VmRSS"), np.random.default_rng(0)
    bundle = read_bundle(folder)
    shape = tuple(bundle.graph.inputs[0].shape)
    train, validation = (images(shape, random) for _ in range(2))
    splits = Splits(train=train, validation=validation, test=None, classes=("",) * CLASSES)
    data_mb = sum(array.nbytes for split in (train, validation) for array in split.inputs) / 2**20
    model_mb = sum(tensor.nbytes for tensor in bundle.tensors.values()) / 2**20
    bench = Workbench(bundle, splits, Recipe(validation_images=256, final_steps=3))
    half = Candidate(tuple(max(1, group.size // 2) for group in bench.coupling.groups))
    started = time.perf_counter()
    bench(Request(candidate=half, seed=0))
    trial_mb = status_mb("VmHWM")
    bench(Request(candidate=half, seed=0, final=True))
    found = {
        "model_mb": model_mb,
        "data_mb": data_mb,
        "trial_mb": trial_mb - before_mb - data_mb,
        "finalist_mb": status_mb("VmHWM") - before_mb - data_mb,
    }
    found["times_model"] = found["finalist_mb"] / model_mb
    return {key: round(value, 1) for key, value in found.items()} | {
        "seconds": round(time.perf_counter() - started)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=ZOO, default=["resnet56", "vgg16", "mobilenet_v2"])
    parser.add_argument("--working-mb", type=int, default=room.WORKING_BYTES // 2**20)
    parser.add_argument("--one", type=Path, help="a bundle to measure in this process, printed as JSON")
    options = parser.parse_args()
    room.WORKING_BYTES = options.working_mb * 2**20
    if options.one:
        print(json.dumps(measured(options.one)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.network:
        with TemporaryDirectory(prefix="wm-") as folder:
            bundle = Path(folder) / "bundle"
            export_model(ZOO[name].build(), [ZOO[name].input]).write(bundle)
            command = [sys.executable, "-m", "benchmarks.worker_memory", "--one", str(bundle)]
            command += ["--working-mb", str(options.working_mb)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, results[name], flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
