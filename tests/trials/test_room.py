"""How many examples go at a time: as many as their activations leave room for."""

from __future__ import annotations

import pytest
from torch import nn

from tests.bundles import export_images
from trials import room
from trials.costs import Costs
from trials.groups import analyse
from trials.room import MOST_EXAMPLES, Room


def costs(pixels: int) -> Costs:
    """3 → 8 → 4 channels: a result of 8 and one of 4 numbers for each pixel, and 3 that come in."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Costs(analyse(export_images(nn.Sequential(layers, nn.Linear(4, 2)), 3, pixels, pixels).graph))


def test_room_is_shared_by_what_is_alive_at_a_time_and_in_training_by_all_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = 16 * 16
    monkeypatch.setattr(room, "WORKING_BYTES", 100 * 2 * 4 * (8 + 4 + 3) * numbers)
    found = Room.of(costs(16))
    assert (found.forward, found.held) == (100, 100)
    assert found.backward == int(100 * (8 + 4 + 3) * numbers / ((8 + 4) * numbers + 4 + 2))


def test_there_is_room_for_one_example_however_large_and_no_more_go_at_a_time_than_pays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Room.of(costs(4)).forward == MOST_EXAMPLES
    monkeypatch.setattr(room, "WORKING_BYTES", 1)
    assert Room.of(costs(4)) == Room(forward=1, backward=1, held=1)
