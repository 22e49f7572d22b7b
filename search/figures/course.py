"""How a search went: what the area under the front grew to, and what it knew of each group."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from search.figures.drawing import LIGHT, as_svg, new_axes, style
from search.report import Report

LEAST_LOSS = 1e-4
"""In nats: what is less is drawn as this, on a logarithmic axis."""


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


def sensitivity_svg(report: Report) -> str:
    """Return what each group alone costs the model, by how much of it is kept, as SVG for a page."""
    groups = [group for group in report.groups if group.losses][::-1]
    with style():
        figure = Figure(figsize=(8.6, 0.9 + 0.19 * len(groups)), layout="constrained")
        axes = new_axes(figure, "divergence from the dense model, nats", "")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda nats, _: f"{nats:g}")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(groups)), labels=[group.name for group in groups], fontsize=8)
        titles = {}
        for place, group in enumerate(groups):
            shown = {kept: max(loss, LEAST_LOSS) for kept, loss in group.losses.items()}
            axes.plot([min(shown.values()), max(shown.values())], [place] * 2, color=LIGHT["line"], lw=2)
            for kept, loss in group.losses.items():
                [dot] = axes.plot(
                    shown[kept], place, "o", color=LIGHT["found"], alpha=1 - 0.85 * kept / group.size
                )
                dot.set(gid=f"{group.name}-{kept}", markeredgewidth=0)
                titles[f"{group.name}-{kept}"] = f"{group.name} with {kept} of {group.size}: {loss:.3g} nats"
        axes.set_ylim(-0.7, len(groups) - 0.3)
        return as_svg(figure, titles, alone=False)
