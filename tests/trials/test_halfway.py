"""What is kept of a training that is under way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from tests.bundles import export_images
from trials.finetune import TrainingState, copied
from trials.halfway import Halfway


def test_a_training_of_millions_of_steps_is_read_again(tmp_path: Path) -> None:
    repaired = export_images(nn.Conv2d(1, 2, 1), 1, 4, 4)
    state = TrainingState(
        model=copied(repaired.tensors),
        averaged=copied(repaired.tensors),
        memory={},
        losses=(1 / 3,),
        at_once=2,
    )
    halfway = Halfway(recipe={"final_steps": 10**7}, repaired=repaired, kept={}, state=state, seconds={})
    for steps in (1, 6_000_000):
        replace(halfway, state=replace(state, losses=(1 / 3,) * steps)).write(tmp_path / "halfway")
        found = Halfway.read(tmp_path / "halfway")
        assert found is not None
        assert (found.state.step, set(found.state.losses), found.state.at_once) == (steps, {1 / 3}, 2)
        assert found.repaired.sha256 == repaired.sha256
