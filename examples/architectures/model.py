"""Three networks for 8x8 digits, for three ways that units couple: depthwise, concatenated, and attended."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; the hidden channels are one group through both norms and the depthwise."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Sandler et al., arXiv:1801.04381, at the size of a digit."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True),
            InvertedResidual(width, width, 1, expansion),
            InvertedResidual(width, width, 1, expansion),
            InvertedResidual(width, 2 * width, 2, expansion),
            InvertedResidual(2 * width, 2 * width, 1, expansion),
            nn.Conv2d(2 * width, 8 * width, 1, bias=False),
            nn.BatchNorm2d(8 * width),
            nn.ReLU6(inplace=True),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8 * width, 10))

    def forward(self, x: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1)
        logits: Tensor = self.classifier(out)
        return logits


class DenseLayer(nn.Module):
    """Norm, activation, convolution, twice; what it makes is concatenated to what it got."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return torch.cat([x, out], 1)


class DenseNet(nn.Module):
    """Huang et al., arXiv:1608.06993: two dense blocks and a transition that halves channels and pixels."""

    def __init__(self, growth: int, layers: int) -> None:
        super().__init__()
        first, last = 2 * growth + layers * growth, (2 * growth + layers * growth) // 2
        self.stem = nn.Conv2d(1, 2 * growth, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(*(DenseLayer((2 + i) * growth, growth) for i in range(layers)))
        self.transition_norm = nn.BatchNorm2d(first)
        self.transition = nn.Conv2d(first, last, 1, bias=False)
        self.block2 = nn.Sequential(*(DenseLayer(last + i * growth, growth) for i in range(layers)))
        self.norm = nn.BatchNorm2d(last + layers * growth)
        self.head = nn.Linear(last + layers * growth, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block1(self.stem(x))
        out = F.avg_pool2d(self.transition(F.relu(self.transition_norm(out))), 2)
        out = F.relu(self.norm(self.block2(out))).mean((2, 3))
        logits: Tensor = self.head(out)
        return logits


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Dosovitskiy et al., arXiv:2010.11929: 2x2 patches of an 8x8 image, so 16 tokens and a class token."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, 2, 2)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        logits: Tensor = self.head(x[:, 0])
        return logits


def mobilenet_v2(width: int = 32, expansion: int = 4) -> nn.Module:
    return MobileNetV2(width, expansion)


def densenet(growth: int = 32, layers: int = 4) -> nn.Module:
    return DenseNet(growth, layers)


def vit(width: int = 64, depth: int = 4, heads: int = 4) -> nn.Module:
    return VisionTransformer(width, depth, heads)
