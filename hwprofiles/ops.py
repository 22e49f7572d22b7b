"""OpSpec: a layer as hardware sees it, the key that models and profiles share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

Size = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class OpSpec:
    """One operator of one network, without its weights and without its batch (that belongs to the device).

    Only `in_channels` and `out_channels` differ between candidates of one model; everything else is the
    operator's `family`. The kinds and what the fields mean for them:

    - `conv2d`, `depthwise_conv2d` (in = out channels; `groups` is 0 because it follows the channels):
      `in_size` (height, width) before padding; `padding` (top, left, bottom, right).
    - `linear`: `in_size` = (rows,), how many vectors one sample multiplies.
    - `attention`: scaled dot product; channels = heads x head width, `kernel` = (head width,), `in_size` =
      (queries, keys).
    - `matmul`: channels = how many matrices, such as heads; `in_size` (rows, inner), `out_size` (rows,
      columns).
    - `max_pool2d`, `avg_pool2d` (`out_size` (1, 1) is a global pool), `layer_norm`, `softmax`, `batch_norm`
      (one that no convolution absorbs), `elementwise` and `copy` (data movement); `fused` of the last two
      names what they do, such as ("add",) or ("pad",).

    `fused` is the epilogue in the model's own order, such as ("batch_norm", "add", "relu"): what follows the
    operator, is used nowhere else, and a backend may run in the same kernel.
    """

    kind: str
    in_channels: int
    out_channels: int
    in_size: Size = ()
    out_size: Size = ()
    kernel: Size = ()
    stride: Size = ()
    padding: Size = ()
    dilation: Size = ()
    groups: int = 1
    fused: tuple[str, ...] = ()

    @property
    def family(self) -> Self:
        """This operator with its channel counts blanked: what pruning cannot change."""
        return replace(self, in_channels=0, out_channels=0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample; what only moves or adds numbers has none."""
        positions, taps = math.prod(self.out_size), math.prod(self.kernel)
        match self.kind:
            case "conv2d":
                return positions * taps * self.in_channels * self.out_channels // self.groups
            case "depthwise_conv2d":
                return positions * taps * self.out_channels
            case "linear":
                return math.prod(self.in_size) * self.in_channels * self.out_channels
            case "attention":
                return 2 * math.prod(self.in_size) * self.out_channels
            case "matmul":
                return math.prod(self.in_size) * self.out_size[1] * self.out_channels
        return 0

    def with_channels(self, in_channels: int, out_channels: int) -> Self:
        return replace(self, in_channels=in_channels, out_channels=out_channels)

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.kernel))
        size = "x".join(map(str, self.in_size))
        epilogue = "".join(f"+{name}" for name in self.fused)
        channels = f"{self.in_channels}->{self.out_channels}"
        return " ".join(part for part in (self.kind, kernel, channels, f"@{size}{epilogue}") if part)
