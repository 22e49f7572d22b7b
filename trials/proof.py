"""The proof that a group may be searched: the masked dense model computes what the pruned model does.

In double precision, where rounding cannot hide an error: a wrong coupling deep in a network may change its
output by as little as single precision does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from hwprofiles.errors import PrunefrontError, one_line
from trials.graph import Arg, Dtype, Graph
from trials.groups import Coupling, Kept
from trials.network import build
from trials.prune import mask, prune
from trials.units import BLOCK

TOLERANCE = 1e-9
"""Largest difference allowed, relative to the largest output of the masked model; rounding makes 1e-14."""
DRAWS = 3
"""Random candidates of half the units that each group is proved with; one of a single unit comes on top."""


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


def outputs(result: torch.Tensor | Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """A model's outputs as a list, whether it returns one or several."""
    return [result] if isinstance(result, torch.Tensor) else list(result)


def largest_difference(
    coupling: Coupling, tensors: Mapping[str, torch.Tensor], kept: Kept, *, seed: int
) -> float:
    """Largest absolute difference of masked and pruned outputs, over the largest masked output."""
    coupling = replace(coupling, graph=_in_double(coupling.graph))
    return _difference(coupling, _awake(tensors, seed), kept, seed)


@torch.no_grad()
def _difference(coupling: Coupling, tensors: Mapping[str, torch.Tensor], kept: Kept, seed: int) -> float:
    """`largest_difference` of a graph and tensors that are in double precision and awake."""
    dense = build(*mask(coupling, tensors, kept)).eval()
    inputs = example_inputs(coupling.graph, 2, seed)
    masked = outputs(dense(*inputs))
    if not all(bool(output.isfinite().all()) for output in masked):
        # Some models take only what is not negative, such as pixels: a root, a logarithm.
        inputs = tuple(x.abs() for x in inputs)
        masked = outputs(dense(*inputs))
    small = outputs(build(*prune(coupling, tensors, kept)).eval()(*inputs))
    worst = 0.0
    for one, other in zip(small, masked, strict=True):
        if one.shape != other.shape or not (one.isfinite().all() and other.isfinite().all()):
            return float("inf")  # a NaN proves nothing
        worst = max(worst, float((one - other).abs().max() / other.abs().max().clamp(min=1e-6)))
    return worst


def _in_double(graph: Graph) -> Graph:
    """The same graph with every floating-point dtype replaced, so that nothing is rounded on the way."""

    def doubled(arg: Arg) -> Arg:
        if isinstance(arg, tuple):
            return tuple(doubled(item) for item in arg)
        return Dtype("float64") if isinstance(arg, Dtype) and "float" in arg.name else arg

    return replace(
        graph,
        inputs=tuple(replace(i, dtype="float64") if "float" in i.dtype else i for i in graph.inputs),
        nodes=tuple(replace(n, args={key: doubled(arg) for key, arg in n.args.items()}) for n in graph.nodes),
    )


def _awake(tensors: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Copies in double precision, with random numbers from 0.5 to 1.5 in those that are all zero.

    A zero in the last norm of a residual branch, where many trainings start, hides every fault in the branch.
    """
    generator = torch.Generator().manual_seed(seed)
    copies = {}
    for name, tensor in tensors.items():
        copy = tensor.double() if tensor.is_floating_point() else tensor.clone()
        if tensor.is_floating_point() and not tensor.any():
            copy = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        copies[name] = copy
    return copies


def prove(coupling: Coupling, tensors: Mapping[str, torch.Tensor], *, seed: int = 0) -> Coupling:
    """Freeze every group whose proof fails.

    Some random candidates prove all groups at once, then some more that drop every other block, and all.
    Where one fails, each group is proved alone with the units that those candidates gave it, which finds the
    culprits; an exception in the pruned model is a failed proof as well.
    """
    tensors = _awake(tensors, seed)
    rng = np.random.default_rng(seed)
    draws = [
        {group.name: _some_units(rng, group.size, share) for group in coupling.groups if group.kind != BLOCK}
        for share in (*[0.5] * DRAWS, 0.0)
    ]
    blocks = [block.name for block in coupling.blocks]
    nothing = np.zeros(0, dtype=np.int64)
    draws += [
        draw | dict.fromkeys(some, nothing)
        for draw, some in zip(draws, (blocks[::2], blocks[1::2], blocks), strict=False)
        if some
    ]
    if not _refusal(coupling, tensors, draws, seed):
        return coupling
    refused = {}
    for group in coupling.groups:
        alone = [{group.name: draw[group.name]} for draw in draws if group.name in draw]
        reason = _refusal(coupling, tensors, alone, seed)
        if reason:
            refused[group.name] = reason
    proved = coupling.without(refused)
    names = {group.name for group in proved.groups}
    left = [{name: units for name, units in draw.items() if name in names} for draw in draws]
    reason = _refusal(proved, tensors, left, seed)
    if reason:
        return proved.without({group.name: f"together with the others, {reason}" for group in proved.groups})
    return proved


def _some_units(rng: np.random.Generator, size: int, share: float) -> np.ndarray:
    """About this share of the units, but one at least."""
    return np.sort(rng.permutation(size)[: max(1, int(share * size))])


def _refusal(
    coupling: Coupling, tensors: Mapping[str, torch.Tensor], draws: Sequence[Kept], seed: int
) -> str:
    """Why pruning is not masking for one of these candidates, or "". The tensors are awake already."""
    coupling = replace(coupling, graph=_in_double(coupling.graph))
    try:
        difference = max(_difference(coupling, tensors, kept, seed) for kept in draws)
    except (PrunefrontError, RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"the pruned model does not run: {one_line(str(error))[:200]}"
    if not difference <= TOLERANCE:
        return f"removing units is not the same as masking them (difference {difference:.1e})"
    return ""
