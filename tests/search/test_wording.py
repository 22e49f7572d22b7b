"""A budget is told in words and units of its own."""

from __future__ import annotations

from typing import Any

import pytest

from search.job import Budget
from search.wording import budget_text, drop_text


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ({"latency": ["50%", "12.5%"]}, "latency at most 50%, 12.5% of dense"),
        ({"latency_ms": [0.5, 2]}, "latency at most 0.5 ms, 2 ms"),
        ({"macs": [2_000_000, "50%"]}, "MACs at most 2.00 M, 50% of dense"),
        ({"parameters": 250_000}, "parameters at most 250 k"),
        (
            {"size_bytes": 4_000_000, "memory_bytes": 900, "energy_mj": 12.5},
            "size at most 4.00 MB; memory at most 900 B; energy at most 12.5 mJ",
        ),
        (
            {"macs": "50%", "latency_p99": ["30%", "60%"], "accuracy_drop": 2},
            "p99 latency at most 30%, 60% of dense; MACs at most 50% of dense; "
            "accuracy at most 2 points below dense",
        ),
    ],
)
def test_every_key_is_told_in_its_own_unit_and_the_leading_one_first(
    budget: dict[str, Any], text: str
) -> None:
    assert budget_text(Budget.checked(budget, "here")) == text


def test_the_drop_is_a_point_unless_the_job_says_otherwise() -> None:
    drops = [{}, {"accuracy_drop": 0}, {"accuracy_drop": 0.5}, {"accuracy_drop": 1}]
    told = [drop_text(Budget.checked({"macs": "50%", **drop}, "here")) for drop in drops]
    assert told == ["1 point", "0 points", "0.5 points", "1 point"]
