"""Networks of full size with random weights, for benchmarks that time them: latency does not read weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cifar import resnet56
from tests.models import BertLayer, EncoderBlock, FusedAttention, InvertedResidual
from trials.graph import Input

MOBILENET_STAGES = (  # expansion, channels, repeats, stride; table 2 of arXiv:1801.04381
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0 is a max pool


def _conv(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, arXiv:1801.04381, width 1.0."""
    layers: list[nn.Module] = [_conv(3, 32, 3, 2), nn.ReLU6()]
    width = 32
    for expansion, channels, repeats, stride in MOBILENET_STAGES:
        for repeat in range(repeats):
            layers.append(InvertedResidual(width, channels, 1 if repeat else stride, expansion))
            width = channels
    return nn.Sequential(
        *layers,
        _conv(width, 1280, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1280, 1000),
    )


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(channels_in, channels, 3, stride)
        self.second = _conv(channels, channels, 3)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else _conv(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def resnet18() -> nn.Module:
    """He et al. 2015, arXiv:1512.03385, table 1."""
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [BasicBlock(before, after, 1 if before == after else 2) for before, after in pairwise(widths)]
    return nn.Sequential(
        _conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
    )  # fmt: skip


class Bottleneck(nn.Module):
    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(channels_in, width, 1)
        self.second = _conv(width, width, 3, stride)
        self.third = _conv(width, 4 * width, 1)
        same = stride == 1 and channels_in == 4 * width
        self.shortcut = nn.Identity() if same else _conv(channels_in, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.second(F.relu(self.first(x))))
        return F.relu(self.third(out) + self.shortcut(x))


def resnet50() -> nn.Module:
    """He et al. 2015, arXiv:1512.03385, table 1."""
    blocks: list[nn.Module] = []
    channels = 64
    for width, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for repeat in range(repeats):
            blocks.append(Bottleneck(channels, width, 1 if repeat else stride))
            channels = 4 * width
    return nn.Sequential(
        _conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000),
    )  # fmt: skip


def vgg16() -> nn.Module:
    """Simonyan and Zisserman 2014, arXiv:1409.1556, with batch norm and one linear layer, for 32x32."""
    layers: list[nn.Module] = []
    width = 3
    for channels in VGG16:
        layers += [_conv(width, channels, 3), nn.ReLU()] if channels else [nn.MaxPool2d(2)]
        width = channels or width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class UNet(nn.Module):
    """Ronneberger et al. 2015, arXiv:1505.04597, of three levels: up by transposed filters and by pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.left1, self.left2 = self._level(3, width), self._level(width, 2 * width)
        self.bottom = self._level(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.right2, self.right1 = self._level(4 * width, 2 * width), self._level(3 * width, width)
        self.head = nn.Conv2d(width, 10, 1)

    @staticmethod
    def _level(channels_in: int, channels: int) -> nn.Module:
        twice = (_conv(channels_in, channels, 3), nn.ReLU(), _conv(channels, channels, 3), nn.ReLU())
        return nn.Sequential(*twice)

    def forward(self, x: Tensor) -> Tensor:
        left1 = self.left1(x)
        left2 = self.left2(F.max_pool2d(left1, 2))
        bottom = self.bottom(F.max_pool2d(left2, 2))
        right2 = self.right2(torch.cat([self.up2(bottom), left2], 1))
        wide = F.interpolate(right2, scale_factor=2, mode="bilinear")
        out: Tensor = self.head(self.right1(torch.cat([wide, left1], 1)))
        return out


class Vit(nn.Module):
    """DeiT-Ti without its class token's distillation, arXiv:2012.12877: 16x16 patches, width 192, 3 heads."""

    def __init__(self, depth: int = 12, width: int = 192, heads: int = 3, tokens: int = 196) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 16, 16)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, FusedAttention) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


class Bert(nn.Module):
    """Four layers of width 312 and 12 heads over 64 tokens: the shape of TinyBERT, arXiv:1909.10351."""

    def __init__(self, depth: int = 4, width: int = 312, heads: int = 12, tokens: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, width)
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(BertLayer(width, heads) for _ in range(depth))
        self.classifier = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.positions)
        for layer in self.layers:
            x = layer(x, None)
        logits: Tensor = self.classifier(x[:, 0])
        return logits


@dataclass(frozen=True)
class Entry:
    build: Callable[[], nn.Module]
    input: Input


ZOO = {
    "resnet56": Entry(resnet56, Input(name="x", shape=(3, 32, 32))),
    "mobilenet_v2": Entry(mobilenet_v2, Input(name="x", shape=(3, 224, 224))),
    "resnet18": Entry(resnet18, Input(name="x", shape=(3, 224, 224))),
    "vgg16": Entry(vgg16, Input(name="x", shape=(3, 32, 32))),
    "unet": Entry(UNet, Input(name="x", shape=(3, 64, 64))),
    "vit": Entry(Vit, Input(name="x", shape=(3, 224, 224))),
    "bert": Entry(Bert, Input(name="ids", shape=(64,), dtype="int64")),
}
