"""An optimizer that turns each matrix of weights in all of its directions alike.

Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, kellerjordan.github.io;
the orthogonal factor is found by the Newton-Schulz iteration given there. A step is a share of the matrix's
own norm, as in You et al., Large Batch Training of Convolutional Networks, arXiv:1708.03888, section 4, so
that one rate suits every layer of a network that is trained already.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values to about 1, from 1e-3 on."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal.

    Args:
        weights: of layers that mix all of their inputs, outputs first; see `matrices`. Or groups of them.
        lr: how far a weight goes in a step, as a share of its norm.
    """

    def __init__(
        self, weights: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 4e-3, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # training works out its loss by itself: no closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])
                step = orthogonal(ahead.flatten(1)).view_as(weight)
                length = weight.norm() / step.norm().clamp(min=1e-12)
                weight.sub_(step * length, alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are all equal, 1 give or take a third; zero of zero."""
    tall = len(matrix) > matrix.shape[1]
    found: Tensor = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(ITERATIONS):
        square = found @ found.T
        found = a * found + (b * square + c * square @ square) @ found
    return found.T if tall else found


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weights of linear layers and of convolutions, in either direction, that have no groups."""
    found = dict.fromkeys(
        layer.weight
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) and layer.groups == 1)
    )
    return [weight for weight in found if isinstance(weight, nn.Parameter) and weight.requires_grad]
