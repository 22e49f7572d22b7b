"""Groups that a job leaves whole."""

from __future__ import annotations

import pytest

from hwprofiles.errors import RequestError
from search.model import open_coupling
from tests.bundles import exported


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
