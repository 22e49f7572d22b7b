"""What one operator takes over its width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hwprofiles.errors import RequestError
from latency_models.stairs import Stairs
from search.figures.drawing import LIGHT, as_svg, dress, style
from search.numbers import timed


def write_stairs(found: Sequence[Stairs], path: Path) -> None:
    """Draw what one operator takes over its width, a panel for each axis, as .svg.

    Raises:
        RequestError: the path has another suffix, or cannot be written.
    """
    if path.suffix != ".svg":
        raise RequestError(f"{path} ends in {path.suffix!r}; stairs are drawn as .svg")
    with style():
        figure = Figure(figsize=(8.6, 3.2 * len(found)), layout="constrained")
        for axes, stairs in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
            _draw_stairs(axes, stairs)
        figure.suptitle(str(found[0].operator), color=LIGHT["ink"], fontsize=9.5)
        svg = as_svg(figure, {}, alone=True)
    try:
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}; choose another place") from None


def _draw_stairs(axes: Axes, stairs: Stairs) -> None:
    """Draw each width as a step of its own, and nothing where nothing is known."""
    dress(axes, stairs.axis.replace("_", " "), "ms, timed alone")
    widths, latency_ms = stairs.widths, stairs.latency_ms
    steps = np.full((2, widths[-1] - widths[0] + 1), np.nan)
    steps[0, widths - widths[0]] = latency_ms
    steps[1, (widths - widths[0])[stairs.cliffs]] = latency_ms[stairs.cliffs]
    edges = np.arange(widths[0], widths[-1] + 2) - 0.5
    for values, role, label in zip(
        steps, ("trial", "uniform"), ("interpolated", "a wider one costs less"), strict=True
    ):
        if not np.isnan(values).all():
            axes.stairs(values, edges, baseline=None, color=LIGHT[role], lw=1.6, label=label)
    # Widths that are padded to one are one measurement: its mark stands at the widest of them.
    ends = stairs.measured & np.append(np.diff(latency_ms) != 0, True)
    axes.plot(widths[ends], latency_ms[ends], "o", color=LIGHT["found"], ms=4.5, label=timed(stairs.modelled))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 1.6, 3.2, 6.4, 10]))  # such as blocks
    axes.set_ylim(bottom=0)
    axes.legend(
        frameon=False, labelcolor=LIGHT["quiet"], ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98)
    )
