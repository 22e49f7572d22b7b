"""Show `results/latency.json`: a picture of how far each held-out network was off, and the table of the docs.

    python -m benchmarks.latency_plot docs/images/latency.svg

A panel and a row for each network; the rows are printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.latency import CALIBRATION, RESULTS
from search.figures import PALETTE

TITLES = {
    "mobilenet_v2": "MobileNetV2, 224 px",
    "resnet18": "ResNet-18, 224 px",
    "resnet56": "ResNet-56, CIFAR",
    "vgg16": "VGG-16, CIFAR",
    "vit": "DeiT-Ti shape, 224 px",
    "bert": "TinyBERT shape, 64 tokens",
    "unet": "U-Net, 64 px",
}
COLOR = {role: light for role, (light, _) in PALETTE.items()}


def draw(axes: Axes, result: dict[str, Any]) -> None:
    predicted, measured = np.array(result["points"])[CALIBRATION:].T
    off = 100 * (predicted / measured - 1)
    half = len(off) // 2
    bar = 100 * result["error_bar"]
    axes.axhspan(-bar, bar, color=COLOR["line"], lw=0, label="error bar, for 90 % of networks")
    axes.axhline(0, color=COLOR["quiet"], lw=0.8)
    axes.plot(
        measured[:half], off[:half], "o", color=COLOR["found"], ms=4, label="widths on the device's steps"
    )
    axes.plot(measured[half:], off[half:], "^", color=COLOR["uniform"], ms=4, label="any widths")
    axes.set_title(TITLES[result["network"]], fontsize=9, color=COLOR["ink"])
    axes.set_ylim(-11, 11)
    axes.tick_params(labelsize=8, colors=COLOR["quiet"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLOR["line"])


def row(result: dict[str, Any]) -> str:
    """A row of the table in docs/latency.md."""
    low, high = result["latency_ms"]
    table, *_ = methods = list(result["methods"].values())
    other, raw, scaled, macs, forest = [f"{100 * found['mape']:.1f}" for found in methods[1:]]
    on_steps, any_count = (f"{100 * result[part]['mape']:.1f}" for part in ("on_the_grid", "any_count"))
    fine = max(result["kernels_by_counts"].values())
    cells = [
        TITLES[result["network"]],
        f"{low:.2f} to {high:.2f}",
        f"{100 * result['floor']:.1f}",
        f"**{100 * table['mape']:.1f}**",
        f"{table['within_5']:.0%} / {table['within_10']:.0%}",
        f"{table['spearman']:.3f}",
        f"{result['bars_that_hold']:.0%}",
        f"{on_steps} / {any_count}",
        other,
        macs,
        f"{raw} / {scaled}",
        forest,
        f"{result['kernels']} ({fine})",
        f"{result['profile_s']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    known = json.loads(RESULTS.read_text())
    results = {result["network"]: result for result in known if result["precision"] == "fp32"}
    for name in TITLES:
        print(row(results[name]))
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    panels = figure.subplots(2, 4, sharey=True).ravel()
    for axes, name in zip(panels, TITLES, strict=False):
        draw(axes, results[name])
    panels[-1].set_axis_off()
    figure.supxlabel("measured, ms", fontsize=9, color=COLOR["quiet"])
    figure.supylabel("predicted beyond measured, %", fontsize=9, color=COLOR["quiet"])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    figure.savefig(Path(sys.argv[1]), facecolor=COLOR["page"])


if __name__ == "__main__":
    main()
