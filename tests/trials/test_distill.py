"""A pupil becomes like its teacher, in its outputs and where their maps have one shape."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.bundles import coupled, exported
from tests.models import example_input
from tests.trials.test_finetune import small_net, train, validation
from trials.candidate import Candidate
from trials.data import Split
from trials.distill import FEATURE_WEIGHT, Distillation, common_features
from trials.evaluate import evaluate
from trials.finetune import Training
from trials.groups import even_kept
from trials.network import Network, build
from trials.prune import prune

__all__ = ["train", "validation"]


def pruned(name: str, thin: str) -> Network:
    """A model whose groups of this name keep half of their units."""
    coupling = coupled(name)
    counts = tuple(-(-group.size // 2) if thin in group.name else group.size for group in coupling.groups)
    kept = even_kept(coupling, Candidate(counts))
    return build(*prune(coupling, exported(name).tensors, kept)).eval()


def test_a_teacher_is_imitated_where_labels_say_nothing(train: Split, validation: Split) -> None:
    teacher = small_net(seed=1)
    Training(teacher, train, steps=100, seed=0, batch_size=64, learning_rate=0.05).run()
    unlabelled, pupil = Split(train.inputs, np.zeros_like(train.labels)), small_net()
    recipe: dict[str, Any] = {"steps": 100, "seed": 0, "batch_size": 64, "learning_rate": 0.004}
    Training(pupil, unlabelled, distillation=Distillation(teacher), **recipe).run()
    assert evaluate(pupil, validation).accuracy > 0.9


def test_labels_and_teacher_share_the_loss_by_weight() -> None:
    network, inputs, labels = (
        exported("resnet_pad").network().eval(),
        (example_input("resnet_pad"),),
        torch.tensor([0, 1]),
    )
    teacher = pruned("resnet_pad", ".conv1")

    def loss(weight: float) -> float:
        value: Tensor = Distillation(teacher, weight=weight)(network, inputs, labels)
        return value.item()

    expected = torch.nn.functional.cross_entropy(network(*inputs), labels).item()
    assert loss(0.0) == pytest.approx(expected, rel=1e-5)
    assert loss(0.25) == pytest.approx(0.75 * loss(0.0) + 0.25 * loss(1.0), rel=1e-5)


def test_an_equal_pupil_has_no_loss_and_one_that_differs_before_a_sum_alone_has_that_of_the_sum() -> None:
    name, inputs, labels = "resnet_pad", (example_input("resnet_pad"),), torch.tensor([0, 1])
    teacher = exported(name).network()
    (last, *_) = reversed(common_features(teacher, teacher, inputs))
    value: Tensor = Distillation(teacher, features=(last,))(exported(name).network().eval(), inputs, labels)
    assert value.item() == pytest.approx(0, abs=1e-5)
    pupil = pruned(name, ".conv1")
    plain, featured = (Distillation(teacher, features=each)(pupil, inputs, labels) for each in ((), (last,)))
    ours, theirs = (run_to(network, inputs, last) for network in (teacher, pupil))
    error = (ours - theirs).square().mean() / ours.var()
    assert (featured - plain).item() == pytest.approx(FEATURE_WEIGHT * error.item(), rel=1e-4)


def run_to(network: Network, inputs: tuple[Tensor, ...], name: str) -> Tensor:
    values = network.bind(inputs)
    with torch.no_grad():
        network.run(values, len(inputs[0]), keep=[name])
    value: Tensor = values[name]
    return value


def test_features_are_the_last_sums_of_each_shape_that_both_have() -> None:
    inputs = (example_input("resnet_pad"),)
    dense, inner = exported("resnet_pad").network(), pruned("resnet_pad", ".conv1")
    sums = common_features(dense, inner, inputs)
    shapes = [tuple(run_to(dense.eval(), inputs, name).shape) for name in sums]
    assert len(set(shapes)) == len(shapes) > 1
    assert common_features(dense, pruned("resnet_pad", ""), inputs) == ()


def test_sums_of_dropped_blocks_are_no_features() -> None:
    name, inputs = "resnet_pad", (example_input("resnet_pad"),)
    coupling, last = coupled(name, blocks=True), coupled(name, blocks=True).blocks[-1]
    shorter = build(*prune(coupling, exported(name).tensors, {last.name: np.zeros(0, dtype=np.int64)}))
    dense = exported(name).network()
    whole, left = (common_features(dense, pupil, inputs) for pupil in (dense, shorter))
    assert last.sum in whole
    assert last.sum not in left
    assert whole[:-1] == left[:-1]


def test_statistics_of_batch_norms_stay_under_a_teacher_and_move_without(train: Split) -> None:
    for distillation, moves in ((Distillation(small_net(seed=1)), False), (None, True)):
        pupil = small_net()
        before = copy.deepcopy(pupil.norm.running_mean)
        Training(pupil, train, steps=2, seed=0, distillation=distillation).run()
        assert before is not None
        assert torch.equal(before, pupil.norm.running_mean) != moves
        assert not torch.equal(pupil.norm.weight, torch.ones(16))
