"""Draw `results/latency.json`: how far each held-out network was from its prediction, a panel per network.

python -m benchmarks.latency_plot docs/images/latency.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

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
}
COLOR = {role: light for role, (light, _) in PALETTE.items()}


def draw(axes: Axes, result: dict[str, object]) -> None:
    predicted, measured = np.array(result["points"])[CALIBRATION:].T
    off = 100 * (predicted / measured - 1)
    half = len(off) // 2
    bar = 100 * float(str(result["error_bar"]))
    axes.axhspan(-bar, bar, color=COLOR["line"], lw=0, label="error bar, for 90 % of networks")
    axes.axhline(0, color=COLOR["quiet"], lw=0.8)
    axes.plot(
        measured[:half], off[:half], "o", color=COLOR["found"], ms=4, label="widths on the device's steps"
    )
    axes.plot(measured[half:], off[half:], "^", color=COLOR["uniform"], ms=4, label="any widths")
    axes.set_title(TITLES[str(result["network"])], fontsize=9, color=COLOR["ink"])
    axes.set_ylim(-11, 11)
    axes.tick_params(labelsize=8, colors=COLOR["quiet"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLOR["line"])


def main() -> None:
    known = json.loads(RESULTS.read_text())
    results = {result["network"]: result for result in known if result["precision"] == "fp32"}
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).ravel()
    for axes, name in zip(panels, TITLES, strict=True):
        draw(axes, results[name])
    figure.supxlabel("measured, ms", fontsize=9, color=COLOR["quiet"])
    figure.supylabel("predicted beyond measured, %", fontsize=9, color=COLOR["quiet"])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    figure.savefig(Path(sys.argv[1]), facecolor=COLOR["page"])


if __name__ == "__main__":
    main()
