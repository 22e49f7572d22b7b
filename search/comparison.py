"""Two trials beside each other: of one job, or of two that prune the same model or others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def compare(names: tuple[str, str], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What two trials, as `Board.trial` tells them, keep and take.

    Returns:
        "trials", their names; pairs of "accuracy" on validation, predicted "latency_ms", "macs" and
        "parameters", None where that is not known; "widths" by group, (before, after, of how many units), and
        "layers", milliseconds by layer where either has it, those that differ most first.
    """
    facts = [trial["facts"] or {} for trial in (before, after)]
    layers = {
        name: (before["layers"].get(name), after["layers"].get(name))
        for name in (*before["layers"], *after["layers"])
    }
    return {
        "trials": list(names),
        "accuracy": [each.get("accuracy") for each in facts],
        "latency_ms": [before["latency_ms"], after["latency_ms"]],
        "macs": [each.get("macs") for each in facts],
        "parameters": [each.get("parameters") for each in facts],
        "widths": {
            name: (before["widths"].get(name), after["widths"].get(name), sizes[name])
            for sizes in (before["sizes"] | after["sizes"],)
            for name in sizes
        },
        "layers": dict(sorted(layers.items(), key=lambda item: -_gap(*item[1]))),
    }


def _gap(before: float | None, after: float | None) -> float:
    return abs((after or 0.0) - (before or 0.0))
