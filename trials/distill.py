"""The dense model as the teacher of a pruned one: its outputs, and its features where they keep their shape.

Sources: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2 (softened
outputs); Romero et al., FitNets, arXiv:1412.6550, section 2.2 (features; no regressor is needed here, as
units keep their order); Beyer et al., Knowledge distillation: A good teacher is patient and consistent,
arXiv:2106.05237, section 3 (teacher and pupil see the same mixed images).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trials.evaluate import evaluating
from trials.graph import Node
from trials.network import Network

TEMPERATURE = 4.0
FEATURE_WEIGHT = 80.0
"""Of the relative error of features against the divergence of softened outputs; see docs/training.md."""


class Distillation:
    """The loss of a pupil that is to do as its teacher does on a batch that both see.

    Args:
        teacher: the dense model; it is put into eval mode.
        weight: of the teacher, 0..1, against the labels.
        features: names of values that the pupil has in the same shape, see `common_features`; with any,
            teacher and pupil are `Network`s.
    """

    def __init__(self, teacher: nn.Module, *, weight: float = 1.0, features: Sequence[str] = ()) -> None:
        self.teacher, self.weight, self.features = teacher.eval(), weight, tuple(features)

    def __call__(self, pupil: nn.Module, inputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted, wanted_features = _watched(self.teacher, inputs, self.features)
        outputs, features = _watched(pupil, inputs, self.features)
        loss = (1 - self.weight) * F.cross_entropy(outputs, labels) if self.weight < 1 else 0.0
        loss = loss + self.weight * softened_divergence(outputs, wanted)
        for feature, target in zip(features, wanted_features, strict=True):
            error = F.mse_loss(feature, target) / target.var()
            loss = loss + self.weight * FEATURE_WEIGHT / len(features) * error
        return loss


def softened_divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    """KL at `TEMPERATURE`, times its square so that gradients keep their size."""
    softened = F.log_softmax(outputs / TEMPERATURE, dim=1)
    target = F.log_softmax(wanted / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(softened, target, reduction="batchmean", log_target=True)


def common_features(dense: Network, pruned: Network, inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """The last residual sum of each size of maps that both networks have in the same shape, in running order.

    There each unit meets its like. `inputs` is a batch to see the shapes by.
    """
    left = {node.name for node in pruned.graph.nodes}
    sums = [node.name for node in dense.graph.nodes if _is_sum(node) and node.name in left]
    with evaluating(dense), evaluating(pruned), torch.no_grad():
        ours, theirs = (_watched(network, inputs, sums)[1] for network in (dense, pruned))
    last = {a.shape: name for name, a, b in zip(sums, ours, theirs, strict=True) if a.shape == b.shape}
    return tuple(last.values())


def _is_sum(node: Node) -> bool:
    return node.op == "aten.add.Tensor" and len(node.values) == 2


def _watched(model: nn.Module, inputs: Sequence[Tensor], names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """A model's (rows, classes) logits and its values of these names, float32."""
    if not names:
        logits: Tensor = model(*inputs)
        return logits.float(), []
    assert isinstance(model, Network)
    values = model.bind(inputs)
    model.run(values, len(inputs[0]), keep=names)
    return model.outputs(values).float(), [values[name].float() for name in names]
