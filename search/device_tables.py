"""What the command line prints about devices: their profiles and tables, and what those predict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from latency_models.compare import Comparison
from latency_models.stairs import Stairs
from search.numbers import significant, timed
from search.tables import folded, latency, numeric, plain

ENOUGH = 5
"""Networks of which ranks and shares can be told; of fewer, one decides both."""
_TOLD_APART = ("held_out", "added", "validation", "others", "restless")
PLOT_WIDTH, PLOT_HEIGHT = 64, 8
"""Characters of a plot of latency over width."""


def profile(found: Mapping[str, Any]) -> list[str]:
    """A profile as `profiling.told` tells it, and how it stood its proof."""
    kernels = f"{found['kernels']}, the call itself among them"
    networks = f"{found['networks']} to calibrate on, {found['held_out']} held out"
    if "added" in found:
        known, there = found["added"], "new, {} there before"
        kernels += f": {known['kernels']} {there.format(found['kernels'] - known['kernels'])}"
        before = found["networks"] + found["held_out"] - known["networks"]
        networks += f": {known['networks']} {there.format(before)}"
    shown = {**found, "kernels": kernels, "networks": networks}
    lines = [f"{key:<16} {value}" for key, value in shown.items() if key not in _TOLD_APART]
    proof = found.get("validation")
    if proof:
        few = proof["networks"] < ENOUGH
        lines += [
            f"validation       on {counted(proof['networks'], 'network')} of this model that nothing was "
            "fitted to:",
            f"                 mean error {proof['mean_error']:.1%} (repeated measurements differ by "
            f"{proof['floor']:.1%})" + (f", rank correlation {proof['spearman']:.3f}" if not few else ""),
            "                 too few to tell ranks and shares of them"
            if few
            else f"                 within 5 %: {proof['within_5']:.0%}, within 10 %: "
            f"{proof['within_10']:.0%}; error bars hold {proof['covered']:.0%}, should "
            f"{proof['coverage']:.0%}",
        ]
    for other in found.get("others", ()):
        lines.append(
            f"                 model {other['model']} in this profile, with more kernels to go by: mean "
            f"error {other['after']['mean_error']:.1%}, {other['before']['mean_error']:.1%} before"
        )
    return lines + _disturbed(
        found.get("restless", ()), found["kernels"] + found["networks"] + found["held_out"]
    )


def _disturbed(restless: Sequence[Mapping[str, Any]], measured: int, most: int = 5) -> list[str]:
    """The worst of the measurements whose rounds spread far, of so many in all."""
    if not restless:
        return []
    left = f", the worst {most}" if len(restless) > most else ""
    return [
        f"{len(restless)} of {counted(measured, 'measurement')} disturbed{left}:",
        *(f"  {item['name']}: rounds spread by {item['spread']:.0%}" for item in restless[:most]),
    ]


def counted(number: int, thing: str) -> str:
    """Such as "1 kernel" and "2 kernels"."""
    return f"{number} {thing}{'s' * (number != 1)}"


def devices(found: Sequence[Mapping[str, Any]]) -> Table:
    """Devices as `devices.list_devices` tells them, without those whose profile is damaged.

    Three lines each: how networks run, on what board, and under which versions.
    """
    heard = ["heard"] if any("seen_s_ago" in device for device in found) else []
    at = [folded("at")] if any("server" in device for device in found) else []
    table = plain("", folded("device"), *at, folded("runs"), *map(numeric, ("age", "error", *heard)))
    for device in found:
        if "wrong" not in device:
            threads = f"{device['threads']} thread{'s' * (device['threads'] != 1)}"
            mode = f", {device['power_mode']}" if device["power_mode"] else ""
            runs = (
                f"{device['runtime']} {device['precision']}, batch {device['batch']}, {threads}",
                f"{device['board']}{mode}",
                ", ".join(f"{name} {version}" for name, version in device["versions"].items()),
            )
            table.add_row(
                "★" if device["this_machine"] else "",
                Text(device["device"]),
                *(Text(device.get("server", "here")) for _ in at),
                Text("\n".join(filter(None, runs))),
                f"{device['age_days']:.0f} d" if device["profile"] is not None else "–",
                f"{device['mean_error']:.1%}" if device.get("mean_error") is not None else "–",
                *(_ago(device["seen_s_ago"]) if "seen_s_ago" in device else "–" for _ in heard),
            )
    table.caption = "★ this machine as it is now   error: mean over networks held out" + (
        "\nheard: of the agent, last" if heard else ""
    )
    return table


def _ago(seconds: float) -> str:
    """In the largest unit that there is one of."""
    units = {"d": 86_400, "h": 3_600, "min": 60}
    unit, each = next(((unit, each) for unit, each in units.items() if seconds >= each), ("s", 1))
    return f"{seconds / each:.0f} {unit} ago"


def predictions(found: Mapping[str, Any]) -> Table:
    """Candidates as `predict.predict` tells them: latency, how restless it was when measured, and memory."""
    # What is worked out of memory is that of fp32, and says nothing of a network in bytes.
    memory = {"activations MB": "peak_bytes", "weights MB": "weight_bytes"}
    memory = memory if found["precision"] in ("fp32", "tf32") else {}
    table = plain(*map(numeric, ("no.", "predicted ms", timed(found["modelled"]), "spread", *memory)))
    for number, item in _predicted(found):
        predicted, measured = item["predicted"], item.get("measured")
        table.add_row(
            str(number),
            latency(predicted["latency_ms"], predicted["error_ms"]),
            significant(measured["latency_ms"]) if measured else "–",
            f"{measured['spread']:.1%}" if measured else "–",
            *(significant(item["memory"][key] / 1e6) for key in memory.values()),
        )
    bars = (
        f"error bars are for {found['coverage']:.0%} of candidates and were calibrated on "
        f"{found['calibrated_on']}"
    )
    without = "sums of kernels, without error bars: no whole networks were measured"
    table.caption = f"on {found['device']}; {bars if found['calibrated_on'] else without}"
    return table


def _predicted(found: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Candidates that were predicted, by their numbers."""
    return [(i, item) for i, item in enumerate(found["candidates"], start=1) if "failed" not in item]


def doubts(found: Mapping[str, Any]) -> list[str]:
    """What keeps a prediction from being one, or from being compared with what was measured beside it."""
    lines = [
        f"candidate {number}: {item['failed']}"
        for number, item in enumerate(found["candidates"], start=1)
        if "failed" in item
    ]
    shorter = [str(number) for number, item in _predicted(found) if item["dropped"]]
    if shorter and found["calibrated_on"] and not found["calibrated_on_dropped"]:
        names = (
            f"candidates {', '.join(shorter)} lack" if len(shorter) > 1 else f"candidate {shorter[0]} lacks"
        )
        lines.append(
            f"{names} whole blocks, which all networks have that the error bars were calibrated on: they "
            "vouch less for that; a job with blocks = true measures networks without some"
        )
    dense = found["dense"]
    if dense and not found["modelled"] and abs(dense["change"]) > found["relative_error"]:
        lines.append(
            f"the dense model takes {significant(dense['now_ms'])} ms now, and took "
            f"{significant(dense['then_ms'])} ms when the profile was measured ({dense['change']:+.0%}): the "
            "machine is in another state, and what is measured now differs from predictions by as much"
        )
    return lines


def operators(found: Mapping[str, Any], most: int = 4) -> Table:
    """What each operator takes, in the order in which they run, for the first candidates.

    One without some of its blocks lacks the operators of those.
    """
    known = _predicted(found)
    shown = known[:most]
    table = plain(folded("layer"), *(numeric(f"{number} ms") for number, _ in shown), numeric("share"))
    columns = [_by_name(item["operators"]) for _, item in shown]
    for key in dict.fromkeys(key for column in sorted(columns, key=len, reverse=True) for key in column):
        own = columns[0].get(key)
        table.add_row(
            Text(key[0]),
            *(significant(column[key]["latency_ms"]) if key in column else "–" for column in columns),
            f"{own['share']:.1%}" if own else "–",
        )
    first, item = shown[0]
    rest = 1 - sum(operator["share"] for operator in item["operators"])
    whole = f"; the other {rest:.1%} are the call, and what whole networks take beyond their kernels"
    left = len(known) - len(shown)
    more = f"; {left} more candidates with --json" if left else ""
    table.caption = f"shares are those of candidate {first}{whole if rest > 5e-4 else ''}{more}"
    return table


def _by_name(operators: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Operators by name, and by their number among those of that name."""
    seen = Counter[str]()
    found = {}
    for operator in operators:
        seen[operator["name"]] += 1
        found[operator["name"], seen[operator["name"]]] = operator
    return found


def families(found: Mapping[str, Any]) -> Table:
    """The families of kernels in a table, as `lut.show` tells them."""
    headings = ("kernels", "inputs", "outputs", f"ms, {timed(found['modelled'])}")
    table = plain(folded("kernel"), *map(numeric, headings))
    for family in found["families"]:
        table.add_row(
            Text(family["family"]),
            str(family["kernels"]),
            _range(family["in_channels"]),
            _range(family["out_channels"]),
            "–".join(significant(ms) for ms in sorted(set(family["latency_ms"]))),
        )
    return table


def whole_networks(found: Mapping[str, Any]) -> Table:
    """The networks in a table, as `lut.show` tells them, with the energy of an inference at each rail."""
    rails = sorted({rail for network in found["networks"] for rail in network["energy_mj"]})
    table = plain("model", folded("network"), numeric("ms"), *(numeric(f"mJ {rail}") for rail in rails))
    for network in found["networks"]:
        energy_mj = network["energy_mj"]
        told = (significant(energy_mj[rail]) if rail in energy_mj else "–" for rail in rails)
        number = str(network["model"])
        table.add_row(number, Text(network["network"]), significant(network["latency_ms"]), *told)
    return table


def numbered(names: Sequence[str]) -> Table:
    table = plain(numeric(""), folded("operator, for --operator"))
    for number, name in enumerate(names, start=1):
        table.add_row(str(number), Text(name))
    return table


def stairs(found: Stairs) -> list[Text]:
    """A plot of an operator's latency over its width, as lines; • is measured, and ^ is a cliff."""
    each = -(-len(found.widths) // PLOT_WIDTH)
    columns = [slice(start, start + each) for start in range(0, len(found.widths), each)]
    tallest = found.latency_ms.max()
    heights = [round(found.latency_ms[c].max() / tallest * 8 * PLOT_HEIGHT) for c in columns]
    colours = ["yellow" if found.cliffs[c].any() else "blue" for c in columns]
    lines = [Text(f"{found.operator} over its {found.axis.replace('_', ' ')}")]
    for row in reversed(range(PLOT_HEIGHT)):
        line = Text(f"{significant(tallest * (row + 1) / PLOT_HEIGHT):>8} ms │", style="dim")
        for height, colour in zip(heights, colours, strict=True):
            line.append(" ▁▂▃▄▅▆▇█"[max(0, min(8, height - 8 * row))], style=colour)
        lines.append(line)
    marks = "".join("•" if found.measured[c].any() else "─" for c in columns)
    lines.append(Text(f"{'':>11} └{marks}", style="dim"))
    if found.cliffs.any():
        under = "".join("^" if found.cliffs[c].any() else " " for c in columns)
        lines.append(Text(f"{'':>12} {under}", style="yellow"))
    first, last = str(found.widths[0]), str(found.widths[-1])
    ends = first if first == last else f"{first}{last:>{max(1, len(columns) - len(first))}}"
    lines.append(Text(f"{'':>12} {ends}", style="dim"))
    told = f"• {timed(found.modelled)}, the rest interpolated" + (
        f"; a column is the worst of {each} widths" * (each > 1)
    )
    lines.append(Text(told, style="dim"))
    cliffs = found.widths[found.cliffs]
    if len(cliffs):
        worst = int(np.argmax(np.where(found.cliffs, found.latency_ms, 0)))
        wider = worst + int(np.argmin(found.latency_ms[worst:]))
        lines.append(
            Text(
                f"{len(cliffs)} of {len(found.widths)} widths cost more than a wider one (^): "
                f"{found.widths[worst]} takes {significant(found.latency_ms[worst])} ms, "
                f"{found.widths[wider]} takes {significant(found.latency_ms[wider])} ms"
            )
        )
    return lines


def checked(found: Mapping[str, Any]) -> list[str]:
    """What `lut.check` found in a table that is whole."""
    repeats = found["repeatability"]
    lines = [
        f"{found['profile']} is whole: {counted(found['kernels'], 'kernel')} of {found['families']} "
        f"families, {counted(found['networks'], 'network')} of {counted(found['models'], 'model')}",
        f"repeated measurements of a kernel differ by {repeats['kernels']:.1%} on average"
        + (f", of a network by {repeats['networks']:.1%}" if repeats["networks"] is not None else ""),
    ]
    if found["validation"]:
        proof = found["validation"]
        lines.append(
            f"mean error on {counted(proof['networks'], 'network')} held out: {proof['mean_error']:.1%}"
        )
    return lines + _disturbed(found["restless"], found["kernels"] + found["networks"])


def compared(found: Comparison) -> str:
    """The first line about two profiles."""
    return (
        f"{found.shared} things are in both, {found.only_before} only in the first, {found.only_after} only "
        f"in the second; the median change is {found.median_change:+.1%}, and {len(found.moved)} moved by "
        "more than the noise"
    )


def moves(found: Comparison, most: int = 20) -> Table:
    """What moved from one profile to the other, the most first."""
    table = plain(folded("moved"), *map(numeric, ("before ms", "after ms", "change", "noise")))
    for move in found.moved[:most]:
        table.add_row(
            Text(move.name),
            significant(move.before_ms),
            significant(move.after_ms),
            f"{move.change:+.1%}",
            f"{move.noise:.1%}",
        )
    left = len(found.moved) - most
    table.caption = f"{left} more with --json" if left > 0 else None
    return table


def _range(counts: Sequence[int]) -> str:
    return f"{counts[0]}–{counts[-1]}" if len(counts) > 1 else str(counts[0])
