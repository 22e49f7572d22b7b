"""Numbers as people say them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.numbers import count, duration, signed, significant


@given(st.floats(1e-4, 1e6))
def test_a_number_keeps_three_digits_and_no_power_of_ten(value: float) -> None:
    shown = significant(value)
    assert re.fullmatch(r"\d+(\.\d+)?", shown)
    assert float(shown) == pytest.approx(value, rel=0.0051)


def test_numbers_read_as_people_say_them() -> None:
    assert [significant(value) for value in (0.88, 1.234, 999.7, 12345.6, None)] == [
        "0.880",
        "1.23",
        "1000",
        "12346",
        "–",
    ]
    assert [count(units) for units in (853, 12_345, 4_110_000, 2.5e9)] == [
        "853",
        "12.3 k",
        "4.11 M",
        "2.50 G",
    ]
    assert [duration(seconds) for seconds in (4.25, 59.7, 65, 3599.6, 7380)] == [
        "4.2 s",
        "1 min 0 s",
        "1 min 5 s",
        "1 h 0 min",
        "2 h 3 min",
    ]
    assert [signed(share) for share in (0.003, -0.012, -0.00001)] == ["+0.30", "−1.20", "0.00"]
