"""A small network that has learnt the digits, trained once per test run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bundles import export_images
from trials.bundle import Bundle
from trials.data import DataSpec, Splits, load
from trials.finetune import Training


class DigitsNet(nn.Module):
    """Two convolutions of 16 channels on 8x8 pixels, a pool and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        logits: Tensor = self.linear(x.flatten(1))
        return logits


@cache
def digits() -> Splits:
    return load(DataSpec("digits"), Path(), seed=0)


@cache
def digits_bundle() -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DigitsNet()
    Training(model, digits().train, steps=80, seed=0, batch_size=64, learning_rate=0.05).run()
    return export_images(model, 1, 8, 8)
