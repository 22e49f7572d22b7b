"""What is said of a set: its report, put together from those of its models' jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from search.report import Report, Row, doubt
from search.sets.asked import Member
from search.sets.plan import OpenSet
from search.sets.report import ModelRow, SetReport, cost_of, render_html
from search.sets.shares import limit
from search.wording import budget_text


def rows(report: Report) -> tuple[Row, ...]:
    """All that a model may become: as it is, or one of its finalists and baselines."""
    return (report.dense, *report.rows)


def write_report(opened: OpenSet, reports: Sequence[Report]) -> SetReport:
    """Write the report of a set as page and JSON; returns what is in them."""
    report = _report(opened, reports)
    opened.place.report.write_text(render_html(report), encoding="utf-8")
    opened.place.report_json.write_text(json.dumps(report.to_json()), encoding="utf-8")
    return report


def _report(opened: OpenSet, reports: Sequence[Report]) -> SetReport:
    asked, first = opened.asked, reports[0]
    kind = asked.budget.leading.kind
    created = datetime.fromtimestamp(opened.store.job(asked.name).created_s, UTC)
    models = tuple(
        _model_row(opened, member, report) for member, report in zip(asked.models, reports, strict=True)
    )
    warnings = [f"{report.job}: {warning}" for report in reports for warning in report.warnings]
    spreads = {f"the dense {model.name}": model.dense.measured_spread for model in models}
    spreads |= {model.name: model.taken.measured_spread for model in models}
    if kind == "latency_ms" and (disturbed := doubt(spreads)):
        warnings.insert(0, disturbed)
    return SetReport(
        name=asked.name,
        created=created.isoformat(timespec="seconds"),
        device=first.device.name,
        modelled=first.device.modelled,
        budget=budget_text(asked.budget),
        limit=limit(asked, [cost_of(report.dense, kind) for report in reports]),
        kind=kind,
        models=models,
        export_folder=opened.place.export_named,
        warnings=tuple(warnings),
    )


def _model_row(opened: OpenSet, member: Member, report: Report) -> ModelRow:
    taken, equal = opened.plan.taken[member.name], opened.plan.shares[member.name].equal
    within = [row for row in report.rows if row.target is not None and row.target <= equal]
    searched, uniform = (
        [row for row in within if (row.origin == "uniform") is alike] for alike in (False, True)
    )
    return ModelRow(
        name=member.name,
        job=opened.asked.job_name(member),
        weight=member.weight,
        floor=member.least_accuracy(report.dense.validation_accuracy),
        dense=report.dense,
        taken=next(row for row in rows(report) if row.trial == taken),
        equal=max(searched, key=lambda row: (row.validation_accuracy, row.target), default=None),
        uniform=max(uniform, key=lambda row: row.target or 0.0, default=None),
    )
