"""What a calibration keeps of the dense model: moments in half their matrix, and targets within a limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.bundles import coupled
from tests.trials.repair.conftest import calibrated, halves, normal
from trials.network import build
from trials.repair import Calibration, Inputs, calibration, moments, moments_of, sequential
from trials.repair.calibration import walk


@given(
    features=st.integers(1, 11),
    picked=st.lists(st.integers(0, 10), max_size=12),
    parts=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    shift=st.booleans(),
)
def test_rows_of_moments_are_those_of_the_whole_matrix_in_any_order(
    features: int, picked: list[int], parts: list[int], shift: bool
) -> None:
    x = (normal(sum(parts), 11) @ normal(11, 11, seed=1) + 3).double()[:, :features]
    rows = [pick for pick in picked if pick < features]
    found = Inputs(shift=shift)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "BLOCK", 4)
        for part in x.split(parts):
            found.add(part.clone())
    means = x.mean(0) if shift else torch.zeros(features)
    whole = (x - means).T @ (x - means) / len(x)
    np.testing.assert_allclose(found.rows(torch.tensor(rows, dtype=torch.int64)), whole[rows], atol=1e-12)
    np.testing.assert_allclose(found.means, means, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet_pad", "vgg_flatten", "vit"])
@torch.no_grad()
def test_moments_of_what_layers_make_follow_from_their_weights(name: str) -> None:
    found = calibrated(name, 64)
    by_node = {layer.name: layer for layer in found.layers}
    checked = 0
    for node, values in walk(build(coupled(name).graph, found.tensors).eval(), found.chunks):
        if node.name in by_node:
            layer = by_node[node.name]
            x = torch.cat(list(found.read(layer, values[node["input"].name])))
            y = torch.cat(found.made(layer, values[node.name]))
            wanted, own = moments_of(x, y, shift=bool(layer.intercept)), found.moments(layer)
            torch.testing.assert_close(own.xx, wanted.xx, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(own.xy, wanted.xy, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(own.y_mean, wanted.y_mean, rtol=1e-4, atol=1e-4)
            checked += 1
    assert checked == len(found.layers)


def held_bytes(found: Calibration) -> int:
    return sum(part.nbytes for parts in found._targets.values() for part in parts)


def test_targets_that_are_not_held_all_at_once_make_the_same_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = halves(coupled("resnet_pad"))
    at_once = calibrated("resnet_pad", 64)
    _, wanted = sequential(at_once, kept)
    limit = held_bytes(at_once) // 3
    assert at_once.targets(at_once.layers[0]) is at_once.targets(at_once.layers[0])
    monkeypatch.setattr(calibration, "TARGET_BYTES", limit)
    found = calibrated("resnet_pad", 64)
    for layer in found.layers:
        parts = found.targets(layer)
        assert all(torch.equal(*pair) for pair in zip(parts, at_once.targets(layer), strict=True))
        assert 0 < held_bytes(found) <= limit
    _, repaired = sequential(found, kept)
    assert all(torch.equal(repaired[name], wanted[name]) for name in wanted)
