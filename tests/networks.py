"""Random small networks of every op that couples units, as a strategy for hypothesis."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Run = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""A piece of a network: the last value and all values so far → the next one."""
Piece = Callable[["RandomNetwork", Tensor, Sequence[Tensor], int], Run | None]
"""Makes a piece that fits the last value, or None where none does; the integer is for it to choose by."""

IMAGE = (3, 8, 8)
MOST_CHANNELS, MOST_PIXELS = 24, 256

Program = Sequence[tuple[int, int]]
"""(piece, choice) of each step; what does not fit is left out."""


def _program(seed: int, length: int) -> Program:
    numbers = random.Random(seed)
    return [(numbers.randrange(2**16), numbers.randrange(2**16)) for _ in range(length)]


# By seed, because what hypothesis draws number by number is mostly alike; failures shrink by their length.
programs = st.builds(_program, st.integers(0, 2**16), st.integers(3, 8))


class RandomNetwork(nn.Module):
    """A convolution, the pieces of a program, and a linear layer over what comes out."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.steps: list[Run] = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            values = [self.add(nn.Conv2d(3, 12, 3, padding=1))(torch.rand(2, *IMAGE))]
            for piece, choice in program:
                pieces = MAPS if values[-1].ndim == 4 else TOKENS
                step = pieces[piece % len(pieces)](self, values[-1], values, choice)
                if step is not None:
                    self.steps.append(step)
                    values.append(step(values[-1], values))
            self.tail = nn.Linear(values[-1][0].numel(), 3)

    def add(self, layer: nn.Module) -> nn.Module:
        """Keep a layer, with statistics that are not the identity."""
        for tensor in (*layer.buffers(), *layer.parameters()):
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
        self.layers.append(layer.eval())
        return layer

    def forward(self, x: Tensor) -> Tensor:
        values = [self.layers[0](x)]
        for step in self.steps:
            values.append(step(values[-1], values))
        out: Tensor = self.tail(values[-1].flatten(1))
        return out


class Gain(nn.Module):
    """A parameter that a network uses as it likes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self) -> Tensor:
        return self.weight


def divisors(*numbers: int) -> Iterator[int]:
    return (size for size in range(1, min(numbers) + 1) if not any(number % size for number in numbers))


def pick(choices: Iterator[int], choice: int) -> int:
    found = list(choices)
    return found[choice % len(found)]


def alone(layer: Callable[[Tensor], Tensor]) -> Run:
    return lambda x, values: layer(x)


def beside(values: Sequence[Tensor], choice: int, fits: Callable[[Tensor], bool]) -> int | None:
    """The place of an earlier value that fits, if any."""
    places = [place for place, value in enumerate(values[:-1]) if fits(value)]
    return places[choice % len(places)] if places else None


def convolution(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    groups = pick(divisors(x.shape[1]), choice)
    made = groups * (1 + choice % 5) if groups < 6 else groups
    kernel, dilation = (3, 1 + choice % 2) if choice % 3 else (1, 1)
    padding = dilation * (kernel // 2)
    return alone(
        net.add(nn.Conv2d(x.shape[1], made, kernel, padding=padding, dilation=dilation, groups=groups))
    )


def transposed(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    if x.shape[2] * x.shape[3] * 4 > MOST_PIXELS:
        return None
    groups = pick(divisors(x.shape[1]), choice)
    return alone(net.add(nn.ConvTranspose2d(x.shape[1], groups * (1 + choice % 3), 2, 2, groups=groups)))


def norm(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    channels = x.shape[1]
    groups = pick(divisors(channels), choice)
    kinds = [nn.BatchNorm2d(channels), nn.GroupNorm(groups, channels)]
    return alone(net.add(kinds[choice % 2]))


def activation(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    return alone([F.relu, F.silu, F.hardswish, torch.tanh][choice % 4])


def pool(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    if min(x.shape[2:]) < 4:
        return None
    return alone(lambda x: F.max_pool2d(x, 2) if choice % 2 else F.avg_pool2d(x, 3, 2, 1))


def resize(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    if x.shape[2] * x.shape[3] * 4 > MOST_PIXELS:
        return None
    return alone(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear" if choice % 2 else "nearest"))


def shuffle(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    channels, height, width = x.shape[1:]
    if choice % 3 == 0 and channels % 4 == 0 and height * width * 4 <= MOST_PIXELS:
        return alone(lambda x: F.pixel_shuffle(x, 2))
    if choice % 3 == 1 and channels * 4 <= MOST_CHANNELS and height % 2 == width % 2 == 0:
        return alone(lambda x: F.pixel_unshuffle(x, 2))
    parts = pick(divisors(channels), choice)
    return alone(lambda x: x.unflatten(1, (parts, -1)).transpose(1, 2).flatten(1, 2))


def squeeze_excitation(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    down, up = net.add(nn.Conv2d(x.shape[1], 4, 1)), net.add(nn.Conv2d(4, x.shape[1], 1))
    return alone(lambda x: x * up(F.relu(down(F.adaptive_avg_pool2d(x, 1)))).sigmoid())


def spatial_gate(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    gate = net.add(nn.Conv2d(x.shape[1], 1, 3, padding=1))
    return alone(lambda x: x * gate(x).sigmoid())


def residual(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    other = beside(values, choice, lambda value: value.shape == x.shape)
    return None if other is None else lambda x, values: x + values[other]


def joined(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    room = MOST_CHANNELS - x.shape[1]
    other = beside(
        values, choice, lambda v: v.ndim == 4 and v.shape[2:] == x.shape[2:] and v.shape[1] <= room
    )
    return None if other is None else lambda x, values: torch.cat([x, values[other]], 1)


def halves(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    if x.shape[1] % 2:
        return None
    swapped = alone(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1))
    return [swapped, alone(lambda x: F.glu(x, 1)), alone(lambda x: x[:, : x.shape[1] // 2])][choice % 3]


def padded(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    before, after = choice % 3, choice % 4
    if x.shape[1] + before + after > MOST_CHANNELS:
        return None
    return alone(lambda x: F.pad(x, (0, 0, 0, 0, before, after)))


def layer_scale(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    gain = net.add(Gain(x.shape[1]))
    return alone(lambda x: x * gain().view(1, -1, 1, 1))


def channels_last(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    """A ConvNeXt block: norm and MLP over the last axis."""
    channels = x.shape[1]
    layer_norm, up, down = nn.LayerNorm(channels), nn.Linear(channels, 6), nn.Linear(6, channels)
    mlp = nn.Sequential(*map(net.add, (layer_norm, up, nn.GELU(), down)))
    return alone(lambda x: x + mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def tokens(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    return alone(lambda x: x.flatten(2).transpose(1, 2)) if x.shape[2] * x.shape[3] <= 64 else None


def linear(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    layer = net.add(nn.Linear(x.shape[2], 4 + choice % 9))
    return alone(lambda x: F.gelu(layer(x)) if choice % 2 else layer(x))


def token_norm(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    width = x.shape[2]
    gain = net.add(Gain(width))
    kinds: list[Callable[[Tensor], Tensor]] = [
        net.add(nn.LayerNorm(width)),
        lambda x: F.rms_norm(x, (width,), gain()),
        lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * gain(),
    ]
    return alone(kinds[choice % 3])


def gated_mlp(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    width = x.shape[2]
    gate, up, down = (net.add(nn.Linear(*sizes)) for sizes in ((width, 10), (width, 5), (5, width)))
    return alone(lambda x: down(F.glu(gate(x), -1) * up(x)))


def attention(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    """Several heads, with as many of keys and values or fewer; by the op, written out, or by letters."""
    heads, kv_heads, wide = [(2, 2, 4), (4, 2, 2), (4, 1, 2), (3, 3, 3)][choice % 4]
    width, counts = x.shape[2], (heads, kv_heads, kv_heads)
    fused = net.add(nn.Linear(width, sum(counts) * wide))
    out = net.add(nn.Linear(heads * wide, width))
    way = choice % 3 if kv_heads == heads else 0

    def run(x: Tensor) -> Tensor:
        parts = fused(x).split([count * wide for count in counts], -1)
        q, k, v = (part.unflatten(-1, (-1, wide)).transpose(1, 2) for part in parts)
        if way == 0:
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=kv_heads < heads)
        elif way == 1:
            mixed = (q @ k.transpose(-1, -2) / wide**0.5).softmax(-1) @ v
        else:
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k)
            mixed = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
        result: Tensor = out(mixed.transpose(1, 2).flatten(2))
        return result if choice % 5 else x + result

    return alone(run)


def class_token(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    token = net.add(Gain(x.shape[2]))
    return alone(lambda x: torch.cat([token().view(1, 1, -1).expand(x.shape[0], -1, -1), x], 1))


def token_mixing(net: RandomNetwork, x: Tensor, values: Sequence[Tensor], choice: int) -> Run | None:
    layer = net.add(nn.Linear(x.shape[1], 4))
    return alone(lambda x: layer(x.transpose(1, 2)).transpose(1, 2))


MAPS: list[Piece] = [
    convolution, transposed, norm, activation, pool, resize, shuffle, squeeze_excitation, spatial_gate,
    residual, joined, halves, padded, layer_scale, channels_last, tokens, convolution, residual,
]  # fmt: skip
TOKENS: list[Piece] = [
    linear, token_norm, gated_mlp, attention, class_token, token_mixing, residual, linear, attention,
]  # fmt: skip
