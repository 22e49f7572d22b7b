"""Small plain-torch networks, one for each way that units couple; at most 0.2 M parameters each.

They are written the way people write theirs, with the habits that make pruning hard: in-place activations,
shortcuts without parameters, views, chunks of a fused projection, a class token concatenated in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10
VOCABULARY = 64


class ModelCase(NamedTuple):
    """A factory, and the input that its model takes: the shape without the batch, and its dtype."""

    factory: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dtype: torch.dtype


def build(name: str, seed: int = 0) -> nn.Module:
    """Make a model in eval mode whose normalisations are not the identity, so that a wrong slice shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name].factory()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def example_input(name: str, batch: int = 2, seed: int = 0) -> Tensor:
    """Return (batch, *shape) random inputs: normal floats, or tokens below `VOCABULARY`."""
    _, shape, dtype = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn((batch, *shape), generator=generator, dtype=dtype)
    return torch.randint(VOCABULARY, (batch, *shape), generator=generator, dtype=dtype)


class PadBlock(nn.Module):
    """Two convolutions; the shortcut takes every second pixel and pads the channels on both sides."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.missing = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        out += x
        return F.relu(out)


class ProjectionBlock(nn.Module):
    """Two convolutions with in-place activations; the shortcut is a 1x1 convolution where sizes change."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        activated: Tensor = self.relu(out)
        return activated


class ResNet(nn.Module):
    """Three stages of two blocks with 8, 16 and 32 channels on 16x16 images."""

    def __init__(self, block: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(block(8, 8, 1), block(8, 8, 1))
        self.layer2 = nn.Sequential(block(8, 16, 2), block(16, 16, 1))
        self.layer3 = nn.Sequential(block(16, 32, 2), block(32, 32, 1))
        self.linear = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.shape[3])
        out = out.view(out.shape[0], -1)
        logits: Tensor = self.linear(out)
        return logits


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to its input where both have one shape."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(channels_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(True)]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(True),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(True),
            InvertedResidual(8, 8, 1, expansion=1),
            InvertedResidual(8, 12, 2, expansion=4),
            InvertedResidual(12, 12, 1, expansion=4),
            InvertedResidual(12, 16, 2, expansion=4),
            InvertedResidual(16, 16, 1, expansion=4),
            nn.Conv2d(16, 64, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU6(True),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        logits: Tensor = self.classifier(torch.flatten(out, 1))
        return logits


class DenseLayer(nn.Module):
    """BN-ReLU-conv twice; what it makes is concatenated to what it got."""

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


class Transition(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.relu(self.norm(x)))
        return F.avg_pool2d(out, 2)


class DenseNet(nn.Module):
    """Two dense blocks of three layers, growth 8, a halving transition between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(*(DenseLayer(16 + 8 * k, 8) for k in range(3)))
        self.transition1 = Transition(40, 20)
        self.block2 = nn.Sequential(*(DenseLayer(20 + 8 * k, 8) for k in range(3)))
        self.norm = nn.BatchNorm2d(44)
        self.classifier = nn.Linear(44, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block2(self.transition1(self.block1(self.conv0(x))))
        out = F.relu(self.norm(out)).mean((2, 3))
        logits: Tensor = self.classifier(out)
        return logits


class VggFlatten(nn.Module):
    """Convolutions with biases and max pools; the 4x4 map is flattened into the first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(24 * 4 * 4, 48), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(48, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.features(x)
        out = out.view(out.size(0), -1)
        logits: Tensor = self.classifier(out)
        return logits


class UNet(nn.Module):
    """Two levels down and up: one by a transposed convolution, one by bilinear pixels, and skips beside both.

    A last step brings the map of classes to the size of the image, as segmenters do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.block(3, 24), self.block(24, 40)
        self.middle = self.block(40, 48)
        self.up2 = nn.ConvTranspose2d(48, 36, 2, 2, bias=False)
        self.norm2 = nn.BatchNorm2d(36)
        self.right2 = self.block(36 + 40, 32)
        self.right1 = self.block(32 + 24, 20)
        self.head = nn.Conv2d(20, CLASSES, 1)

    @staticmethod
    def block(channels_in: int, channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        left1 = self.down1(F.avg_pool2d(x, 2))
        left2 = self.down2(F.max_pool2d(left1, 2))
        middle = self.middle(F.max_pool2d(left2, 2))
        up = F.relu(self.norm2(self.up2(middle)))
        right2 = self.right2(torch.cat([up, left2], 1))
        wide = F.interpolate(right2, scale_factor=2, mode="bilinear")
        right1 = self.right1(torch.cat([wide, left1], 1))
        return F.interpolate(self.head(right1), x.shape[2:])


class FusedAttention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        out = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class ModuleAttention(nn.Module):
    """The same through torch's own module."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mha(x, x, x, need_weights=False)[0]
        return out


class EncoderBlock(nn.Module):
    """Pre-LN: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, attention: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Patches of 4x4 on 16x16 images, a class token, learnt positions, two blocks of width 32 and 4 heads."""

    def __init__(self, attention: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        width = 32
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*(EncoderBlock(width, 4, attention) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.dropout(x + self.pos_embed)
        x = self.norm(self.blocks(x))
        logits: Tensor = self.head(x[:, 0])
        return logits


class BertLayer(nn.Module):
    """Post-LN encoder layer with its attention written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.intermediate = nn.Linear(width, 2 * width)
        self.output = nn.Linear(2 * width, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)

    def split_heads(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        return x.view(batch, tokens, self.heads, width // self.heads).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        query = self.split_heads(self.query(x))
        key = self.split_heads(self.key(x))
        value = self.split_heads(self.value(x))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if bias is not None:
            scores = scores + bias
        weights = self.dropout(F.softmax(scores, dim=-1))
        context = (weights @ value).permute(0, 2, 1, 3).contiguous()
        context = context.view(x.shape[0], x.shape[1], -1)
        x = self.attention_norm(x + self.dropout(self.attention_output(context)))
        hidden = F.gelu(self.intermediate(x))
        out: Tensor = self.output_norm(x + self.dropout(self.output(hidden)))
        return out


class Bert(nn.Module):
    """Two layers of width 32 and 4 heads over at most 16 tokens.

    `attention_mask` (batch, tokens) holds 1 for a token to look at and 0 for padding.
    """

    position_ids: Tensor

    def __init__(self) -> None:
        super().__init__()
        width, tokens = 32, 16
        self.word_embeddings = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(tokens, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.embedding_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("position_ids", torch.arange(tokens).unsqueeze(0), persistent=False)
        self.layers = nn.ModuleList(BertLayer(width, 4) for _ in range(2))
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        positions = self.position_ids[:, : input_ids.shape[1]]
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(torch.zeros_like(input_ids))
        x = self.dropout(self.embedding_norm(x + self.position_embeddings(positions)))
        bias = None
        if attention_mask is not None:
            bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, bias)
        pooled = torch.tanh(self.pooler(x[:, 0]))
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def resnet_pad() -> nn.Module:
    return ResNet(PadBlock)


def resnet_projection() -> nn.Module:
    return ResNet(ProjectionBlock)


def vit() -> nn.Module:
    return VisionTransformer(FusedAttention)


def vit_mha() -> nn.Module:
    return VisionTransformer(ModuleAttention)


IMAGE = (3, 16, 16)

MODELS: dict[str, ModelCase] = {
    "resnet_pad": ModelCase(resnet_pad, IMAGE, torch.float32),
    "resnet_projection": ModelCase(resnet_projection, IMAGE, torch.float32),
    "mobilenet_v2": ModelCase(MobileNetV2, IMAGE, torch.float32),
    "densenet": ModelCase(DenseNet, IMAGE, torch.float32),
    "vgg_flatten": ModelCase(VggFlatten, IMAGE, torch.float32),
    "unet": ModelCase(UNet, IMAGE, torch.float32),
    "vit": ModelCase(vit, IMAGE, torch.float32),
    "vit_mha": ModelCase(vit_mha, IMAGE, torch.float32),
    "bert": ModelCase(Bert, (16,), torch.int64),
}
"""By name, for tests that hold for every architecture."""
