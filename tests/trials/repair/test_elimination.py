"""Ridge regression and the order in which units go, against numpy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from tests.bundles import coupled
from tests.models import MODELS
from tests.trials.repair.conftest import calibrated, normal, run, run_pruned, seeded, stem, with_twins
from trials.groups import analyse
from trials.repair import Calibration, Moments, importance, moments, moments_of, sequential
from trials.repair.elimination import eliminate
from trials.repair.moments import Regression


@st.composite
def regressions(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (60, 6) that depend on one another and do not have mean 0, and outputs (60, 3)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((60, 6)) @ rng.standard_normal((6, 6)) + rng.standard_normal(6)
    y = x @ rng.standard_normal((6, 3)) + rng.standard_normal((60, 3)) + 5
    return torch.from_numpy(x), torch.from_numpy(y)


some_features = st.sets(st.integers(0, 5), min_size=1).map(sorted)


@given(regressions(), some_features)
def test_solved_weights_are_those_of_ridge_regression_towards_the_old_ones(
    data: tuple[torch.Tensor, torch.Tensor], features: list[int]
) -> None:
    x, y = data
    old = normal(3, 6)
    found = moments_of(x, y).at(torch.tensor(features), torch.arange(3))
    weights, intercept = found.solve(old[:, features])

    # Ridge regression is least squares with rows added that ask for the old weights and have no intercept.
    kept = x[:, features].numpy()
    pull = np.sqrt(len(x) * (moments.RIDGE * kept.var(axis=0).mean() + 1e-12)) * np.eye(len(features))
    rows = np.block([[kept, np.ones((len(x), 1))], [pull, np.zeros((len(features), 1))]])
    wanted = np.concatenate([y.numpy(), pull @ old[:, features].double().numpy().T])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(weights.numpy(), solution[:-1].T, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(intercept.numpy(), solution[-1], rtol=1e-6, atol=1e-6)


def eliminated_by_brute_force(found: Moments, blocks: NDArray[np.int64]) -> list[int]:
    """Solve anew for every block that might go next."""
    xx, xy = found.xx.numpy(), found.xy.numpy()
    xx = xx + (moments.RIDGE * np.diag(xx).mean() + 1e-12) * np.eye(len(xx))

    def explained(alive: list[int]) -> float:
        kept = blocks[alive].flatten()
        return float((xy[kept] * np.linalg.solve(xx[np.ix_(kept, kept)], xy[kept])).sum())

    alive, gone = list(range(len(blocks))), []
    while len(alive) > 1:
        gone.append(max(alive, key=lambda one: explained([unit for unit in alive if unit != one])))
        alive.remove(gone[-1])
    return gone + alive


@pytest.mark.parametrize("blocks", [[[0], [1], [2], [3], [4], [5]], [[0, 3], [1, 4], [2, 5]]])
@given(data=regressions())
def test_elimination_takes_the_block_that_brute_force_would(
    blocks: list[list[int]], data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    found = moments_of(*data)
    gone = eliminate([(found, torch.tensor(blocks))])
    assert gone == eliminated_by_brute_force(found, np.array(blocks))


@pytest.mark.parametrize("shift", [True, False])
def test_a_regression_on_inputs_it_knows_solves_as_one_that_does_not(shift: bool) -> None:
    x, first, second, old = (
        normal(200, 6) + 2,
        normal(200, 3, seed=1),
        normal(200, 3, seed=2) + 5,
        normal(3, 6),
    )
    regression = Regression(shift=shift)
    for wanted in (first, second):
        solved = regression.solve(zip(x.clone().split(64), wanted.split(64), strict=True), old)
        expected = moments_of(x, wanted, shift=shift).solve(old)
        for part, other in zip(solved, expected, strict=True):
            torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-4)


def test_elimination_keeps_one_of_each_pair_of_equal_features() -> None:
    x = normal(200, 3)[:, [0, 1, 2, 2, 1, 0]]
    *_, first, second, third = eliminate(
        [(moments_of(x, x @ normal(6, 4, seed=1)), torch.arange(6)[:, None])]
    )
    assert {unit if unit < 3 else 5 - unit for unit in (first, second, third)} == {0, 1, 2}


def test_what_all_readers_miss_least_together_goes_first() -> None:
    x, own = normal(400, 3), torch.eye(3)
    parts = [
        (moments_of(x, x @ (own * torch.tensor(weights))), torch.arange(3)[:, None])
        for weights in ([3.0, 1.0, 2.0], [2.0, 1.0, 30.0])
    ]
    # Alone the first reader misses unit 0 most and the second unit 2; each is weighed by what it computes.
    assert [eliminate(parts[:1])[-1], eliminate(parts[1:])[-1]] == [0, 2]
    assert eliminate(parts) == [1, 0, 2]


@pytest.mark.usefixtures("hardly_any_ridge")
def test_by_error_one_of_each_pair_of_twins_is_worth_more_than_any_second() -> None:
    bundle = seeded(lambda: stem(nn.ReLU(), nn.Conv2d(8, 5, 3, dilation=2, padding=2)), 3, 9, 9)
    coupling, inputs = analyse(bundle.graph), normal(200, 3, 9, 9)
    tensors = with_twins(coupling, bundle.tensors)
    (group,) = coupling.groups
    calibration = Calibration(coupling, tensors, [inputs])
    dense = run(coupling, tensors, inputs)
    stay = np.sort(np.argsort(importance(calibration)[group.name])[4:])
    assert sorted(stay % 4) == [0, 1, 2, 3]
    torch.testing.assert_close(
        run_pruned(sequential(calibration, {group.name: stay}), inputs), dense, rtol=1e-3, atol=1e-3
    )
    twins = sequential(calibration, {group.name: np.array([0, 1, 4, 5])})
    assert not torch.allclose(run_pruned(twins, inputs), dense, atol=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_by_error_every_unit_has_a_place_in_the_order_of_its_group(name: str) -> None:
    found = importance(calibrated(name, 64))
    assert found
    for group in coupled(name).groups:
        if group.name in found:
            assert sorted(found[group.name]) == list(range(group.size))


def test_units_that_a_layer_reads_which_cannot_be_refitted_have_no_order() -> None:
    class Shared(nn.Module):
        """The second of two hidden layers runs twice."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.second(self.second(self.first(x).relu()).relu()).relu())
            return result

    bundle = seeded(Shared, 6)
    coupling = analyse(bundle.graph)
    assert coupling.groups
    assert not importance(Calibration(coupling, bundle.tensors, [normal(50, 6)]))
