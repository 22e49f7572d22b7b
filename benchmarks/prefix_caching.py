"""What judging a ResNet-56 costs that is the dense model up to some group, with and without held activations.

    python -m benchmarks.prefix_caching [--images 2000] [--rounds 5]

One group at a time loses half of its units, as in a probe of its sensitivity. Times are the fastest of
interleaved rounds on one thread, as a worker has. Needs no data: speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
import torch

from benchmarks.cifar import resnet56
from trials.data import Split
from trials.evaluate import Execution, Judge
from trials.export import export_model
from trials.graph import Input
from trials.groups import analyse
from trials.network import Network, build
from trials.prune import prune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = export_model(resnet56(), [Input(name="image", shape=(3, 32, 32))])
    coupling, dense = analyse(bundle.graph), bundle.network()
    rng = np.random.default_rng(0)
    split = Split(
        (rng.standard_normal((options.images, 3, 32, 32), dtype=np.float32),),
        rng.integers(10, size=options.images),
    )
    judges = {
        "from the first layer": Judge(split, dense, execution=Execution.CHANNELS_LAST, held_bytes=0),
        "from where it differs": Judge(split, dense, execution=Execution.CHANNELS_LAST),
    }
    inner = [group for group in coupling.groups if group.name.endswith(".conv1")]
    chosen = [inner[round(place)] for place in np.linspace(0, len(inner) - 1, 6)]
    for group in chosen:
        network = build(*prune(coupling, bundle.tensors, {group.name: np.arange(group.size // 2)}))
        times = fastest(judges, network, options.rounds)
        whole, part = times.values()
        share = f"{part / whole:.0%}"
        print(
            f"{group.name}: {whole:.2f} s from the first layer, {part:.2f} s from where it differs ({share})"
        )


def fastest(judges: dict[str, Judge], network: Network, rounds: int) -> dict[str, float]:
    """Seconds that each judge takes at least; what it holds it has made before."""
    took: dict[str, list[float]] = defaultdict(list)
    for judge in judges.values():
        judge(network)
    for _ in range(rounds):
        for name, judge in judges.items():
            start = time.perf_counter()
            judge(network)
            took[name].append(time.perf_counter() - start)
    return {name: min(seconds) for name, seconds in took.items()}


if __name__ == "__main__":
    main()
