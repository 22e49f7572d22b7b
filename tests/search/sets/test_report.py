"""The report of a set says what was gained, and what was asked for and is not reached."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.report import Row
from search.sets.report import ModelRow, SetReport, render_html


def row(label: str, accuracy: float, ms: float, origin: str = "auto") -> Row:
    return Row(
        label=label, trial=1, origin=origin, target=ms, validation_accuracy=accuracy, validation_error=0.01,
        predicted_ms=ms, predicted_error_ms=0.1, measured_ms=ms, macs=100, parameters=10,
    )  # fmt: skip


def model(name: str, weight: float, dense: float, taken: float, floor: float = 0.0) -> ModelRow:
    return ModelRow(
        name=name, job=f"set.{name}", weight=weight, floor=floor, dense=row("dense", dense, 10.0, "dense"),
        taken=row("trial 1", taken, 4.0), equal=row("trial 2", taken - 0.1, 5.0), uniform=None,
    )  # fmt: skip


REPORT = SetReport(
    name="set",
    created="2026-01-01T00:00:00+00:00",
    device="board",
    modelled=False,
    budget="latency at most 8 ms",
    limit=8.0,
    kind="latency_ms",
    models=(model("detector", 3.0, 0.9, 0.88), model("depth", 1.0, 0.8, 0.7)),
    export_folder="runs/set/export",
)


def test_costs_add_up_and_accuracies_are_means_by_weight() -> None:
    dense, divided, equal = REPORT.totals
    assert (dense.cost, divided.cost, equal.cost) == (20, 8, 10)
    assert dense.accuracy == pytest.approx((3 * 0.9 + 0.8) / 4)
    assert divided.accuracy == pytest.approx((3 * 0.88 + 0.7) / 4)
    assert REPORT.headline == "2.50× faster together at −4.0 points: detector 40%, depth 40% of dense"
    assert REPORT.doubts == ()


def test_of_a_kind_without_a_place_of_its_own_a_row_says_what_a_network_costs() -> None:
    def limited(model: ModelRow) -> ModelRow:
        dense, taken = (
            replace(each, limited={"size_bytes": 8000 * each.latency_ms})
            for each in (model.dense, model.taken)
        )
        return replace(model, dense=dense, taken=taken, equal=None)

    models = tuple(map(limited, REPORT.models))
    report = replace(REPORT, kind="size_bytes", limit=50_000.0, models=models)
    assert [total.cost for total in report.totals] == [160_000, 64_000]
    assert report.headline.startswith("2.50× smaller together at ")
    assert "take 64.0 k bytes and may take 50.0 k" in report.doubts[0]
    assert report.to_json()["unit"] == "bytes"


def test_a_baseline_that_one_model_lacks_is_not_shown() -> None:
    first, second = REPORT.models
    without = replace(REPORT, models=(first, replace(second, equal=None)))
    assert [total.label for total in without.totals] == ["dense", "divided"]
    assert "equal shares" not in render_html(without).split("<tbody>")[1].split("</tbody>")[0]


def test_what_is_not_reached_is_said_by_name_with_what_came_nearest() -> None:
    first, second = REPORT.models
    short = replace(REPORT, limit=7.5, models=(replace(first, floor=0.89), second))
    budget, floor = short.doubts
    assert "all models together take 8.00 ms and may take 7.50" in budget
    assert "the floor of detector is missed: it has 88.00 % on validation, and should have 89.00 %" in floor
    page = render_html(short)
    assert budget in page
    assert floor in page
