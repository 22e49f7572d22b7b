"""AMC keeps the contract, and learns: on a toy whose optimum a knapsack computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from benchmarks.controllers_toy import Toy, search, separable
from search.budget import Cost
from search.controllers.amc import AmcController
from search.controllers.protocol import Controller, Reward
from search.controllers.sampling import RandomController
from search.controllers.state import State
from search.knapsack import allocate
from search.sensitivity import Losses
from tests.contracts.controller import SPACE, TARGETS, TRIALS, ControllerContract, cost, losses, play, score
from tests.search import test_loop
from tests.search.test_loop import FakeWorkers, Killed, make_loop, new_store, outcome
from trials.candidate import Space

TOY_TRIALS = 60
WIDE = [(1 - axis.allowed / axis.size) ** 2 for axis in test_loop.SPACE.axes]
"""What each group of the loop's tests costs alone."""


def make(
    seed: int,
    space: Space = SPACE,
    cost: Cost = cost,
    targets: Sequence[float] = TARGETS,
    reward: Reward = "accuracy",
    alone: Losses | None = None,
) -> AmcController:
    features, alone = np.linspace(0, 1, len(space.axes))[:, None], alone or losses(space)
    return AmcController(
        space, cost, targets, seed, features=features, trials=TRIALS, losses=alone, reward=reward
    )


class TestAmcController(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return make(seed, space, cost, targets)

    def test_the_state_of_torchs_global_generator_is_neither_used_nor_changed(self) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = play(self.make(seed=3))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert play(self.make(seed=3)) == first

    def test_it_starts_with_the_knapsacks_answer_for_each_level(self) -> None:
        for proposal in self.make(seed=0).ask(len(TARGETS)):
            assert proposal.candidate == allocate(SPACE, losses(SPACE), cost, proposal.target)


@pytest.mark.parametrize("reward", get_args(Reward))
@pytest.mark.parametrize("told", [0, 5])
def test_one_that_loads_what_another_knew_goes_on_bit_for_bit(
    reward: Reward, told: int, tmp_path: Path
) -> None:
    original, resumed = make(3, reward=reward), make(3, reward=reward)
    others = RandomController(SPACE, cost, TARGETS, 1).ask(3)
    original.tell(score(others))
    asked = list(original.ask(4))
    for number in range(told):
        original.tell(score([asked[number]]))
        asked += original.ask(1)
    original.state().write(tmp_path / "kept")
    state = State.read(tmp_path / "kept")
    assert state
    resumed.load(state, asked, score([*others, *asked[:told]]))
    under_way = asked[told:]
    for _ in range(6):
        for controller in (original, resumed):
            controller.tell(score(under_way))
        under_way = list(original.ask(2))
        assert resumed.ask(2) == under_way
    states = original.state(), resumed.state()
    assert states[0].values == states[1].values
    assert states[0].arrays.keys() == states[1].arrays.keys()
    for name, array in states[0].arrays.items():
        assert array.tobytes() == states[1].arrays[name].tobytes(), name


@pytest.mark.parametrize("changes", [14, 20])
def test_a_job_that_is_killed_goes_on_with_it_as_one_that_was_not(
    changes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.loop.KEPT_EVERY", 3)

    def controller() -> AmcController:
        return make(0, space=test_loop.SPACE, cost=test_loop.cost, targets=(40.0, 60.0), alone=WIDE)

    undisturbed = make_loop(new_store(), controller(), trials=16).run(FakeWorkers(0))
    store, memory = new_store(), tmp_path / "controller"
    store.changes_left = changes
    with pytest.raises(Killed):
        make_loop(store, controller(), trials=16, memory=memory).run(FakeWorkers(1))
    store.changes_left = -1
    assert State.read(memory)
    resumed = make_loop(store, controller(), trials=16, memory=memory).run(FakeWorkers(2))
    assert outcome(resumed) == outcome(undisturbed)


def test_what_was_kept_by_another_version_or_is_damaged_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    assert State.read(path) is None
    make(0).state().write(path)
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    for damaged in (content[:40], flipped, content.replace(b'"F32"', b'"I32"', 1), b"", b"{}" * 9):
        assert damaged != content
        path.write_bytes(damaged)
        assert State.read(path) is None
    path.write_bytes(content)
    assert State.read(path)
    monkeypatch.setattr("search.controllers.state.VERSION", 99)
    assert State.read(path) is None


def test_a_trade_off_stays_under_its_levels_where_little_accuracy_is_lost_by_it() -> None:
    """With accuracy all but equal whatever is kept, -error x log(cost) asks for the least cost."""
    costs = {}
    for reward in get_args(Reward):
        controller, last = make(0, reward=reward), []
        for _ in range(12):
            last = list(controller.ask(3))
            controller.tell(score(last, lambda candidate: 0.5))
        costs[reward] = [float(cost(np.array([each.candidate.kept]))[0]) / each.target for each in last]
    assert min(costs["accuracy"]) > 0.9
    assert max(costs["tradeoff"]) <= 1
    assert np.mean(costs["tradeoff"]) < 0.8


def _knapsack(toy: Toy, target: float) -> float:
    """The best accuracy at one level: groups do not interact, costs are whole numbers of 4 units x price."""
    dense = toy.space.sizes
    budget = int(target // 4)
    least_loss = np.zeros(budget + 1)
    for group, axis in enumerate(toy.space.axes):
        one = np.arange(len(dense)) == group
        options = np.where(one, axis.allowed[:, None], dense)
        losses = -np.log((toy.accuracy(options) - 0.1) / 0.84)
        price = toy.cost(np.where(one, axis.allowed[:, None], 0)) // 4
        reached = np.full(budget + 1, np.inf)
        for loss, units in zip(losses, price.astype(int), strict=True):
            if units <= budget:
                reached[units:] = np.minimum(reached[units:], least_loss[: budget + 1 - units] + loss)
        least_loss = reached
    return float(0.1 + 0.84 * np.exp(-least_loss[budget]))


@pytest.fixture(scope="module", params=range(3))
def gaps(request: pytest.FixtureRequest) -> dict[str, float]:
    """By how much accuracy each controller misses the optimum, on average over the levels."""
    toy = separable(request.param)
    optimum = float(np.mean([_knapsack(toy, target) for target in toy.targets]))
    names = ("amc", "random", "uniform")
    return {name: optimum - search(toy, name, TOY_TRIALS, seed=request.param) for name in names}


def test_no_controller_beats_the_knapsack(gaps: dict[str, float]) -> None:
    assert min(gaps.values()) >= 0


def test_amc_comes_within_half_a_point_of_the_optimum(gaps: dict[str, float]) -> None:
    assert gaps["amc"] < 0.005


def test_amc_halves_the_gap_that_random_search_leaves(gaps: dict[str, float]) -> None:
    assert gaps["amc"] < gaps["random"] / 2
