"""Pruning as a pure function on data: (graph, tensors, kept units) → (graph', tensors')."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from trials.blocks import with_silent_branches, without_blocks
from trials.graph import Graph
from trials.groups import Coupling, Kept, PrunedSizes
from trials.oprules import rule_of

Tensors = Mapping[str, torch.Tensor]


def prune(coupling: Coupling, tensors: Tensors, kept: Kept) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Remove every unit, and every block, that is not kept.

    Tensors that no removed unit touches are shared with the input, not copied.

    Raises:
        RequestError: an unknown group, an index out of range, or a group left without units.
    """
    sizes = PrunedSizes(coupling, coupling.alive(kept))
    indices = [None if mask.all() else torch.from_numpy(np.flatnonzero(mask)) for mask in sizes.masks]
    graph, pruned, specs = coupling.graph, dict(tensors), dict(coupling.graph.tensors)
    for (name, axis), vector in coupling.tensor_axes.items():
        index = indices[vector]
        if index is not None:
            pruned[name] = pruned[name].index_select(axis, index)
            specs[name] = replace(specs[name], shape=tuple(pruned[name].shape))
    nodes = list(graph.nodes)
    for position in coupling.sized:
        nodes[position] = rule_of(nodes[position].op).resize(nodes[position], sizes)
    graph = without_blocks(replace(graph, nodes=tuple(nodes), tensors=specs), coupling.dropped(kept))
    return graph, {name: tensor for name, tensor in pruned.items() if name in graph.tensors}


def mask(coupling: Coupling, tensors: Tensors, kept: Kept) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The dense model with every weight that reads a removed unit, and every dropped branch, set to zero.

    Of units that a product of two values reads, that is what makes them.

    The masked model computes what the pruned one does, at the dense size: the oracle of `trials.proof`.
    """
    alive = coupling.alive(kept)
    masked = dict(tensors)
    for name, axis in coupling.silenced:
        dead = ~coupling.stays(coupling.tensor_axes[name, axis], alive)
        if dead.any():
            masked[name] = masked[name].index_fill(axis, torch.from_numpy(np.flatnonzero(dead)), 0.0)
    return with_silent_branches(coupling.graph, coupling.dropped(kept)), masked
