"""Pictures of a report, each drawn once for light and dark pages, as SVG and as PNG.

They are drawn in the light colours of `PALETTE`. In an SVG each colour then becomes a CSS variable that the
page, or the file's own style sheet, sets for a light and for a dark screen.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from hwprofiles.errors import RequestError
from latency_models.stairs import Stairs
from search.pareto import front_mask
from search.report import Report, Row, percent, significant, timed

PALETTE = {
    "page": ("#ffffff", "#12161d"),
    "ink": ("#1d2433", "#e6eaf1"),
    "quiet": ("#667085", "#98a2b3"),
    "line": ("#dfe3ea", "#2c3441"),
    "trial": ("#a9bdd3", "#6b8bb0"),
    "found": ("#0072b2", "#56b4e9"),
    "uniform": ("#c25a00", "#f0a04b"),
}
"""Role → colour on a (light, dark) page. Blue and orange stay apart for the colour-blind; so do shapes."""

_LIGHT = {role: light for role, (light, _) in PALETTE.items()}
_LABEL_OFFSETS = ((-7, 7), (7, 7), (-7, 18), (7, 18), (-7, -25), (7, -25), (-7, -14), (7, -14))
"""Where a label may stand, in points from its mark; the first free place is taken, for baselines the last."""


def write_front(report: Report, path: Path) -> None:
    """Write the front, accuracy over latency, as .svg or .png by the path's suffix.

    Raises:
        RequestError: the path has another suffix.
    """
    match path.suffix:
        case ".svg":
            path.write_text(front_svg(report, alone=True), encoding="utf-8")
        case ".png":
            with _style():
                _front(report).savefig(path, dpi=200)
        case suffix:
            raise RequestError(f"{path} ends in {suffix!r}; a picture is written as .svg or .png")


def front_svg(report: Report, *, alone: bool = False) -> str:
    """Return the front as SVG: for a page that sets the colours of `PALETTE`, or to stand alone as a file."""
    with _style():
        titles = {
            f"trial-{point.number}": f"trial {point.number} ({point.origin}): "
            f"{percent(point.accuracy)} %, {significant(point.predicted_ms)} ms predicted"
            for point in report.points
        }
        return _svg(_front(report), titles, alone=alone)


def hypervolume_svg(report: Report) -> str:
    """Return how the area under the front grew from trial to trial, as SVG for a page."""
    with _style():
        figure = Figure(figsize=(8.6, 2.3), layout="constrained")
        axes = _axes(figure, f"trials finished, of {len(report.hypervolume)}", "accuracy × time saved")
        trials = range(1, len(report.hypervolume) + 1)
        axes.step(trials, report.hypervolume, where="post", color=_LIGHT["found"], linewidth=1.8)
        axes.plot(trials[-1], report.hypervolume[-1], "o", color=_LIGHT["found"], markersize=5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        least, most = min(report.hypervolume), max(report.hypervolume)
        room = max(0.1 * (most - least), 0.005)
        axes.set_ylim(least - room, most + room)
        return _svg(figure, {}, alone=False)


def write_stairs(found: Sequence[Stairs], path: Path) -> None:
    """Draw what one operator takes over its width, a panel for each axis, as .svg.

    Raises:
        RequestError: the path has another suffix, or cannot be written.
    """
    if path.suffix != ".svg":
        raise RequestError(f"{path} ends in {path.suffix!r}; stairs are drawn as .svg")
    with _style():
        figure = Figure(figsize=(8.6, 3.2 * len(found)), layout="constrained")
        for axes, stairs in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
            _draw_stairs(axes, stairs)
        figure.suptitle(str(found[0].operator), color=_LIGHT["ink"], fontsize=9.5)
        svg = _svg(figure, {}, alone=True)
    try:
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}; choose another place") from None


def _draw_stairs(axes: Axes, stairs: Stairs) -> None:
    """Draw each width as a step of its own, and nothing where nothing is known."""
    _dress(axes, stairs.axis.replace("_", " "), "ms, timed alone")
    widths, latency_ms = stairs.widths, stairs.latency_ms
    steps = np.full((2, widths[-1] - widths[0] + 1), np.nan)
    steps[0, widths - widths[0]] = latency_ms
    steps[1, (widths - widths[0])[stairs.cliffs]] = latency_ms[stairs.cliffs]
    edges = np.arange(widths[0], widths[-1] + 2) - 0.5
    for values, role, label in zip(
        steps, ("trial", "uniform"), ("interpolated", "a wider one costs less"), strict=True
    ):
        if not np.isnan(values).all():
            axes.stairs(values, edges, baseline=None, color=_LIGHT[role], lw=1.6, label=label)
    # Widths that are padded to one are one measurement: its mark stands at the widest of them.
    ends = stairs.measured & np.append(np.diff(latency_ms) != 0, True)
    axes.plot(
        widths[ends], latency_ms[ends], "o", color=_LIGHT["found"], ms=4.5, label=timed(stairs.modelled)
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 1.6, 3.2, 6.4, 10]))  # such as blocks
    axes.set_ylim(bottom=0)
    axes.legend(
        frameon=False, labelcolor=_LIGHT["quiet"], ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98)
    )


def _front(report: Report) -> Figure:
    """Draw the front; accuracies are those of the validation split, which trials and finalists share."""
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    axes = _axes(figure, f"latency on {report.device.name}, ms", "accuracy on the validation split, %")
    axes.yaxis.set_major_formatter(lambda accuracy, _: f"{accuracy * 100:g}")
    baselines = [row for row in report.rows if row.origin == "uniform"]
    finalists = [row for row in report.rows if row.origin != "uniform"]
    _draw_trials(axes, report)
    _draw_rows(axes, baselines, "uniform", "^", "uniform widths")
    _draw_rows(axes, finalists, "found", "o", "found by the search")
    _draw_rows(axes, [report.dense], "ink", "s", "dense")
    _draw_line(axes, baselines, "uniform", ":")
    _draw_line(axes, _unbeaten(report.rows), "found", "-")
    if any(row.measured_ms is not None for row in (report.dense, *report.rows)):
        axes.plot(
            [], [], "D", mfc="none", mec=_LIGHT["quiet"], markersize=5, label=f"the same, {report.timed}"
        )
    _focus(axes, report)
    _draw_speedups(axes, report.dense.predicted_ms)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, labelcolor=_LIGHT["quiet"])
    winner_first = sorted(finalists, key=lambda row: not row.exported)
    _label(figure, axes, (report.dense, *winner_first, *baselines))
    return figure


def _draw_trials(axes: Axes, report: Report) -> None:
    for point in report.points:
        if point.accuracy is not None:
            marker = "^" if point.origin == "uniform" else "o"
            color = _LIGHT["found" if point.on_front else "trial"]
            dot = axes.plot(point.predicted_ms, point.accuracy, marker, color=color, alpha=0.55, ms=4.5)
            dot[0].set(gid=f"trial-{point.number}", markeredgewidth=0)
    if report.points:
        axes.plot([], [], "o", color=_LIGHT["trial"], markersize=4.5, label="trial")


def _draw_rows(axes: Axes, rows: Sequence[Row], role: str, marker: str, name: str) -> None:
    """Draw predictions with their error bars, and beside each what was measured."""
    color = _LIGHT[role]
    for row in rows:
        accuracy, predicted_ms = row.validation_accuracy, row.predicted_ms
        if row.measured_ms is not None:
            axes.plot([predicted_ms, row.measured_ms], [accuracy] * 2, "-", color=color, linewidth=0.8)
            axes.plot(row.measured_ms, accuracy, "D", mfc=_LIGHT["page"], mec=color, markersize=5)
        axes.errorbar(predicted_ms, accuracy, yerr=row.validation_error, color=color, lw=0.8, alpha=0.4)
        axes.errorbar(predicted_ms, accuracy, xerr=row.predicted_error_ms, color=color, capsize=2.5, lw=1.2)
        size = 9 if row.exported else 6.5
        axes.plot(predicted_ms, accuracy, marker, color=color, markersize=size)
    if rows:
        axes.plot([], [], marker, color=color, markersize=6.5, label=name)


def _draw_line(axes: Axes, rows: Sequence[Row], role: str, style: str) -> None:
    along = sorted((row.predicted_ms, row.validation_accuracy) for row in rows)
    axes.plot(*zip(*along, strict=True) if along else ([], []), style, color=_LIGHT[role], lw=1.4, zorder=1.5)


def _unbeaten(rows: Sequence[Row]) -> list[Row]:
    """The front of what the picture shows, which the test split and measurements have no part in."""
    costs = np.array([(1 - row.validation_accuracy, row.predicted_ms) for row in rows]).reshape(-1, 2)
    return [row for row, on in zip(rows, front_mask(costs), strict=True) if on]


def _focus(axes: Axes, report: Report) -> None:
    """Show the accuracies worth comparing; trials that fell far below are counted, not drawn."""
    trials = [point.accuracy for point in report.points if point.accuracy is not None]
    best = [report.dense.validation_accuracy, *(row.validation_accuracy for row in report.rows)]
    top = max(best + trials)
    height = max(top - min(best), 0.03)
    bottom = max(min(best + trials), min(best) - 0.7 * height) - 0.12 * height
    bars = [row.validation_accuracy + row.validation_error for row in (report.dense, *report.rows)]
    axes.set_ylim(bottom, max(top + 0.15 * height, max(bars) + 0.05 * height))
    below = sum(accuracy < bottom for accuracy in trials)
    if below:
        axes.annotate(
            f"{below} trial{'s' * (below > 1)} below {percent(bottom, 1)} %",
            (0, 0),
            (7, 7),
            "axes fraction",
            "offset points",
            color=_LIGHT["quiet"],
            fontsize=8,
            bbox={"facecolor": _LIGHT["page"], "edgecolor": "none", "pad": 2},
        )


def _draw_speedups(axes: Axes, dense_ms: float) -> None:
    """Mark along the top how many times faster than dense a latency is, with room between the marks."""
    left, right = axes.get_xlim()
    marks: dict[float, str] = {}
    for factor in (1, 2, 1.5, 3, 5, 10, 1.25, 2.5, 4, 7, 20, 50, 100):
        place = dense_ms / factor
        if left < place < right and all(abs(place - other) > 0.06 * (right - left) for other in marks):
            marks[place] = f"{factor:g}×"
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(marks), labels=list(marks.values()))
    top.set_xlabel("times faster than dense", color=_LIGHT["quiet"])
    top.tick_params(length=0, labelcolor=_LIGHT["quiet"])
    top.spines[:].set_visible(False)


def _label(figure: Figure, axes: Axes, rows: Sequence[Row]) -> None:
    """Name the rows, first come first served; a name that finds no free place is left out."""
    figure.draw_without_rendering()
    marks = axes.transData.transform([(row.predicted_ms, row.validation_accuracy) for row in rows])
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    frame = axes.get_window_extent()
    for row in rows:
        label = axes.annotate(
            row.label if len(row.label) <= 24 else row.label[:23] + "…",
            (row.predicted_ms, row.validation_accuracy),
            _LABEL_OFFSETS[0],
            textcoords="offset points",
            color=_LIGHT[_role(row)],
            fontsize=8.5,
            fontweight="bold" if row.exported else "normal",
            in_layout=False,
            bbox={"facecolor": _LIGHT["page"], "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
        for offset in reversed(_LABEL_OFFSETS) if row.origin == "uniform" else _LABEL_OFFSETS:
            label.set(position=offset, horizontalalignment="left" if offset[0] > 0 else "right")
            extent = label.get_window_extent()
            inside = frame.x0 <= extent.x0 and extent.x1 <= frame.x1 and frame.y0 <= extent.y0 <= frame.y1
            if inside and not extent.count_overlaps(taken):
                taken.append(extent)
                break
        else:
            label.remove()


def _role(row: Row) -> str:
    return {"dense": "ink", "uniform": "uniform"}.get(row.origin, "found")


def _axes(figure: Figure, across: str, up: str) -> Axes:
    axes = figure.add_subplot()
    _dress(axes, across, up)
    return axes


def _dress(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, color=_LIGHT["quiet"])
    axes.set_ylabel(up, color=_LIGHT["quiet"])
    axes.tick_params(length=0, labelcolor=_LIGHT["quiet"])
    axes.grid(color=_LIGHT["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


@contextmanager
def _style() -> Iterator[None]:
    """Text stays text in an SVG, is never read as a formula, and may hold letters that the font lacks."""
    with (
        matplotlib.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "prunefront",
                "text.parse_math": False,
                "font.size": 9.5,
                "figure.facecolor": _LIGHT["page"],
                "axes.facecolor": _LIGHT["page"],
            }
        ),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def _svg(figure: Figure, titles: Mapping[str, str], *, alone: bool) -> str:
    """Return a figure as an <svg> element whose colours are variables and whose marks show `titles`."""
    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", metadata=nothing, transparent=not alone)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    for role, light in _LIGHT.items():
        svg = svg.replace(light, f"var(--{role})")
    # Pictures share a page: no element of one may keep a name that another has.
    svg = re.sub(
        r'<g id="([^"]*)">',
        lambda group: f"<g><title>{escape(titles[group[1]])}</title>" if group[1] in titles else "<g>",
        svg,
    )
    svg = re.sub(r'<g id="[^"]*"/>', "", svg)
    svg = re.sub(r"font-family: [^;]*", "font-family: system-ui, sans-serif", svg)
    return svg.replace("<style", f"<style>{_variables()}</style><style", 1) if alone else svg


def _variables() -> str:
    """The style sheet of a picture that stands alone."""
    light, dark = ("".join(f"--{role}:{pair[i]};" for role, pair in PALETTE.items()) for i in (0, 1))
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
