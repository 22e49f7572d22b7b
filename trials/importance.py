"""Criteria: one score per unit of each group; the lowest-scored units go first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from hwprofiles.errors import RequestError, nearest
from trials.candidate import Candidate
from trials.groups import Coupling, Kept
from trials.network import build

Scores = Mapping[str, NDArray[np.float64]]
"""Group name → (size,) score of each unit."""
Tensors = Mapping[str, torch.Tensor]


def per_unit(coupling: Coupling, elements: Callable[[str, int], torch.Tensor | None]) -> Scores:
    """Add up scores of tensor positions over each unit.

    Args:
        elements: (tensor, axis) → (size of the axis,) scores of its positions, or None to leave it out.
    """
    totals = np.zeros(coupling.classes + 1)
    for (tensor, axis), vector in coupling.tensor_axes.items():
        scores = elements(tensor, axis)
        if scores is not None:
            np.add.at(totals, coupling.vectors[vector], scores.double().numpy())
    return {group.name: totals[group.units] for group in coupling.groups}


def _over(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Sum over every axis but one, of which a bias has none."""
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1).sum(1)


def l1(coupling: Coupling, tensors: Tensors) -> Scores:
    """Sum of the absolute weights that make a unit.

    Source: Li et al., Pruning Filters for Efficient ConvNets, arXiv 1608.08710, section 3.1.
    """

    def elements(tensor: str, axis: int) -> torch.Tensor | None:
        return _over(tensors[tensor].abs(), axis) if (tensor, axis) in coupling.made else None

    return per_unit(coupling, elements)


def taylor(
    coupling: Coupling, tensors: Tensors, inputs: tuple[torch.Tensor, ...], labels: torch.Tensor
) -> Scores:
    """Squared first-order change of the loss when a unit's weights become zero, added over batches of 64.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, equations 7 and 8.
    """
    network = build(coupling.graph, {name: tensor.clone() for name, tensor in tensors.items()}).eval()
    parameters = dict(network.named_parameters())
    totals = {group.name: np.zeros(group.size) for group in coupling.groups}
    for start in range(0, len(labels), 64):
        rows = slice(start, start + 64)
        network.zero_grad()
        loss: torch.Tensor = F.cross_entropy(network(*(x[rows] for x in inputs)), labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        change = {
            name: (parameter.detach() * parameter.grad)
            for name, parameter in parameters.items()
            if parameter.grad is not None
        }

        def elements(
            tensor: str, axis: int, change: Mapping[str, torch.Tensor] = change
        ) -> torch.Tensor | None:
            # Zeroing what makes a unit and zeroing what reads it are the same removal: count it once.
            found = change.get(tensor)
            return None if found is None or (tensor, axis) in coupling.contracted else _over(found, axis)

        for name, scores in per_unit(coupling, elements).items():
            totals[name] += scores**2
    return totals


def select(coupling: Coupling, scores: Scores, candidate: Candidate) -> Kept:
    """Keep the highest-scored units of each group; of equal scores, the first. Whole groups are left out."""
    kept = {}
    for group, count in zip(coupling.groups, candidate.kept, strict=True):
        if count < group.size:
            order = np.argsort(-scores[group.name], kind="stable")
            kept[group.name] = np.sort(order[:count])
    return kept


CRITERIA = ("l1", "taylor")


def score(
    criterion: str,
    coupling: Coupling,
    tensors: Tensors,
    inputs: tuple[torch.Tensor, ...],
    labels: torch.Tensor,
) -> Scores:
    """Scores by a criterion's name; `inputs` and `labels` are a calibration set from the train split.

    Raises:
        RequestError: no criterion of that name.
    """
    if criterion == "l1":
        return l1(coupling, tensors)
    if criterion == "taylor":
        return taylor(coupling, tensors, inputs, labels)
    raise RequestError(f"there is no criterion {criterion!r}; {nearest(criterion, CRITERIA)}")
