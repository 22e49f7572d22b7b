"""What a layer reads and makes, at sampled places of its output, as rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trials.graph import Node
from trials.repair.layers import Layer

Size = Sequence[int]


def outputs_at(layer: Layer, value: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
    """(inputs x places, channels) of a value with the layer's output shape."""
    return _places(layer, value)[:, pick].flatten(0, 1)


def inputs_at(layer: Layer, value: torch.Tensor, pick: torch.Tensor, made: Size) -> torch.Tensor:
    """(inputs x places, features), fresh memory: all numbers that outputs at these places are sums of.

    Args:
        value: what the layer reads.
        made: the sizes of what it makes along its axes of places; of a linear layer anything.
    """
    places = _places(layer, value)
    if not layer.spatial:
        return places[:, pick].flatten(0, 1)
    index = _read_from(layer, pick, tuple(value.shape[2:]), made)
    found = places.index_select(1, index.clamp(min=0).flatten())
    found[:, index.flatten() < 0] = 0
    return found.reshape(len(value) * len(pick), -1)


def _places(layer: Layer, value: torch.Tensor) -> torch.Tensor:
    """(inputs, places, channels): of what convolutions read the places, else the rows along its last axis."""
    if layer.spatial:
        return value.movedim(1, -1).flatten(1, -2)
    return value.reshape(len(value), -1, value.shape[-1])


def _read_from(layer: Layer, pick: torch.Tensor, size: Size, made: Size) -> torch.Tensor:
    """(places, taps) the pixels that places of the output read, -1 for zeros around or between them."""
    index, known = torch.zeros(len(pick), 1, dtype=torch.int64), torch.ones(len(pick), 1, dtype=torch.bool)
    for axis, place in enumerate(torch.unravel_index(pick, tuple(made))):
        read = _along(layer, axis, place, size[axis])[:, None, :]
        index = (index[:, :, None] * size[axis] + read).flatten(1)
        known = (known[:, :, None] & (read >= 0)).flatten(1)
    return torch.where(known, index, -1)


def _along(layer: Layer, axis: int, place: torch.Tensor, size: int) -> torch.Tensor:
    """(places, taps) of one axis."""
    node, kernel = layer.node, layer.shape[2 + axis]
    stride = node["stride"][axis]
    tap = torch.arange(kernel) * node["dilation"][axis]
    before = _padding(node, axis, kernel)
    if layer.transposed:
        spread = place[:, None] + before - tap
        read, exists = spread // stride, spread % stride == 0
    else:
        read = place[:, None] * stride - before + tap
        exists = torch.ones_like(read, dtype=torch.bool)
    return torch.where(exists & (read >= 0) & (read < size), read, -1)


def _padding(node: Node, axis: int, kernel: int) -> int:
    """Zeros before the first pixel."""
    padding = node["padding"]
    if isinstance(padding, str):
        return node["dilation"][axis] * (kernel - 1) // 2 if padding == "same" else 0
    return int(padding[axis])
