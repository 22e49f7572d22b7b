"""The layer of torch that does what a node of a graph does, where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from trials.graph import Graph, Node, Tensor

Ranks = Mapping[str, int]
"""Number of axes of each value as far as the names of ops tell; 0 where that would take a trace."""


def layer_of(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    """A layer for a node, its tensors still to be put in place; None where no layer does the same."""
    return _LAYERS[node.op](node, tensors, ranks) if node.op in _LAYERS else None


def ranks_of(graph: Graph) -> Ranks:
    ranks = {item.name: 1 + len(item.shape) for item in graph.inputs}
    for node in graph.nodes:
        first = next(iter(node.values), "") if node.op.startswith(_KEEP_RANK) else ""
        ranks[node.name] = 4 if "2d" in node.op else 3 if "1d" in node.op else ranks.get(first, 0)
    return ranks


_KEEP_RANK = tuple(f"aten.{op}." for op in ("add", "cat", "mul", "relu", "hardtanh", "batch_norm", "dropout"))


def _layer(cls: Callable[..., nn.Module], widths: Mapping[str, int], **settings: Any) -> nn.Module:
    """A layer whose tensors take no memory and no time to initialise; they are put in place next.

    Constructors cost most of a candidate's time and only widths differ between candidates, so one layer of
    width 1 is made for all of them and copied.
    """
    template = _width_one(cls, tuple(widths), **settings)
    own = {
        name: value.copy() if isinstance(value, dict | set) else value
        for name, value in vars(template).items()
    }
    layer: nn.Module = object.__new__(type(template))
    layer.__dict__ = own | dict(widths)
    return layer


@cache
def _width_one(cls: Callable[..., nn.Module], widths: tuple[str, ...], **settings: Any) -> nn.Module:
    return cls(**dict.fromkeys(widths, 1), **settings, device="meta")


Make = Callable[[Node, Mapping[str, torch.Tensor], Ranks], nn.Module | None]
"""Makes the layer of a node, or None where no layer does the same."""


def _convolution(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    weight = tensors[node["weight"].name]
    return _layer(
        nn.Conv2d if weight.ndim == 4 else nn.Conv1d,
        {
            "in_channels": weight.shape[1] * node["groups"],
            "out_channels": weight.shape[0],
            "groups": node["groups"],
        },
        kernel_size=tuple(weight.shape[2:]),
        stride=node["stride"],
        padding=node["padding"],
        dilation=node["dilation"],
        bias=node["bias"] is not None,
    )


def _linear(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    weight = tensors[node["weight"].name]
    widths = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    return _layer(nn.Linear, widths, bias=node["bias"] is not None)


def _batch_norm(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    if not all(isinstance(node[name], Tensor) for name in ("weight", "bias", "running_mean", "running_var")):
        return None
    rank = ranks[node["input"].name]
    if rank not in (2, 3, 4):
        return None
    widths = {"num_features": tensors[node["weight"].name].shape[0]}
    cls = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
    return _layer(cls, widths, eps=node["eps"], momentum=node["momentum"])


def _layer_norm(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    if not isinstance(node["weight"], Tensor):
        return None
    bias = isinstance(node["bias"], Tensor)
    return _layer(nn.LayerNorm, {}, normalized_shape=node["normalized_shape"], eps=node["eps"], bias=bias)


def _embedding(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    count, width = tensors[node["weight"].name].shape
    padding = node["padding_idx"] if node["padding_idx"] >= 0 else None
    return _layer(nn.Embedding, {"embedding_dim": width}, num_embeddings=count, padding_idx=padding)


def _dropout(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    return nn.Dropout(node["p"])


_LAYERS: dict[str, Make] = {
    "aten.conv1d.default": _convolution,
    "aten.conv1d.padding": _convolution,
    "aten.conv2d.default": _convolution,
    "aten.conv2d.padding": _convolution,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.embedding.default": _embedding,
    "aten.dropout.default": _dropout,
}
