"""What the user brings: a model that runs on the data, and the groups that a job leaves whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from hwprofiles.errors import BundleError, RequestError
from search.job import Job
from search.model import open_coupling, open_splits
from tests.bundles import export_images, exported


def test_groups_left_whole_are_frozen_with_that_reason_and_the_others_stay() -> None:
    bundle = exported("resnet_pad")
    free = open_coupling(bundle, seed=0)
    held = open_coupling(bundle, seed=0, whole=["conv1", "layer?.0.conv2"])
    left = {"conv1", "layer2.0.conv2", "layer3.0.conv2"}
    assert {group.name for group in free.groups} - {group.name for group in held.groups} == left
    assert {item.name for item in held.frozen if item.reason == "the job leaves it whole"} == left


def test_a_pattern_that_fits_no_group_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        RequestError, match=r"'layer1.0.conv9', which fits no group; did you mean 'layer1.0.conv1'"
    ):
        open_coupling(exported("resnet_pad"), seed=0, whole=["layer1.0.conv9"])


def test_a_job_that_leaves_everything_whole_has_nothing_to_prune() -> None:
    with pytest.raises(RequestError, match="no group that may be pruned"):
        open_coupling(exported("resnet_pad"), seed=0, whole=["*"])


class Transposed(nn.Module):
    """One column of logits per example: at a batch of one, as good as a row of another task."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).transpose(0, 1)


def test_a_model_without_one_row_per_example_is_no_classifier(small_job: Path) -> None:
    with pytest.raises(RequestError, match="one row of logits per example"):
        open_splits(Job.load(small_job), export_images(Transposed(), 1, 8, 8))


def test_a_bundle_that_does_not_run_is_refused_before_anything_else_uses_it(small_job: Path) -> None:
    bundle = export_images(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Linear(4, 10)), 1, 8, 8)
    (image,) = bundle.graph.inputs
    lie = replace(bundle, graph=replace(bundle.graph, inputs=(replace(image, dtype="int64"),)))
    with pytest.raises(BundleError, match="the bundle's network does not run"):
        open_splits(Job.load(small_job), lie)
