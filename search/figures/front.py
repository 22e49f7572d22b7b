"""The front of a job: accuracy over latency, with every trial, finalist and baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from hwprofiles.errors import RequestError
from search.figures.drawing import LIGHT, as_svg, new_axes, style
from search.numbers import percent, significant
from search.pareto import front_mask
from search.report import Report, Row

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
            with style():
                _front(report).savefig(path, dpi=200)
        case suffix:
            raise RequestError(f"{path} ends in {suffix!r}; a picture is written as .svg or .png")


def front_svg(report: Report, *, alone: bool = False) -> str:
    """Return the front as SVG: for a page that sets the colours of `PALETTE`, or to stand alone as a file."""
    with style():
        titles = {
            f"trial-{point.number}": f"trial {point.number} ({point.origin}): "
            f"{percent(point.accuracy)} %, {significant(point.predicted_ms)} ms predicted"
            for point in report.points
        }
        return as_svg(_front(report), titles, alone=alone)


def _front(report: Report) -> Figure:
    """Draw the front; accuracies are those of the validation split, which trials and finalists share."""
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    axes = new_axes(figure, f"latency on {report.device.name}, ms", "accuracy on the validation split, %")
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
            [], [], "D", mfc="none", mec=LIGHT["quiet"], markersize=5, label=f"the same, {report.timed}"
        )
    _focus(axes, report)
    _draw_speedups(axes, report.dense.predicted_ms)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, labelcolor=LIGHT["quiet"])
    winner_first = sorted(finalists, key=lambda row: not row.exported)
    _label(figure, axes, (report.dense, *winner_first, *baselines))
    return figure


def _draw_trials(axes: Axes, report: Report) -> None:
    for point in report.points:
        if point.accuracy is not None:
            marker = "^" if point.origin == "uniform" else "o"
            color = LIGHT["found" if point.on_front else "trial"]
            dot = axes.plot(point.predicted_ms, point.accuracy, marker, color=color, alpha=0.55, ms=4.5)
            dot[0].set(gid=f"trial-{point.number}", markeredgewidth=0)
    if report.points:
        axes.plot([], [], "o", color=LIGHT["trial"], markersize=4.5, label="trial")


def _draw_rows(axes: Axes, rows: Sequence[Row], role: str, marker: str, name: str) -> None:
    """Draw predictions with their error bars, and beside each what was measured."""
    color = LIGHT[role]
    for row in rows:
        accuracy, predicted_ms = row.validation_accuracy, row.predicted_ms
        if row.measured_ms is not None:
            axes.plot([predicted_ms, row.measured_ms], [accuracy] * 2, "-", color=color, linewidth=0.8)
            axes.plot(row.measured_ms, accuracy, "D", mfc=LIGHT["page"], mec=color, markersize=5)
        axes.errorbar(predicted_ms, accuracy, yerr=row.validation_error, color=color, lw=0.8, alpha=0.4)
        axes.errorbar(predicted_ms, accuracy, xerr=row.predicted_error_ms, color=color, capsize=2.5, lw=1.2)
        size = 9 if row.exported else 6.5
        axes.plot(predicted_ms, accuracy, marker, color=color, markersize=size)
    if rows:
        axes.plot([], [], marker, color=color, markersize=6.5, label=name)


def _draw_line(axes: Axes, rows: Sequence[Row], role: str, style: str) -> None:
    along = sorted((row.predicted_ms, row.validation_accuracy) for row in rows)
    axes.plot(*zip(*along, strict=True) if along else ([], []), style, color=LIGHT[role], lw=1.4, zorder=1.5)


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
            color=LIGHT["quiet"],
            fontsize=8,
            bbox={"facecolor": LIGHT["page"], "edgecolor": "none", "pad": 2},
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
    top.set_xlabel("times faster than dense", color=LIGHT["quiet"])
    top.tick_params(length=0, labelcolor=LIGHT["quiet"])
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
            color=LIGHT[_role(row)],
            fontsize=8.5,
            fontweight="bold" if row.exported else "normal",
            in_layout=False,
            bbox={"facecolor": LIGHT["page"], "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
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
