"""Criteria that look at what units give on examples; labels do not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from trials.criteria.evidence import Evidence, Readings, Scores
from trials.graph import Value
from trials.network import build
from trials.proof import outputs

BATCH = 32


def activation(evidence: Evidence) -> Scores:
    """Mean size of what a unit gives, as layers read it.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR
    2017, arXiv 1611.06440, section 2.2, "Activation". Departure: absolute values, which after a ReLU are the
    same, so that numbers of both signs do not cancel.
    """
    return _mean(evidence, torch.abs)


def apoz(evidence: Evidence) -> Scores:
    """Share of what a unit gives that is above zero: 1 less the average percentage of zeros.

    Source: Hu et al., Network Trimming, arXiv 1607.03250, equation 1. Departure: what is below zero, which
    a ReLU never gives and a GELU often does, counts as zero.
    """
    return _mean(evidence, lambda value: (value > 0).double())


@torch.no_grad()
def _mean(evidence: Evidence, worth: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
    """Mean of a function of what each unit gives, over examples, places and the layers that read it."""
    readings = Readings(evidence.coupling)
    # The same network, with the values that are wanted as its outputs.
    graph = replace(evidence.coupling.graph, outputs=tuple(Value(name) for name in readings.names))
    network = build(graph, evidence.tensors).eval()
    for inputs, _ in evidence.batches(BATCH):
        for name, value in zip(readings.names, outputs(network(*inputs)), strict=True):
            readings.add(name, worth(value))
    return readings.means()
