"""What all pictures share: colours for light and dark pages, axes, and how a figure becomes an SVG.

They are drawn in the light colours of `PALETTE`. In an SVG each colour then becomes a CSS variable that the
page, or the file's own style sheet, sets for a light and for a dark screen.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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

LIGHT = {role: light for role, (light, _) in PALETTE.items()}


def new_axes(figure: Figure, across: str, up: str) -> Axes:
    axes = figure.add_subplot()
    dress(axes, across, up)
    return axes


def dress(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, color=LIGHT["quiet"])
    axes.set_ylabel(up, color=LIGHT["quiet"])
    axes.tick_params(length=0, labelcolor=LIGHT["quiet"])
    axes.grid(color=LIGHT["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


@contextmanager
def style() -> Iterator[None]:
    """Text stays text in an SVG, is never read as a formula, and may hold letters that the font lacks."""
    with (
        matplotlib.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "prunefront",
                "text.parse_math": False,
                "font.size": 9.5,
                "figure.facecolor": LIGHT["page"],
                "axes.facecolor": LIGHT["page"],
            }
        ),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def as_svg(figure: Figure, titles: Mapping[str, str], *, alone: bool) -> str:
    """Return a figure as an <svg> element whose colours are variables and whose marks show `titles`."""
    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", metadata=nothing, transparent=not alone)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    for role, light in LIGHT.items():
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
