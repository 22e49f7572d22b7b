"""Make resnet.safetensors: train the network on the train split alone, then report on the test split.

    python examples/digits/train.py

Validation and test images are never trained on, and nothing here was chosen by looking at them. Weights are
stored as float16, which halves the file and changes no prediction.
"""

from __future__ import annotations

from pathlib import Path

import torch
from model import resnet
from safetensors.torch import save_file

from trials.augment import Augment
from trials.data import DataSpec, load
from trials.evaluate import evaluate
from trials.finetune import Training
from trials.probe import probe_execution

FOLDER = Path(__file__).parent
STEPS = 800


def main() -> None:
    splits = load(DataSpec(source="digits"), FOLDER, seed=0)
    assert splits.test is not None
    torch.manual_seed(0)
    model = resnet()
    Training(
        model,
        splits.train,
        steps=STEPS,
        seed=0,
        batch_size=64,
        learning_rate=0.05,
        augment=Augment.SHIFT,
        execution=probe_execution(model, splits.train),
    ).run(progress=report)
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(half)
    save_file(half, FOLDER / "resnet.safetensors")
    print(f"validation {evaluate(model, splits.validation).accuracy:.4f}")
    print(f"test       {evaluate(model, splits.test).accuracy:.4f}")


def report(step: int, loss: float) -> None:
    if step % 50 == 0:
        print(f"step {step} of {STEPS}, loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
