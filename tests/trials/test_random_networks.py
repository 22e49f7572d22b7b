"""Networks that nobody wrote: whatever groups they have are proved, counted and written as ONNX."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings

from tests.bundles import export_images
from tests.networks import IMAGE, Program, RandomNetwork, programs
from tests.trials.test_onnx_file import assert_same_outputs
from trials.bundle import Bundle
from trials.candidate import Candidate, as_counts
from trials.costs import Costs
from trials.groups import Coupling, analyse, even_kept
from trials.onnx_file import write_onnx
from trials.proof import prove
from trials.prune import prune
from trials.units import BLOCK


def assert_proved_and_counted(program: Program) -> tuple[Bundle, Coupling, Candidate]:
    """Every group stands its proof, and half of all costs what the network with half of all does."""
    bundle = export_images(RandomNetwork(program).eval(), *IMAGE)
    coupling = analyse(bundle.graph, blocks=True)
    assert prove(coupling, bundle.tensors).frozen == coupling.frozen
    half = Candidate(
        tuple(
            position % 2 if group.kind == BLOCK else -(-group.size // 2)
            for position, group in enumerate(coupling.groups)
        )
    )
    graph, _ = prune(coupling, bundle.tensors, even_kept(coupling, half))
    macs = sum(operator.spec.macs for operator in Costs(analyse(graph)).operators)
    assert Costs(coupling).macs(as_counts([half])).tolist() == [macs]
    return bundle, coupling, half


@given(program=programs)
@settings(max_examples=50, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_random_networks_are_pruned_as_they_are_masked(program: Program) -> None:
    assert_proved_and_counted(program)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(program=programs)
@settings(max_examples=500, suppress_health_check=list(HealthCheck))
def test_many_random_networks_are_pruned_as_they_are_masked_and_compute_the_same_in_onnx(
    program: Program,
) -> None:
    bundle, coupling, half = assert_proved_and_counted(program)
    graph, tensors = prune(coupling, bundle.tensors, even_kept(coupling, half))
    with TemporaryDirectory() as folder:
        write_onnx(graph, tensors, Path(folder) / "half.onnx")
        assert_same_outputs(Path(folder) / "half.onnx", graph, tensors, batch=3)
