"""Smaller but not faster: what widths off the device's grid cost.

    python -m benchmarks.ragged_widths [--rounds 40]

Networks of `benchmarks.latency_table` at uniform levels, under ONNX Runtime on one thread: every width
rounded to the device's step, and every width one channel below that. Prints the share of the dense network's
MACs, milliseconds, and times as fast as dense.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.latency_table import NETWORKS
from hwprofiles import OpGraph, OpSpec, measure, open_runtime

LEVELS = (0.75, 0.5)


def rounded(widths: Sequence[int], level: float, step: int) -> list[int]:
    return [max(step, round(level * width / step) * step) for width in widths]


def in_a_row(operators: Sequence[OpSpec]) -> OpGraph:
    """Each operator reads the one before, and the first the network's input."""
    sources = tuple((position - 1,) for position in range(len(operators)))
    return OpGraph(operators=tuple(operators), sources=sources, outputs=(len(operators) - 1,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    runtime = open_runtime("onnxruntime")
    device = runtime.describe(name="this-cpu", batch=1, threads=1)
    print(f"{device.board}, steps of {device.channel_step} channels")
    for name, (build, dense) in NETWORKS.items():
        widths = {"dense": list(dense)}
        for level in LEVELS:
            whole = rounded(dense, level, device.channel_step)
            widths[f"{level:.0%} wide, on the grid"] = whole
            widths[f"{level:.0%} wide, one channel less"] = [width - 1 for width in whole]
        networks = {title: build(counts) for title, counts in widths.items()}
        with tempfile.TemporaryDirectory() as folder:
            runs = {}
            for index, (title, network) in enumerate(networks.items()):
                path = Path(folder) / f"{index}.onnx"
                network.save(path)
                runs[title] = runtime.prepare_network(path, in_a_row(network.operators), device)
            times = measure(runs, passes=1, rounds=rounds, seed=0)
        macs = {title: sum(op.macs for op in network.operators) for title, network in networks.items()}
        latency_ms = {title: times[title].summary().latency_ms for title in networks}
        for title in networks:
            print(
                f"{name:9} {title:28} {macs[title] / macs['dense']:5.0%} of the MACs  "
                f"{latency_ms[title]:6.3f} ms  {latency_ms['dense'] / latency_ms[title]:.2f} times as fast"
            )


if __name__ == "__main__":
    main()
