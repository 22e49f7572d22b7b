"""How a search went: what the area under the front grew to, and what it knew of each group."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from search.figures.drawing import LIGHT, as_svg, new_axes, style
from search.report import Report


def hypervolume_svg(report: Report) -> str:
    """Return how the area under the front grew from trial to trial, as SVG for a page."""
    with style():
        figure = Figure(figsize=(8.6, 2.3), layout="constrained")
        axes = new_axes(figure, f"trials finished, of {len(report.hypervolume)}", "accuracy × time saved")
        trials = range(1, len(report.hypervolume) + 1)
        axes.step(trials, report.hypervolume, where="post", color=LIGHT["found"], linewidth=1.8)
        axes.plot(trials[-1], report.hypervolume[-1], "o", color=LIGHT["found"], markersize=5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        least, most = min(report.hypervolume), max(report.hypervolume)
        room = max(0.1 * (most - least), 0.005)
        axes.set_ylim(least - room, most + room)
        return as_svg(figure, {}, alone=False)
