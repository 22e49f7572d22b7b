"""The proof that a group may be searched: the masked dense model computes what the pruned model does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hwprofiles.errors import PrunefrontError
from trials.graph import Graph
from trials.groups import Coupling, Kept
from trials.network import build
from trials.prune import mask, prune

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest output of the dense model."""


def example_inputs(graph: Graph, batch: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Random inputs of the declared shapes: normal floats, integers below each input's `high`."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for item in graph.inputs:
        shape, dtype = (batch, *item.shape), getattr(torch, item.dtype)
        if dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            made.append(torch.randint(0, item.high, shape, generator=generator).to(dtype))
    return tuple(made)


def outputs(result: object) -> list[torch.Tensor]:
    """A model's outputs as a list, whether it returns one or several."""
    return [result] if isinstance(result, torch.Tensor) else list(result)  # type: ignore[call-overload]


@torch.no_grad()
def largest_difference(
    coupling: Coupling, tensors: Mapping[str, torch.Tensor], kept: Kept, *, seed: int
) -> float:
    """Largest absolute difference of masked and pruned outputs, over the largest dense output."""
    inputs = example_inputs(coupling.graph, 2, seed)
    graph, pruned = prune(coupling, tensors, kept)
    small = outputs(build(graph, pruned).eval()(*inputs))
    masked = outputs(build(coupling.graph, mask(coupling, tensors, kept)).eval()(*inputs))
    worst = 0.0
    for one, other in zip(small, masked, strict=True):
        if one.shape != other.shape:
            return float("inf")
        scale = max(1e-6, float(other.abs().max()))
        worst = max(worst, float((one - other).abs().max()) / scale)
    return worst


def prove(coupling: Coupling, tensors: Mapping[str, torch.Tensor], *, seed: int = 0) -> Coupling:
    """Freeze every group whose proof fails, then prove all of them together.

    Each group loses a random half of its units. The difference must stay within `TOLERANCE`; an exception in
    the pruned model is a failed proof as well.
    """
    rng = np.random.default_rng(seed)
    refused: dict[str, str] = {}
    for group in coupling.groups:
        reason = _refusal(coupling, tensors, {group.name: _random_half(rng, group.size)}, seed)
        if reason:
            refused[group.name] = reason
    proved = coupling.without(refused)
    together = {group.name: _random_half(rng, group.size) for group in proved.groups}
    reason = _refusal(proved, tensors, together, seed)
    if reason:
        return proved.without({group.name: f"together with the others, {reason}" for group in proved.groups})
    return proved


def _random_half(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.sort(rng.permutation(size)[: max(1, size // 2)])


def _refusal(coupling: Coupling, tensors: Mapping[str, torch.Tensor], kept: Kept, seed: int) -> str:
    try:
        difference = largest_difference(coupling, tensors, kept, seed=seed)
    except (PrunefrontError, RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"the pruned model does not run: {str(error).splitlines()[0][:200]}"
    if not difference <= TOLERANCE:
        return f"removing units is not the same as masking them (difference {difference:.1e})"
    return ""
