"""Smaller but not faster: what widths off the device's grid cost.

    python -m benchmarks.ragged_widths [--network mobilenet_v2 …] [--rounds 40]

Networks of `benchmarks.zoo` at uniform levels, under ONNX Runtime on one thread: every width rounded to the
device's step, and every width one channel below that. Prints the share of the dense network's MACs,
milliseconds, and times as fast as dense.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.zoo import ZOO
from hwprofiles import measure, open_runtime
from trials.candidate import Candidate, as_counts
from trials.costs import Costs
from trials.export import export_model
from trials.groups import analyse, even_kept
from trials.onnx_file import write_onnx
from trials.prune import prune

LEVELS = (0.75, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=ZOO, nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    runtime = open_runtime("onnxruntime")
    device = runtime.describe(name="this-cpu", batch=1, threads=1)
    print(f"{device.board}, steps of {device.channel_step} channels")
    for name in options.network:
        compare(name, options.rounds)


def compare(name: str, rounds: int) -> None:
    runtime = open_runtime("onnxruntime")
    device = runtime.describe(name="this-cpu", batch=1, threads=1)
    bundle = export_model(ZOO[name].build(), [ZOO[name].input])
    coupling = analyse(bundle.graph)
    costs, sizes = Costs(coupling), coupling.space().sizes
    candidates = {"dense": coupling.space().dense}
    for level in LEVELS:
        step = device.channel_step
        whole = np.minimum(sizes, np.maximum(step, np.round(level * sizes / step).astype(np.int64) * step))
        candidates[f"{level:.0%} wide, on the grid"] = Candidate(tuple(whole.tolist()))
        candidates[f"{level:.0%} wide, one channel less"] = Candidate(tuple((whole - 1).tolist()))
    runs = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        for title, candidate in candidates.items():
            write_onnx(*prune(coupling, bundle.tensors, even_kept(coupling, candidate)), path)
            runs[title] = runtime.prepare_network(path, costs.candidate_graph(candidate), device)
        times = measure(runs, passes=1, rounds=rounds, seed=0)
    macs = dict(zip(candidates, costs.macs(as_counts([*candidates.values()])), strict=True))
    latency_ms = {title: rounds.summary().latency_ms for title, rounds in times.items()}
    for title in candidates:
        print(
            f"{name:12} {title:28} {macs[title] / macs['dense']:5.0%} of the MACs  "
            f"{latency_ms[title]:6.3f} ms  {latency_ms['dense'] / latency_ms[title]:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
