"""How long it takes to prune and rebuild a ResNet-56 with random widths, on one thread. Bar: 30 ms.

    python -m benchmarks.prune_speed [--candidates 100]

Needs no data: speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from benchmarks.cifar import resnet56
from trials.export import export_model
from trials.graph import Input
from trials.groups import analyse
from trials.network import build
from trials.prune import prune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=100)
    candidates = parser.parse_args().candidates
    torch.set_num_threads(1)
    bundle = export_model(resnet56(), [Input(name="image", shape=(3, 32, 32))])
    start = time.perf_counter()
    coupling = analyse(bundle.graph)
    print(f"analyse {1e3 * (time.perf_counter() - start):.0f} ms, once; {len(coupling.groups)} groups")

    rng = np.random.default_rng(0)
    prune_ms, build_ms = [], []
    for _ in range(candidates):
        kept = {
            group.name: np.sort(rng.choice(group.size, rng.integers(1, group.size + 1), replace=False))
            for group in coupling.groups
        }
        start = time.perf_counter()
        graph, tensors = prune(coupling, bundle.tensors, kept)
        middle = time.perf_counter()
        build(graph, tensors)
        prune_ms.append(1e3 * (middle - start))
        build_ms.append(1e3 * (time.perf_counter() - middle))
    for name, times in (("prune", prune_ms), ("build", build_ms), ("both", np.add(prune_ms, build_ms))):
        low, middle, high = np.percentile(times, [0, 50, 90])
        print(f"{name}: median {middle:.1f} ms, fastest {low:.1f} ms, 90th percentile {high:.1f} ms")


if __name__ == "__main__":
    main()
