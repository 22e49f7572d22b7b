"""Make the checkpoints of this folder: each network on the train split of the digits alone.

python examples/architectures/train.py
"""

from __future__ import annotations

from pathlib import Path

import model
import torch
from safetensors.torch import save_file

from trials.augment import Augment
from trials.data import DataSpec, load
from trials.evaluate import evaluate
from trials.finetune import Training
from trials.probe import probe_execution

FOLDER = Path(__file__).parent
RECIPES = {"mobilenet_v2": (1000, 0.05), "densenet": (600, 0.05), "vit": (2000, 0.02)}
"""Network → steps and peak learning rate."""


def main() -> None:
    splits = load(DataSpec(source="digits"), FOLDER, seed=0)
    assert splits.test is not None
    for name, (steps, learning_rate) in RECIPES.items():
        torch.manual_seed(0)
        network = getattr(model, name)()
        Training(
            network,
            splits.train,
            steps=steps,
            seed=0,
            batch_size=64,
            learning_rate=learning_rate,
            augment=Augment.SHIFT,
            execution=probe_execution(network, splits.train),
        ).run()
        half = {
            key: value.half() if value.is_floating_point() else value
            for key, value in network.state_dict().items()
        }
        network.load_state_dict(half)
        save_file(half, FOLDER / f"{name}.safetensors")
        print(f"{name}: test {evaluate(network, splits.test).accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
