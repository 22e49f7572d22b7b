"""What answers say, against cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trials.answers import calibration_error, score
from trials.candidate import Changes, Facts, Move


def answering(answers: list[int], classes: int = 3) -> Tensor:
    """Logits that give these answers."""
    return F.one_hot(torch.tensor(answers), classes).float()


def changes(dense: list[int], now: list[int], labels: list[int]) -> Changes:
    found = score(answering(now), torch.tensor(labels), answering(dense)).changes
    assert found is not None
    return found


def test_changes_are_counted_by_image_class_and_move() -> None:
    found = changes(
        dense=[0, 0, 0, 1, 1, 2, 0, 1], now=[1, 1, 0, 1, 2, 2, 1, 1], labels=[0, 0, 0, 1, 1, 2, 1, 0]
    )
    assert (found.lost, found.won) == (3, 1)
    assert found.moves == (Move(dense=0, now=1, images=3), Move(dense=1, now=2, images=1))
    assert found.worst_class == 0
    assert found.worst_drop == pytest.approx(2 / 4)
    assert found.worst_drop_error == pytest.approx(math.sqrt(2 + 1) / 4)


def test_a_model_that_answers_as_dense_does_changed_nothing() -> None:
    found = changes([0, 1, 2], [0, 1, 2], [0, 1, 1])
    assert (found.lost, found.won, found.moves, found.worst_drop) == (0, 0, (), 0)
    assert found.worst_drop_error > 0


def test_a_class_without_images_is_not_the_worst_even_if_all_others_gained() -> None:
    found = changes([1, 1, 1], [0, 0, 2], [0, 0, 2])
    assert found.worst_class in (0, 2)
    assert found.worst_drop == -1


def test_without_a_dense_model_nothing_is_said_of_changes() -> None:
    assert score(answering([0, 1]), torch.tensor([0, 0])).changes is None


def test_calibration_error_is_the_mean_gap_of_two_bins_worked_out_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.5])
    right = torch.tensor([True, True, True, False, True])
    expected = 4 / 5 * abs(0.75 - 0.95) + 1 / 5 * abs(1 - 0.5)
    assert calibration_error(confidence, right) == pytest.approx(expected)


def test_gaps_of_one_bin_cancel_and_those_of_two_do_not() -> None:
    right = torch.tensor([True, False])
    assert calibration_error(torch.tensor([0.5, 0.5]), right) == 0
    assert calibration_error(torch.tensor([0.55, 0.45]), right) == pytest.approx(0.45)


@given(seed=st.integers(0, 1000), classes=st.integers(2, 6))
def test_changes_account_for_the_difference_in_accuracy(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense, now = torch.randn((2, 40, classes), generator=generator)
    labels = torch.randint(classes, (40,), generator=generator)
    found, before = score(now, labels, dense), score(dense, labels)
    assert found.changes is not None
    assert (found.changes.lost - found.changes.won) / 40 == pytest.approx(before.accuracy - found.accuracy)
    drops = [was - has for was, has in zip(before.class_accuracy, found.class_accuracy, strict=True)]
    assert found.changes.worst_drop == pytest.approx(drops[found.changes.worst_class])
    assert found.changes.worst_drop == pytest.approx(max(drops))
    assert 0 <= found.calibration_error <= 1


def test_facts_come_back_from_json_and_those_of_before_there_were_changes_too() -> None:
    facts = Facts(
        accuracy=0.9,
        accuracy_error=0.01,
        loss=0.3,
        divergence=0.1,
        macs=1,
        parameters=1,
        calibration_error=0.02,
        class_accuracy=(0.8, 1.0),
        changes=changes([0, 0, 1], [0, 1, 1], [0, 0, 1]),
        images=3,
        history={"repaired": 0.9},
        seconds={"repair": 0.1},
        notes=("a note",),
    )
    stored = facts.to_json()
    assert Facts.from_json(stored) == facts
    older = {"calibration_error", "changes", "images", "notes"}
    old = Facts.from_json({name: value for name, value in stored.items() if name not in older})
    assert (old.accuracy, old.changes, old.calibration_error, old.images, old.notes) == (
        0.9,
        None,
        None,
        0,
        (),
    )
