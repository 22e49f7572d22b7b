"""What the command line prints about a set of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from search.numbers import amount, percent
from search.sets.report import SetReport
from search.tables import folded, numeric, plain


def models(report: SetReport) -> Table:
    """What each model became, beside what it was."""
    unit = report.timed + " ms" if report.unit == "ms" else report.unit
    headings = ("weight", f"dense {unit}", "now", "of dense", "dense %", "now %", "floor %")
    table = plain(folded("model"), "becomes", *map(numeric, headings))
    for model in report.models:
        before, after = report.cost(model.dense), report.cost(model.taken)
        table.add_row(
            Text(model.name),
            model.taken.label,
            f"{model.weight:g}",
            report.said(before),
            report.said(after),
            f"{after / before:.0%}",
            percent(model.dense.validation_accuracy),
            percent(model.taken.validation_accuracy),
            Text(percent(model.floor or None), style="red" if model.short else ""),
        )
    table.caption = "accuracies are on validation, which floors are about"
    return table


def totals(report: SetReport) -> Table:
    """All models together: as they were, as they are, and had each been given the same share."""
    headings = (report.unit, "of dense", "validation %", "test %")
    table = plain("together", *map(numeric, headings))
    dense = report.totals[0]
    for total in report.totals:
        cells = (
            total.label,
            report.said(total.cost),
            f"{total.cost / dense.cost:.0%}",
            percent(total.accuracy),
            percent(total.test_accuracy),
        )
        style = {"dense": "dim", "divided": "bold green"}.get(total.label, "yellow")
        table.add_row(*(Text(cell, style=style) for cell in cells))
    table.caption = (
        f"at most {report.said(report.limit)} {report.unit} were asked for; accuracies are means by weight"
    )
    return table


def shares(found: Mapping[str, Any]) -> list[str]:
    """A line for each model of a set, as `status.set_facts` tells them; none for a job."""
    lines, unit = [], found.get("unit", "")
    for name, share in found.get("shares", {}).items():
        cost, equal, *levels = (
            amount(each, unit) for each in (share["cost"], share["equal"], *share["levels"])
        )
        lines.append(
            f"{name}: {cost} {unit} of the budget, {equal} with equal shares; searched at {', '.join(levels)}"
        )
    return lines
