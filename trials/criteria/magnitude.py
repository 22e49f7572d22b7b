"""Criteria that look at weights alone, and so need no data."""

from __future__ import annotations

import numpy as np
import torch

from hwprofiles.errors import RequestError
from trials.criteria.evidence import Evidence, Scores
from trials.weights import norm_scales


def l1(evidence: Evidence) -> Scores:
    """Sum of the absolute weights that make a unit.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv 1608.08710, section 3.1.
    """
    return evidence.added(lambda part: part.abs().sum(1), evidence.coupling.made)


def l2(evidence: Evidence) -> Scores:
    """Euclidean length of all weights that make a unit, over all layers that make it.

    Source: He et al., Soft Filter Pruning, IJCAI 2018, arXiv 1808.06866, section 3.2, "Filter
    selection", with p = 2.
    """
    squares = evidence.added(lambda part: part.square().sum(1), evidence.coupling.made)
    return {name: np.sqrt(scores) for name, scores in squares.items()}


def batchnorm(evidence: Evidence) -> Scores:
    """Absolute scale of the batch norms that a unit passes; groups that pass none are scored by `l1`.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
    arXiv 1708.06519, section 3. Departure: scales are compared within a group, not over the whole network,
    since a candidate says how many units each group keeps.

    Raises:
        RequestError: no group passes a batch norm.
    """
    scales = {(name, 0) for name in norm_scales(evidence.coupling.graph)}
    found = evidence.added(lambda part: part.abs().sum(1), scales)
    if not found:
        raise RequestError(
            "criterion 'batchnorm' reads the scales of batch norms, and no group of this model passes one; "
            "choose another, such as 'l1'"
        )
    return {**l1(evidence), **found}


def geometric_median(evidence: Evidence) -> Scores:
    """Sum of the distances from a unit's weights to those of the other units of its group, in each layer.

    What lies nearest to the geometric median of its layer is what the others can best stand in for.

    Source: He et al., Filter Pruning via Geometric Median, CVPR 2019, arXiv 1811.00250, section of
    that name.
    """
    return evidence.added(lambda part: torch.cdist(part, part).sum(1), evidence.coupling.made)


def lamp(evidence: Evidence) -> Scores:
    """Sum of the layer-adaptive scores of the weights that make a unit.

    Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, arXiv 2010.07611,
    definition of the LAMP score. Departures: the scores of a unit's weights are added up, and weights of
    equal size share one score, where the paper takes them in the order of their index.
    """
    values = {name: _lamp(evidence.tensors[name]) for name, _ in evidence.coupling.made}
    return evidence.added(lambda part: part.sum(1), evidence.coupling.made, values)


def _lamp(tensor: torch.Tensor) -> torch.Tensor:
    """Square of each weight over the sum of the squares of all that are at least as large in size."""
    squares = tensor.double().flatten().square()
    ordered = squares.sort().values
    at_least = ordered.flip(0).cumsum(0).flip(0)[torch.searchsorted(ordered, squares)]
    return (squares / at_least.clamp(min=torch.finfo(torch.float64).tiny)).reshape(tensor.shape)
