"""Criteria that ask how the loss changes when a unit's weights become zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from trials.criteria.evidence import Evidence, Scores, Tensors
from trials.network import build


def taylor(evidence: Evidence) -> Scores:
    """Squared first-order change of the loss when a unit's weights become zero, added over batches of 64.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, arXiv 1906.10771,
    equations 7 and 8.
    """
    totals = {group.name: np.zeros(group.size) for group in evidence.coupling.groups}
    for gradients in _gradients(evidence, rows=64):
        change = {name: evidence.tensors[name] * gradient for name, gradient in gradients.items()}
        for name, scores in evidence.added(lambda part: part.sum(1), evidence.own, change).items():
            totals[name] += scores**2
    return totals


def fisher(evidence: Evidence) -> Scores:
    """Second-order change of the loss, with the diagonal of the empirical Fisher information as curvature.

    Half the squared weights times the mean squared gradient of single examples, added up over a unit.

    Source: LeCun, Denker and Solla, Optimal Brain Damage, NIPS 1989, for the saliency h w^2 / 2; the Fisher
    information in place of the Hessian as in Theis et al., Faster Gaze Prediction with Dense Networks and
    Fisher Pruning, arXiv 1801.05787, section 2. Departure: its diagonal is over weights, not feature maps.
    """
    squares: dict[str, torch.Tensor] = {}
    for gradients in _gradients(evidence, rows=1):
        for name, gradient in gradients.items():
            squares[name] = squares[name] + gradient.square() if name in squares else gradient.square()
    rise = {
        name: evidence.tensors[name].square() * square / (2 * len(evidence.examples))
        for name, square in squares.items()
    }
    zeros = {group.name: np.zeros(group.size) for group in evidence.coupling.groups}
    return {**zeros, **evidence.added(lambda part: part.sum(1), evidence.own, rise)}


def _gradients(evidence: Evidence, rows: int) -> Iterator[Tensors]:
    """For each batch, the gradients of its mean loss in eval mode, by the names of the parameters.

    Those of frozen ones, too: a unit is worth as much whether its weights are trained or not.
    """
    tensors = {name: tensor.clone() for name, tensor in evidence.tensors.items()}
    network = build(evidence.coupling.graph, tensors).eval().requires_grad_()
    for inputs, labels in evidence.batches(rows):
        network.zero_grad()
        loss: torch.Tensor = F.cross_entropy(network(*inputs), labels)
        loss.backward()
        yield {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
