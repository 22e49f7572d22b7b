"""Muon: steps that turn a matrix of weights in all directions alike, of a length that its norm gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trials.muon import Muon, matrices, orthogonal


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16), (1, 5)])
def test_directions_stay_and_all_of_them_become_about_equally_long(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(1e3 * matrix) @ right.T
    assert lengths.max() > 1.5 * lengths.min() or min(shape) == 1
    assert 0.6 < found.diagonal().min() <= found.diagonal().max() < 1.3
    torch.testing.assert_close(found, found.diagonal().diag(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(6, 10), (6, 3, 3, 3)])
def test_a_step_is_as_long_as_the_rate_says_and_goes_downhill(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(normal(*shape))
    before = weight.detach().clone()
    weight.grad = 1e-6 * normal(*shape, seed=1)
    Muon([weight], lr=0.01).step()
    moved = weight.detach() - before
    torch.testing.assert_close(moved.norm(), 0.01 * before.norm())
    assert (moved * weight.grad).sum() < 0


def test_without_a_gradient_a_weight_stays() -> None:
    without, zero = nn.Parameter(normal(4, 4)), nn.Parameter(normal(4, 4))
    zero.grad = torch.zeros(4, 4)
    Muon([without, zero], lr=1.0).step()
    assert torch.equal(without, normal(4, 4))
    assert torch.equal(zero, normal(4, 4))


def test_momentum_goes_on_where_a_gradient_went_before() -> None:
    weight = nn.Parameter(normal(4, 4))
    optimizer = Muon([weight], lr=0.01)
    weight.grad = normal(4, 4, seed=1)
    optimizer.step()
    between, weight.grad = weight.detach().clone(), torch.zeros(4, 4)
    optimizer.step()
    assert ((weight.detach() - between) * normal(4, 4, seed=1)).sum() < 0


def test_matrices_are_weights_of_layers_that_mix_all_they_read_each_once() -> None:
    shared = nn.Linear(4, 4)
    frozen = nn.Linear(4, 4)
    frozen.weight.requires_grad_(False)
    mixing = [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 2), shared]
    model = nn.Sequential(
        *mixing, shared, frozen, nn.Conv2d(4, 4, 3, groups=4), nn.Embedding(9, 4), nn.LayerNorm(4)
    )
    found = matrices(model)
    assert len(found) == 3
    assert all(weight is layer.weight for weight, layer in zip(found, mixing, strict=True))
