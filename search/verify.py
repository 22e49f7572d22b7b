"""The proof that an exported file computes what the torch network computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from hwprofiles.errors import TrialError
from hwprofiles.runtimes.onnx_cpu import run_onnx
from trials.graph import Graph
from trials.network import build
from trials.proof import example_inputs, outputs

TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest value of the torch network's output."""


@torch.no_grad()
def check_onnx(path: Path, graph: Graph, tensors: Mapping[str, torch.Tensor]) -> float:
    """Compare an ONNX file with the network it was written from, on random inputs at batch 1 and 3.

    Returns:
        The largest difference of any output, relative to that output's largest value.

    Raises:
        TrialError: an output has another shape or differs by more than `TOLERANCE`.
        RequestError: ONNX Runtime does not load or run the file.
    """
    network = build(graph, tensors).eval()
    worst = 0.0
    for batch in (1, 3):
        inputs = example_inputs(graph, batch, seed=batch)
        wanted = outputs(network(*inputs))
        feeds = {item.name: x.numpy() for item, x in zip(graph.inputs, inputs, strict=True)}
        found = [torch.from_numpy(array) for array in run_onnx(path, feeds)]
        for position, (one, other) in enumerate(zip(found, wanted, strict=True)):
            where = f"output {position} of {path} at batch {batch}"
            if one.shape != other.shape:
                raise TrialError(
                    f"{where} has shape {list(one.shape)}, the torch network's has {list(other.shape)}"
                )
            difference = float((one - other).abs().max()) / max(1e-6, float(other.abs().max()))
            if not difference <= TOLERANCE:  # also where it is NaN
                raise TrialError(
                    f"{where} differs from the torch network's by {difference:.1e} of its largest value; "
                    f"at most {TOLERANCE:.0e} is allowed: export another trial"
                )
            worst = max(worst, difference)
    return worst
