"""Which way of computing is chosen: never one that the model cannot run, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.models import build
from tests.trials.test_evaluate import random_split
from trials.evaluate import Execution, logits
from trials.probe import probe_execution, probe_training


@pytest.mark.parametrize("probe", [probe_execution, probe_training])
def test_a_way_that_the_model_cannot_run_is_not_chosen(probe: Callable[..., Any]) -> None:
    """A view of a channels-last map raises, so only exact float32 is left."""
    model, split = build("vgg_flatten"), random_split(8)
    with pytest.raises(RuntimeError, match="view"):
        logits(model, split, execution=Execution.CHANNELS_LAST)
    assert probe(model, split) is Execution.FLOAT32


def test_a_probe_for_training_leaves_the_model_as_it_was() -> None:
    model = build("resnet_pad").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe_training(model, random_split(16))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
