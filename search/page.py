"""The page and the pictures of a report."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from search.numbers import amount, count, duration, percent, signed, significant
from search.report import Report
from search.wording import NAMES, UNITS


def draw_front(report: Report, path: Path) -> None:
    """Write a picture of the front, accuracy over latency, as .svg or .png by the path's suffix.

    Raises:
        RequestError: the path has another suffix.
    """
    # matplotlib takes half a second to import, which only those who draw should pay.
    from search import figures

    figures.write_front(report, path)


def render_html(report: Report) -> str:
    """Return the page: one file with its styles and pictures in it, that needs no network and no scripts."""
    from search import figures  # late, as in `draw_front`

    environment = Environment(
        loader=PackageLoader("search"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "significant": significant,
        "count": count,
        "amount": amount,
        "signed": signed,
        "duration": duration,
        "breakable": breakable,
        "class_name": class_name,
    }
    return environment.get_template("report.html").render(
        report=report,
        palette=figures.PALETTE,
        names=NAMES,
        units=UNITS,
        fronts={each.device.name: Markup(figures.front_svg(each)) for each in report.on_devices},
        progress=Markup(figures.hypervolume_svg(report)) if report.hypervolume else "",
        sensitivity=Markup(figures.sensitivity_svg(report)) if any(g.losses for g in report.groups) else "",
    )


def breakable(name: str) -> Markup:
    """A dotted name that a line may break behind each dot."""
    return Markup(".<wbr>").join(name.split("."))


def class_name(number: int, report: Report) -> str:
    """What a class is called; its number where an output of the model has no class in the data."""
    return report.classes[number] if number < len(report.classes) else str(number)
