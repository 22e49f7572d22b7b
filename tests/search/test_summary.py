"""What a finished job says of itself, held against its store and against what it exported."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from search.exported import export_config
from search.job import Budget
from search.limits import budget_limits
from search.numbers import count
from search.page import render_html
from search.plan import Prepared
from search.results import EXPORTED, FINAL, MEASURED, results
from search.summary import make_report
from tests.search.test_finalists import add_final, fill
from tests.search.test_score import made_trials
from trials.candidate import Trial, as_counts
from trials.store import Store


@pytest.fixture(scope="module")
def report(finished_runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished_runs / "small" / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def trials(finished_runs: Path) -> list[Trial]:
    with Store.open(finished_runs / "prunefront.db") as store:
        return store.trials("small")


def test_every_trial_is_a_point_with_the_accuracy_that_is_stored(
    report: dict[str, Any], trials: list[Trial]
) -> None:
    assert [(p["number"], p["accuracy"], p["origin"], p["failed"]) for p in report["points"]] == [
        (t.number, t.facts.accuracy if t.facts else None, t.origin, t.reason) for t in trials
    ]


def test_the_hypervolume_never_falls_and_ends_with_that_of_all_trials(
    report: dict[str, Any], trials: list[Trial], prepared: Prepared
) -> None:
    done = [trial for trial in trials if trial.facts]
    merits = [prepared.merit(trial) for trial in done]
    assert report["hypervolume"] == sorted(report["hypervolume"])
    assert len(report["hypervolume"]) == len(done)
    whole = prepared.scorer.hypervolume(done, merits, prepared.plan.dense_ms)
    assert report["hypervolume"][-1] == pytest.approx(whole)


def test_rows_are_the_finalists_and_their_baselines_measured_and_the_winner_is_starred(
    report: dict[str, Any], finished_runs: Path
) -> None:
    with Store.open(finished_runs / "prunefront.db") as store:
        finals, measured = results(store, "small", FINAL), results(store, "small", MEASURED)
        [winner] = results(store, "small", EXPORTED)
    assert [row["trial"] for row in report["rows"]] == sorted(finals) == sorted(measured)
    assert {"uniform", "auto"} == {row["origin"] for row in report["rows"]}
    for row in report["rows"]:
        assert row["measured_ms"] == measured[row["trial"]]["latency_ms"]
        assert row["test_accuracy"] == finals[row["trial"]]["test"]["accuracy"]
        assert row["exported"] == (row["trial"] == winner)
    assert report["export_folder"] == "small/export"  # and not where the runs are


def test_a_row_is_on_the_front_where_no_other_is_as_accurate_and_as_fast(report: dict[str, Any]) -> None:
    rows = [report["dense"], *report["rows"]]
    points = [(row["test_accuracy"], -row["measured_ms"]) for row in rows]
    for row, (accuracy, speed) in zip(rows, points, strict=True):
        better = [p for p in points if p[0] >= accuracy and p[1] >= speed and p != (accuracy, speed)]
        assert row["on_front"] == (not better)


def test_the_report_says_whether_the_winner_was_the_fastest_or_the_most_accurate(
    prepared: Prepared, planned_store: Store
) -> None:
    assert make_report(prepared, planned_store).choice == ""
    fill(planned_store, made_trials(prepared, 1))
    add_final(planned_store, 0, accuracy=0.9, latency_ms=0.5)
    planned_store.add_result("small", 0, EXPORTED, {"folder": "export"})
    for dense, choice in {
        0.909: "the fastest within 1 point of dense on validation",
        0.911: "the most accurate on validation; none is within 1 point of dense",
    }.items():
        plan = replace(prepared.plan, dense_accuracy=dense)
        assert make_report(replace(prepared, plan=plan), planned_store).choice == choice


def test_the_report_has_the_date_of_the_job_and_tells_how_long_its_stages_worked(
    report: dict[str, Any], trials: list[Trial], finished_runs: Path
) -> None:
    with Store.open(finished_runs / "prunefront.db") as store:
        created_s = store.job("small").created_s
    assert datetime.fromisoformat(report["created"]).timestamp() == int(created_s)
    searching, finishing, measuring = report["seconds"].items()
    assert searching == (
        "searching (12 trials)",
        pytest.approx(sum(sum(t.facts.seconds.values()) for t in trials if t.facts)),
    )
    assert finishing[0] == f"finishing ({len(report['rows'])} networks)"
    assert measuring[0] == "measuring them"


def test_the_configuration_of_an_export_is_what_store_and_plan_say(
    prepared: Prepared, finished_runs: Path
) -> None:
    written = json.loads((finished_runs / "small" / "export" / "config.json").read_text())
    with Store.open(finished_runs / "prunefront.db") as store:
        made = json.loads(json.dumps(export_config(prepared, store, written["trial"])))
        trial = store.trials("small")[written["trial"]]
    assert {key: written[key] for key in made if key != "versions"} == {
        key: made[key] for key in made if key != "versions"
    }
    assert tuple(written["widths"].values()) == trial.candidate.kept
    assert written["seed"] == trial.seed
    assert written["table_sha256"] == prepared.plan.profile_sha256


def test_what_is_exported_says_whether_its_speed_up_can_be_relied_on(
    prepared: Prepared, planned_store: Store
) -> None:
    fill(planned_store, made_trials(prepared, 2))
    for number, spread in enumerate((0.2, 2.96)):
        add_final(planned_store, number, accuracy=0.9, latency_ms=0.5, dense_spread=spread)
    sure, doubtful = (export_config(prepared, planned_store, number) for number in (0, 1))
    assert sure["doubt"] == ""
    assert "of the dense model (rounds spread by 296%) was disturbed" in doubtful["doubt"]


def test_every_kind_that_is_limited_has_a_column_of_its_own_or_one_of_those_there_are(
    prepared: Prepared, planned_store: Store
) -> None:
    budget = Budget.checked({"latency": "50%", "size_bytes": "60%", "latency_p99": "70%"}, "here")
    job = prepared.job.model_copy(update={"budget": budget})
    limits = budget_limits(job, prepared.devices)
    report = make_report(replace(prepared, job=job, limits=limits), planned_store)
    assert report.dense.limited == {
        "size_bytes": limits[2].dense,
        "latency_p99_ms": limits[1].cost(as_counts([prepared.space.dense]))[0],
    }
    page = render_html(report)
    assert f'<td class="number">{count(limits[2].dense)}</td>' in page
    assert '<th class="number">p99 latency, ms</th><th class="number">size, bytes</th>' in page


def test_a_job_without_trials_has_a_report(prepared: Prepared, planned_store: Store) -> None:
    report = make_report(prepared, planned_store)
    assert (report.points, report.rows, report.hypervolume) == ((), (), ())
    assert report.headline.startswith("No network is on the front")
