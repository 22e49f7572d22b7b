"""Labels by hand: joining, broadcasting, and what may not go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.errors import BundleError
from trials.labels import (
    BESIDE_BLANKS,
    MAX_LABELS,
    MAX_UNITS,
    LabelArray,
    Units,
    blank,
    compact,
    lines,
    spread,
    varying,
    written,
)

REASON = "beside a value that cannot shrink"


def channels(labels: LabelArray, height: int = 2, width: int = 3) -> LabelArray:
    """A feature map (1, channels, height, width) whose channels have these labels."""
    return np.broadcast_to(labels[None, :, None, None], (1, len(labels), height, width))


def reasons(units: Units, labels: LabelArray) -> list[str]:
    return [units.reason(label) for label in labels.tolist()]


def test_units_are_numbered_from_one_and_stand_alone() -> None:
    units = Units()
    assert units.new(2).tolist() == [1, 2]
    assert units.new(3).tolist() == [3, 4, 5]
    assert units.classes().tolist() == [0, 1, 2, 3, 4, 5]


def test_joining_is_transitive_and_the_smallest_label_names_the_class() -> None:
    units = Units()
    a, b, c = units.new(2), units.new(2), units.new(2)
    units.join(c, b)
    units.join(b, a)
    assert units.classes().tolist() == [0, 1, 2, 1, 2, 1, 2]


def test_no_unit_joins_nothing() -> None:
    units = Units()
    a, b = units.new(2), units.new(2)
    units.join(np.array([a[0], 0]), np.array([0, b[1]]))
    assert units.classes().tolist() == [0, 1, 2, 3, 4]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=15))
def test_classes_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    units = Units()
    units.new(12)
    component = list(range(13))
    for one, other in pairs:
        units.join(np.array([one]), np.array([other]))
        low, high = sorted((component[one], component[other]))
        component = [low if item == high else item for item in component]
    assert units.classes().tolist() == component


def test_a_reason_holds_for_the_whole_class_and_the_first_one_stays() -> None:
    units = Units()
    a, b = units.new(2), units.new(2)
    units.fix(b[:1], "first")
    units.join(a, b)
    units.fix(a, "second")
    assert reasons(units, b) == ["first", "second"]
    assert not units.classes().any()


def test_a_feature_map_costs_as_much_as_its_channels() -> None:
    wide = channels(np.arange(1, 5), height=1000, width=1000)
    assert written(wide) == 4
    assert varying(wide) == [1]
    assert compact(wide).shape == (1, 4, 1, 1)


def test_what_a_reshape_copied_is_found_to_be_constant() -> None:
    copied = np.ascontiguousarray(channels(np.arange(1, 5)))
    assert written(copied) == 24
    assert written(spread(copied)) == 4
    assert (spread(copied) == copied).all()


def test_channels_meet_channels_one_by_one() -> None:
    units = Units()
    a, b = units.new(3), units.new(3)
    met = units.meet(channels(a), channels(b), REASON)
    assert met.shape == (1, 3, 2, 3)
    assert units.classes().tolist() == [0, 1, 2, 3, 1, 2, 3]


def test_a_gate_of_one_pixel_meets_every_pixel_of_its_channel() -> None:
    units = Units()
    a, gate = units.new(2), units.new(2)
    assert units.meet(channels(gate, 1, 1), channels(a), REASON).shape == (1, 2, 2, 3)
    assert units.classes().tolist() == [0, 1, 2, 1, 2]


def test_one_channel_broadcast_over_others_ties_them_to_itself() -> None:
    units = Units()
    a, one = units.new(3), units.new(1)
    units.meet(channels(a), channels(one), REASON)
    assert units.classes().tolist() == [0, 1, 1, 1, 1]


def test_heads_of_a_width_stay_apart_beside_a_value_without_units_as_long_as_their_width() -> None:
    units = Units()
    heads = units.new(6).reshape(2, 3)
    met = units.meet(heads, blank((1, 3)), REASON)
    assert units.joined(met).tolist() == [[1] * 3, [4] * 3]
    assert reasons(units, heads.ravel()) == [""] * 6


def test_lines_of_an_axis_that_are_alike_count_once() -> None:
    assert lines(np.array([[1, 2], [1, 2], [3, 4]]), 0) == 2
    assert lines(np.array([[1, 2], [1, 2], [3, 4]]), 1) == 2
    assert lines(channels(np.arange(1, 5)), 2) == 1


def test_a_value_without_units_may_be_broadcast_over_channels() -> None:
    units = Units()
    a = units.new(3)
    met = units.meet(channels(a), blank((1, 1, 2, 3)), REASON)
    assert varying(met) == [1]
    assert reasons(units, a) == ["", "", ""]


def test_a_value_without_units_of_full_size_fixes_the_channels() -> None:
    units = Units()
    a = units.new(3)
    units.meet(blank((3, 1, 1)), channels(a), REASON)
    assert reasons(units, a) == [REASON] * 3


def test_only_the_channels_beside_blanks_are_fixed() -> None:
    units = Units()
    a, b = units.new(3), units.new(2)
    units.meet(channels(a), channels(np.array([0, *b])), REASON)
    assert reasons(units, a) == [REASON, "", ""]


def test_tying_an_axis_makes_one_unit_of_it_for_each_position_of_the_others() -> None:
    units = Units()
    heads = units.new(6).reshape(2, 3)
    assert units.tie(heads, 1).tolist() == [[1], [4]]
    assert units.classes().tolist() == [0, 1, 1, 1, 4, 4, 4]


def test_tying_units_to_elements_of_no_unit_fixes_them() -> None:
    units = Units()
    a = units.new(2)
    assert units.tie(np.array([[0, 0], a]), 0).tolist() == [a.tolist()]
    assert reasons(units, a) == [BESIDE_BLANKS] * 2


def test_labels_and_units_without_end_are_refused_before_they_are_written() -> None:
    units = Units()
    with pytest.raises(BundleError, match="channels and features"):
        units.new(MAX_UNITS)
    rows, columns = blank((2**20, 1)), blank((1, 2**20))
    wide = np.broadcast_to(rows, (2**20, 2**20))
    with pytest.raises(BundleError, match=f"{MAX_LABELS} labels"):
        units.join(wide, np.broadcast_to(columns, (2**20, 2**20)))
