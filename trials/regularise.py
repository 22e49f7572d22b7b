"""Training that drives units, scales of norms or single weights to zero, for pruning to find them there.

A penalty is a constraint on `trials.finetune`: after each step of the optimizer it takes a proximal step,
which unlike a term of the loss reaches zero itself.

Source: Parikh and Boyd, Proximal Algorithms, Foundations and Trends in Optimization 1(3), 2014, sections 4.2
(the proximal gradient method) and 6.5 (soft thresholds, also in blocks). Departure: the steps between have
momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from hwprofiles.errors import RequestError
from trials.finetune import Constraint
from trials.groups import Coupling
from trials.network import Network
from trials.weights import layer_weights, norm_scales

Threshold = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(sizes, amounts) → what each number or unit of such a size is multiplied by, 0..1."""


def soft(sizes: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Make everything smaller by the amount, to zero at least: the proximal step of a sum of sizes."""
    return (1 - amounts / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)).clamp(min=0)


def hard(sizes: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Zero what is at most the root of twice the amount, and leave the rest: that of a count of non-zeros.

    Source: Blumensath and Davies, Iterative Thresholding for Sparse Approximations, Journal of Fourier
    Analysis and Applications 14, 2008.
    """
    return (sizes > (2 * amounts).sqrt()).to(sizes.dtype)


class Penalty(Protocol):
    def __call__(
        self, network: Network, coupling: Coupling, strength: float, threshold: Threshold
    ) -> Constraint:
        """A constraint that shrinks numbers of `network`, of which `coupling` knows the groups.

        Args:
            strength: a step shrinks by this times the learning rate.
        """
        ...


def l1(network: Network, coupling: Coupling, strength: float, threshold: Threshold) -> Constraint:
    """Every weight of convolutions and linear layers on its own.

    Source: Tibshirani, Regression Shrinkage and Selection via the Lasso, JRSS B 58(1), 1996.
    """
    return _each(network, list(layer_weights(network.graph)), strength, threshold)


def batchnorm(network: Network, coupling: Coupling, strength: float, threshold: Threshold) -> Constraint:
    """Every scale of batch norms on its own.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
    arXiv 1708.06519, section 3. Departure: a proximal step in place of its subgradient.

    Raises:
        RequestError: the network has no batch norm with scales.
    """
    scales = norm_scales(network.graph)
    if not scales:
        raise RequestError(
            "penalty 'batchnorm' shrinks the scales of batch norms, of which this model has none; choose "
            "another, such as 'group_lasso'"
        )
    return _each(network, scales, strength, threshold)


def _each(network: Network, names: Sequence[str], strength: float, threshold: Threshold) -> Constraint:
    held = dict(network.named_parameters())
    tensors = [held[name] for name in names if name in held]

    @torch.no_grad()
    def shrink(done: int, learning_rate: float) -> None:
        amount = torch.tensor(learning_rate * strength)
        for tensor in tensors:
            tensor.mul_(threshold(tensor.abs(), amount))

    return shrink


def group_lasso(network: Network, coupling: Coupling, strength: float, threshold: Threshold) -> Constraint:
    """Each unit as a whole: all weights that make it, over all layers, with its biases and norms.

    A unit's amount is times the root of how many numbers it has. What reads units is left out: then no number
    belongs to two units and the step is exact, and a unit is silent once all that makes it is zero. Only of
    attention a number belongs to a head and to a place of its width, and shrinks by what both ask for.

    Sources: Yuan and Lin, Model Selection and Estimation in Regression with Grouped Variables, JRSS B 68(1),
    2006, section 2; on structures of networks Wen et al., Learning Structured Sparsity in Deep Neural
    Networks, NIPS 2016, arXiv 1608.03665, section 3.
    """
    held = dict(network.named_parameters())
    classes = [torch.from_numpy(found) for found in coupling.vectors]
    own = [
        (held[name], axis, classes[vector])
        for (name, axis), vector in coupling.tensor_axes.items()
        if name in held and (name, axis) not in coupling.contracted
    ]
    sizes = torch.zeros(coupling.classes + 1)
    for tensor, axis, lines in own:
        for line in lines:
            sizes.index_add_(0, line, torch.full(line.shape, tensor.numel() / tensor.shape[axis]))
    units = torch.from_numpy(np.concatenate([group.units for group in coupling.groups]))

    @torch.no_grad()
    def shrink(done: int, learning_rate: float) -> None:
        squares = torch.zeros(coupling.classes + 1)
        for tensor, axis, lines in own:
            numbers = tensor.square().movedim(axis, 0).reshape(tensor.shape[axis], -1).sum(1)
            for line in lines:
                squares.index_add_(0, line, numbers)
        factors = torch.ones(coupling.classes + 1)
        amounts = learning_rate * strength * sizes.sqrt()
        factors[units] = threshold(squares.sqrt(), amounts)[units]
        for tensor, axis, lines in own:
            tensor.movedim(axis, -1).mul_(factors[lines].prod(0))

    return shrink


PENALTIES: Mapping[str, Penalty] = {"l1": l1, "group_lasso": group_lasso, "batchnorm": batchnorm}
THRESHOLDS: Mapping[str, Threshold] = {"soft": soft, "hard": hard}
