"""The baselines, and how controllers are made by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from hwprofiles.errors import RequestError
from search.budget import Cost, project
from search.controllers import NAMES, make
from search.controllers.protocol import Controller
from search.controllers.sampling import RandomController
from search.controllers.uniform import UniformController
from tests.contracts.controller import BLOCKS, SPACE, TARGETS, ControllerContract, cost, losses, play
from trials.candidate import Space


class TestUniformController(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return UniformController(space, cost, targets)

    def test_each_level_gets_the_same_share_of_every_group_once(self) -> None:
        asked = play(self.make(seed=0))
        assert [proposal.target for proposal in asked] == list(TARGETS)
        for proposal in asked:
            uniform = project(SPACE, SPACE.sizes.astype(np.float64), cost, proposal.target)
            assert proposal.candidate == uniform


class TestRandomController(ControllerContract):
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        return RandomController(space, cost, targets, seed)

    def test_another_seed_asks_for_other_candidates(self) -> None:
        assert play(self.make(seed=0)) != play(self.make(seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_go_and_stay_as_a_controller_likes_but_in_the_baseline_all_stay(name: str) -> None:
    features = np.zeros((len(BLOCKS.axes), 2))
    alone = [
        np.array([0.02, 0.0]) if axis.is_block else loss
        for axis, loss in zip(BLOCKS.axes, losses(BLOCKS), strict=True)
    ]
    controller = make(
        name,
        space=BLOCKS,
        cost=cost,
        targets=(1600.0, 2000.0),
        seed=0,
        trials=24,
        features=features,
        losses=alone,
    )
    dropped = {4 - sum(proposal.candidate.kept[5:]) for proposal in play(controller)}
    assert dropped == {0} if name == "uniform" else len(dropped) > 1


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_controller_that_proposes(name: str) -> None:
    features = np.zeros((5, 2))
    controller = make(
        name, space=SPACE, cost=cost, targets=TARGETS, seed=0, trials=10, features=features,
        losses=losses(SPACE),
    )  # fmt: skip
    assert len(controller.ask(3)) == 3


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RequestError, match="'unifrom' is unknown; did you mean 'uniform'"):
        make("unifrom", space=SPACE, cost=cost, targets=TARGETS, seed=0, trials=10, features=np.zeros((5, 2)))


def test_importing_the_controllers_loads_neither_torch_nor_optuna() -> None:
    check = "import sys, search.controllers; sys.exit(bool({'torch', 'optuna'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
