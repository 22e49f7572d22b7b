"""Penalties: steps worked out by hand, and trainings after which units go without a trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.errors import RequestError
from tests.bundles import coupled, exported
from tests.digits import digits, digits_bundle
from trials.candidate import Candidate
from trials.criteria import Evidence, score, select
from trials.finetune import Training
from trials.groups import analyse
from trials.network import Network, build
from trials.prune import prune
from trials.regularise import PENALTIES, THRESHOLDS, batchnorm, group_lasso, hard, l1, soft

LABEL = torch.tensor([0])
size = st.floats(0.01, 10)


@given(size=size, amount=size)
def test_a_soft_step_solves_the_problem_that_it_is_the_step_of(size: float, amount: float) -> None:
    """The least of (z - size)^2 / 2 + amount |z|, on a grid."""
    found = size * float(soft(torch.tensor([size]), torch.tensor(amount)))
    grid = np.linspace(0, 10, 10_001)
    best = grid[np.argmin((grid - size) ** 2 / 2 + amount * grid)]
    assert found == pytest.approx(best, abs=2e-3)


@given(size=size, amount=size)
def test_a_hard_step_keeps_or_drops_by_what_costs_less(size: float, amount: float) -> None:
    """Of (z - size)^2 / 2 + amount [z is not 0], the least is at `size` or at 0."""
    if math.isclose(amount, size**2 / 2, rel_tol=1e-4):
        return
    assert float(hard(torch.tensor([size]), torch.tensor(amount))) == (amount < size**2 / 2)


def test_nothing_becomes_nothing_and_no_number_that_is_none() -> None:
    assert float(soft(torch.zeros(1), torch.zeros(()))) * 0 == 0
    assert float(hard(torch.zeros(1), torch.zeros(()))) * 0 == 0


def test_group_lasso_shrinks_each_unit_by_its_own_length_over_all_layers_that_make_it() -> None:
    coupling, network = coupled("resnet_projection"), exported("resnet_projection").network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    group = coupling.group("conv1")
    makers = ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    norms = ("bn1", "layer1.0.bn2", "layer1.1.bn2")
    own = [f"{name}.weight" for name in (*makers, *norms)] + [f"{name}.bias" for name in norms]
    numbers = sum(before[name][0].numel() for name in own)
    length = torch.sqrt(sum((before[name].flatten(1) if before[name].ndim > 1 else before[name][:, None])
                            .square().sum(1) for name in own))  # fmt: skip
    group_lasso(network, coupling, 0.5, soft)(1, 0.1)
    expected = (1 - 0.1 * 0.5 * math.sqrt(numbers) / length).clamp(min=0)
    after = network.state_dict()
    for name in own:
        factors = expected.reshape(-1, *[1] * (before[name].ndim - 1))
        torch.testing.assert_close(after[name], before[name] * factors, msg=name)
    assert group.size == len(expected)
    for name in ("bn1.running_mean", "linear.weight", "linear.bias"):
        assert torch.equal(after[name], before[name]), f"{name} makes no unit"


def test_a_penalty_on_single_numbers_shrinks_weights_or_scales_and_nothing_else() -> None:
    for penalty, shrunk in ((l1, "conv1.weight"), (batchnorm, "bn1.weight")):
        network = exported("resnet_projection").network()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        penalty(network, coupled("resnet_projection"), 0.1, soft)(1, 0.1)
        after, old = network.state_dict(), before[shrunk]
        torch.testing.assert_close(after[shrunk], old.sign() * (old.abs() - 0.01).clamp(min=0))
        changed = {name for name in before if not torch.equal(after[name], before[name])}
        kinds = {before[name].ndim for name in changed}
        assert kinds <= ({4, 2} if penalty is l1 else {1})
        assert not any(name.endswith("bias") for name in changed)


def test_a_model_without_batch_norms_has_no_scales_to_shrink() -> None:
    with pytest.raises(RequestError, match="this model has none; choose another, such as 'group_lasso'"):
        batchnorm(exported("vit").network(), coupled("vit"), 1.0, soft)


def driven(penalty: str, threshold: str, strength: float) -> Network:
    """The digits' network after 60 steps under a penalty."""
    network = digits_bundle().network()
    constraint = PENALTIES[penalty](network, analyse(network.graph), strength, THRESHOLDS[threshold])
    Training(network, digits().train, steps=60, seed=0, batch_size=64, constraint=constraint).run()
    return network


@pytest.mark.parametrize(("threshold", "strength"), [("soft", 0.35), ("hard", 4.0)])
def test_units_that_group_lasso_drove_to_zero_go_without_a_trace(threshold: str, strength: float) -> None:
    network = driven("group_lasso", threshold, strength)
    coupling, tensors = analyse(network.graph), network.state_dict()
    scores = score("l1", Evidence(coupling, tensors, digits().train))
    alive = tuple(int((scores[group.name] > 0).sum()) for group in coupling.groups)
    assert min(alive) > 0
    assert sum(alive) < 32
    kept = select(coupling, scores, Candidate(alive))
    small = build(*prune(coupling, tensors, kept)).eval()
    images = torch.from_numpy(digits().validation.batch(slice(0, 64))[0][0])
    with torch.no_grad():
        torch.testing.assert_close(small(images), network(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("penalty", "strength"), [("l1", 0.01), ("batchnorm", 3.0)])
def test_a_stronger_penalty_leaves_more_zeros(penalty: str, strength: float) -> None:
    def zeros(strength: float) -> int:
        return sum(int((tensor == 0).sum()) for tensor in driven(penalty, "soft", strength).parameters())

    assert zeros(strength / 10) < zeros(strength)
