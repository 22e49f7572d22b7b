"""What commands about jobs say of a set of models that share one budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.cli.stored import open_store, place_of
from search.cli.terminal import out, print_json, say
from search.place import Place

if TYPE_CHECKING:
    from search.sets.report import SetReport


def pareto(job: str, runs: Path | None, as_json: bool) -> None:
    """Print the report of a set that is done."""
    from search.sets.run import finished_set

    place = place_of(job, runs)
    with open_store(place) as store:
        report = finished_set(place, store)
    if as_json:
        print_json(report.to_json())
    else:
        show(report, place)


def show(report: SetReport, place: Place) -> None:
    """Print what each model became, and what all came to together."""
    from search.sets import tables

    say(out, report.headline)
    out.print(tables.models(report))
    out.print(tables.totals(report))
    for doubt in (*report.doubts, *report.warnings):
        say(out, f"warning: {doubt}")
    say(out, f"report   {place.report}")
    say(out, f"exports  {place.export}")
