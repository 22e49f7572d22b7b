"""Single weights that are zero, beside whole units that are gone: a share of them, or some of every few.

The weights of convolutions and linear layers count; biases, norms and embeddings stay. A mask says where
weights stay. It is only kept by whoever sets what it hides to zero again after the weights changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from trials.network import Network
from trials.weights import layer_weights

Masks = Mapping[str, torch.Tensor]
"""Weight → True where it stays, in its shape; a weight left out stays whole."""
Scope = Literal["global", "layer"]


class Sparsity(Protocol):
    """How many weights of a network are zero, and where they may be."""

    def masks(self, network: Network, progress: float = 1.0) -> Masks:
        """Choose the weights that stay, the largest in size.

        Args:
            progress: share of all zeros that are wanted that should be there by now, 0..1.
        """
        ...


@dataclass(frozen=True, slots=True)
class Magnitude:
    """The smallest weights are zero: this share of all of them (`global`), or of those of each layer.

    Of equal weights those go that `torch.nn.utils.prune` would take, which this agrees with: its
    `global_unstructured` and `l1_unstructured`.

    Source: Han et al., Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015,
    arXiv 1506.02626, section 3.
    """

    zeros: float
    scope: Scope = "global"

    def masks(self, network: Network, progress: float = 1.0) -> Masks:
        sizes = {name: weight.abs() for name, weight in _weights(network).items()}
        if self.scope == "layer":
            return {name: self._largest(each, progress) for name, each in sizes.items()}
        stay = self._largest(torch.cat([each.flatten() for each in sizes.values()]), progress)
        parts = torch.split(stay, [each.numel() for each in sizes.values()])
        return {name: part.view_as(sizes[name]) for name, part in zip(sizes, parts, strict=True)}

    def _largest(self, sizes: torch.Tensor, progress: float) -> torch.Tensor:
        stay = torch.ones_like(sizes, dtype=torch.bool)
        count = round(self.zeros * progress * sizes.numel())
        stay.view(-1)[sizes.view(-1).topk(count, largest=False).indices] = False
        return stay


@dataclass(frozen=True, slots=True)
class Blocks:
    """At most `stay` of every `size` weights along a layer's inputs are not zero, such as 2 of 4.

    A block is `size` consecutive input channels of one output at one place of the kernel, as sparse tensor
    cores read them. A layer whose inputs are no multiple of `size` stays whole: no kernel takes it.

    Sources: Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv 2104.08378;
    TensorRT's developer guide, "Structured Sparsity", for the direction in convolutions.
    """

    stay: int
    size: int

    def masks(self, network: Network, progress: float = 1.0) -> Masks:
        gone = round((self.size - self.stay) * progress)
        axes, found = layer_weights(network.graph), {}
        for name, weight in _weights(network).items():
            if weight.shape[axes[name]] % self.size == 0:
                sizes = weight.abs().movedim(axes[name], -1)
                sizes = sizes.reshape(*sizes.shape[:-1], -1, self.size)
                order = sizes.argsort(dim=-1, stable=True)  # of equal weights the first goes
                blocks = torch.ones_like(sizes, dtype=torch.bool)
                blocks.scatter_(-1, order[..., :gone], False)
                found[name] = blocks.flatten(-2).movedim(-1, axes[name])
        return found


def read_sparsity(zeros: str | float, scope: Scope = "global") -> Sparsity:
    """What a job file asks for, and has checked: a share of zeros, or how many of how many stay, as "2:4"."""
    if isinstance(zeros, str):
        stay, size = map(int, zeros.split(":"))
        return Blocks(stay, size)
    return Magnitude(zeros, scope)


@torch.no_grad()
def hide(network: Network, masks: Masks) -> None:
    """Set what masks hide to zero."""
    weights = _weights(network)
    for name, stay in masks.items():
        weights[name].masked_fill_(~stay, 0.0)


def _weights(network: Network) -> dict[str, torch.Tensor]:
    """The weights of a network's layers, for reading or writing in place."""
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: held[name].detach() for name in layer_weights(network.graph)}
