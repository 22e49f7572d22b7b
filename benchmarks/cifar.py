"""CIFAR-10 ResNets whose parameter names match the checkpoints of the data folder beside the repository.

`resnet20` and `resnet56` have shortcuts without parameters; `resnet20_projection` has 1x1 convolutions.
A job names them as factories; `load_checkpoint` and `load_splits` are for scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from trials.data import DataSpec, Normalize, Splits, SplitSpec, load

DATA = Path(__file__).parents[2] / "shared" / "data"


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: padded, or a 1x1 convolution when `projection` is asked for."""

    def __init__(self, channels_in: int, channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - channels_in) // 2
        self.downsample: nn.Module | None = None
        if projection and self.padding:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2: 6n + 2 layers on (batch, 3, 32, 32); arXiv:1512.03385."""

    def __init__(self, blocks: int, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, projection)
        self.layer2 = self._stage(blocks, 16, 32, projection)
        self.layer3 = self._stage(blocks, 32, 64, projection)
        # The checkpoints come from two code bases, which call the classifier by different names.
        self.classifier = "fc" if projection else "linear"
        self.add_module(self.classifier, nn.Linear(64, 10))

    @staticmethod
    def _stage(blocks: int, channels_in: int, channels: int, projection: bool) -> nn.Sequential:
        first = Block(channels_in, channels, 1 if channels == channels_in else 2, projection)
        return nn.Sequential(first, *(Block(channels, channels, 1, projection) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.shape[3]).flatten(1)
        logits: Tensor = self.get_submodule(self.classifier)(out)
        return logits


def resnet20() -> nn.Module:
    return CifarResNet(blocks=3)


def resnet56() -> nn.Module:
    return CifarResNet(blocks=9)


def resnet20_projection() -> nn.Module:
    return CifarResNet(blocks=3, projection=True)


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: its file in the data folder, how to build it, what its input was normalised by."""

    file: str
    factory: Callable[[], nn.Module]
    normalize: Normalize
    test_accuracy: float


IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = Normalize(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
HALF = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

CHECKPOINTS = {
    "resnet20": Checkpoint("resnet20_cifar10", resnet20, IMAGENET, 0.9173),
    "resnet56": Checkpoint("resnet56_cifar10", resnet56, IMAGENET, 0.9339),
    "resnet20_cifar_norm": Checkpoint("resnet20_projb_cifar10", resnet20, CIFAR, 0.9291),
    "resnet20_projection": Checkpoint("resnet20_proj_cifar10", resnet20_projection, HALF, 0.9171),
}


def load_checkpoint(name: str) -> nn.Module:
    """Build and load one of `CHECKPOINTS`, in eval mode."""
    checkpoint = CHECKPOINTS[name]
    model = checkpoint.factory()
    model.load_state_dict(load_file(DATA / "checkpoints" / f"{checkpoint.file}.safetensors"))
    return model.eval()


def load_splits(name: str, train_rows: tuple[int, int] = (0, 50000)) -> Splits:
    """CIFAR-10 for one of `CHECKPOINTS`: the first 5 000 test images search, the other 5 000 report."""
    spec = DataSpec(
        source="parquet",
        train=SplitSpec("cifar10_train.parquet", train_rows),
        validation=SplitSpec("cifar10_test.parquet", (0, 5000)),
        test=SplitSpec("cifar10_test.parquet", (5000, 10000)),
        normalize=CHECKPOINTS[name].normalize,
    )
    return load(spec, DATA, seed=0)
