"""The report as a record: what it derives from its numbers, and what it is as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hwprofiles.errors import RequestError
from search.report import Report
from tests.search.reports import BARE, FOUND, REPORT, UNIFORM


def test_the_headline_compares_measurements_and_test_accuracies() -> None:
    assert REPORT.headline == "2.00× faster at −0.3 points on this-cpu: trial 3"
    slower = replace(REPORT, rows=(replace(FOUND, measured_ms=4.2, test_accuracy=0.97),))
    assert slower.headline == "2.00× slower at the same accuracy on this-cpu: trial 3"


def test_a_row_without_measurement_is_compared_by_predictions() -> None:
    assert not REPORT.is_measured(UNIFORM)
    assert REPORT.speedup(UNIFORM) == pytest.approx(2.0 / 0.99)


def test_accuracies_are_shown_on_one_split_for_all() -> None:
    assert (REPORT.split, REPORT.accuracy(FOUND), REPORT.accuracy_error(FOUND)) == ("test", 0.967, 0.007)
    untested = replace(REPORT, rows=(UNIFORM, replace(FOUND, test_accuracy=None, test_error=None)))
    assert untested.split == "validation"
    for row in untested.ordered:
        assert untested.accuracy(row) == row.validation_accuracy
        assert untested.accuracy_change(row) == row.validation_accuracy - 0.98


def test_the_front_is_that_of_the_accuracies_and_latencies_shown() -> None:
    slower = replace(FOUND, label="slower", measured_ms=1.1)
    overfitted = replace(FOUND, label="overfitted", test_accuracy=0.5, validation_accuracy=1.0)
    report = replace(REPORT, rows=(FOUND, slower, overfitted)).with_front()
    assert [row.label for row in report.ordered if row.on_front] == ["dense", "trial 3"]
    beaten = replace(REPORT, rows=(replace(FOUND, test_accuracy=0.98),)).with_front()
    assert not beaten.dense.on_front


def test_the_headline_says_when_there_is_no_winner() -> None:
    unexported = replace(REPORT, rows=(UNIFORM, replace(FOUND, exported=False)))
    assert unexported.headline == "1 network on the front of this-cpu; none exported yet"
    assert BARE.headline == "No network is on the front of this-cpu yet"


def test_rows_stand_slowest_first() -> None:
    assert [row.label for row in REPORT.ordered] == ["dense", "trial 3", "uniform 50%"]


def test_a_report_survives_json() -> None:
    assert Report.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT
    assert Report.from_json(json.loads(json.dumps(BARE.to_json()))) == BARE


def test_a_report_of_another_version_or_with_a_damaged_value_is_refused() -> None:
    with pytest.raises(RequestError, match="format version 0; allowed: 1"):
        Report.from_json({**REPORT.to_json(), "version": 0})
    with pytest.raises(RequestError, match=r"damaged at dense\.macs"):
        Report.from_json({**REPORT.to_json(), "dense": {**REPORT.to_json()["dense"], "macs": "many"}})
