"""What the command line prints about jobs, trials and networks: tables that 80 columns hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Column, Table
from rich.text import Text

from latency_models.compare import Comparison
from latency_models.stairs import Stairs
from search.report import Report, Row, count, percent, significant, timed

BAR = 20
"""Characters of a bar that stands for a whole group."""
PLOT_WIDTH, PLOT_HEIGHT = 64, 8
"""Characters of a plot of latency over width."""


def networks(report: Report) -> Table:
    """What a run prints at its end: every network, slowest first, the exported one with a star."""
    headings = (f"{report.split} %", "predicted ms", report.timed, "MACs", "params", "faster")
    table = _table("", "network", *map(_number, headings))
    marks = ""
    for row in report.ordered:
        own = ("★" if row.exported else "") + ("●" if row.on_front else "")
        guessed = "" if report.is_measured(row) else "~"
        marks += own + guessed
        cells = (
            own,
            row.label,
            _accuracy(report.accuracy(row), report.accuracy_error(row)),
            _latency(row.predicted_ms, row.predicted_error_ms),
            significant(row.measured_ms),
            count(row.macs),
            count(row.parameters),
            f"{guessed}{report.speedup(row):.2f}×",
        )
        table.add_row(*(Text(cell, style=_style(row)) for cell in cells))
    legend = {
        "★": "exported",
        "●": "on the front of this table",
        "~": f"predicted, not {report.timed}",
    }
    told = [f"{mark} {meaning}" for mark, meaning in legend.items() if mark in marks]
    table.caption = "\n".join(filter(None, ["   ".join(told), report.choice and f"★ is {report.choice}"]))
    return table


def front(report: Report) -> Table:
    """The trials that no other beats, fastest first, as the search saw them, and the dense model."""
    table = _table(*map(_number, ("trial", "proposed by", "validation %", "predicted ms")))
    for point in sorted((p for p in report.points if p.on_front), key=lambda p: p.predicted_ms):
        table.add_row(
            str(point.number), point.origin, percent(point.accuracy), significant(point.predicted_ms)
        )
    dense = report.dense
    cells = ("–", dense.label, percent(dense.validation_accuracy), significant(dense.predicted_ms))
    table.add_row(*cells, style=_style(dense))
    return table


def jobs(found: Sequence[Mapping[str, Any]]) -> Table:
    """Jobs as `status.job_facts` tells them."""
    table = _table(_name("job"), "state", "trials", _number("failed"), _number("best %"), "started")
    for job in found:
        table.add_row(
            job["job"],
            job["state"],
            f"{job['trials']} of {job['planned']}",
            str(job["failed"]),
            percent(job["best"]),
            moment(job["created"]),
        )
    return table


def trials(found: Sequence[Mapping[str, Any]]) -> Table:
    """Trials as `status.trial_rows` tells them."""
    headings = ("accuracy %", "MACs", "params")
    table = _table(_number("trial"), "proposed by", "state", *map(_number, headings), "then")
    for trial in found:
        facts = trial["facts"]
        shown = (
            (_accuracy(facts["accuracy"], facts["accuracy_error"]), *_size(facts)) if facts else ("–",) * 3
        )
        table.add_row(str(trial["trial"]), trial["origin"], trial["state"], *shown, trial["then"])
    return table


def failures(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per reason for which trials failed."""
    failed = [(str(trial["trial"]), trial["reason"]) for trial in found if trial["reason"]]
    return [f"failed: trial {names}: {reason}" for names, reason in _alike(failed)]


def stages(trial: Mapping[str, Any]) -> Table:
    """One trial as the search saw it and, of a finalist, after full training: predicted beside measured.

    Args:
        trial: as `status.trial_facts` tells it.
    """
    headings = ("validation %", "test %", "predicted ms", timed(trial["modelled"]), "MACs", "params")
    table = _table("", *map(_number, headings))
    final, measured = trial["results"].get("final"), trial["results"].get("measured")
    predicted = _latency(trial["predicted"]["latency_ms"], trial["predicted"]["error_ms"])
    known = {"searched": (trial["facts"], None, None)}
    if final:
        known["finalist"] = (final["facts"], final["test"], measured)
    for stage, (facts, test, measurement) in known.items():
        if facts:
            table.add_row(
                stage,
                _accuracy(facts["accuracy"], facts["accuracy_error"]),
                _accuracy(test["accuracy"], test["accuracy_error"]) if test else "–",
                predicted,
                significant(measurement["latency_ms"]) if measurement else "–",
                *_size(facts),
            )
    return table


def widths(trial: Mapping[str, Any]) -> Table:
    """How many units of each group a trial keeps; takes what `stages` takes."""
    table = _table(_name("group"), _number("kept"), _number("of"), _number("share"), "")
    for name, kept in trial["widths"].items():
        size = trial["sizes"][name]
        full = round(BAR * kept / size)
        bar = Text("█" * full, style="green").append("░" * (BAR - full), style="dim")
        table.add_row(Text(name), str(kept), str(size), f"{kept / size:.0%}", bar)
    return table


def groups(found: Mapping[str, Any]) -> Table:
    """A model's groups, as `inspection.inspect_job` tells them."""
    headings = ("units", "MACs", "latency")
    table = _table(_name("group"), "kind", *map(_number, headings), _name("couples the layers"))
    for group in found["groups"]:
        share = group["latency_share"]
        table.add_row(
            Text(group["name"]),
            group["kind"],
            str(group["size"]),
            f"{group['macs_share']:.1%}",
            "–" if share is None else f"{share:.1%}",
            Text(_layers(group["members"])),
        )
    table.caption = "shares are of all layers that a group touches; groups overlap"
    return table


def dear(found: Mapping[str, Any], most: int = 6) -> list[str]:
    """A warning for each group of which some counts cost more than all, the worst first; see `groups`."""
    known = [group for group in found["groups"] if group["dear"]]
    known.sort(key=lambda group: -group["dear"]["worst_ms"])
    lines = []
    for group in known[:most]:
        more, step = group["dear"], found["step"]
        others = len(more["counts"]) - 1
        lines.append(
            f"pruning does not pay: {group['name']}: {group['size']}→{more['worst']} costs more than "
            f"{group['size']} ({significant(more['worst_ms'])} instead of {significant(more['whole_ms'])} ms)"
            + (f", as do {others} other counts" if others else "")
            + ("" if any(count % step == 0 for count in more["counts"]) else f"; multiples of {step} do not")
        )
    if left := known[most:]:
        lines.append(f"pruning does not pay for some counts of {len(left)} more groups; --json names them")
    return lines


def small(found: Mapping[str, Any]) -> list[str]:
    """A line for the groups that the device cannot run any faster with fewer units; see `groups`."""
    step = found["step"]
    named = [
        f"{group['name']} ({group['size']} units)"
        for group in found["groups"]
        if group["kind"] == "channels" and group["size"] <= step
    ]
    if not named:
        return []
    return [f"no faster with fewer: {', '.join(named)}: within one step of the device, which is {step} units"]


def frozen(found: Mapping[str, Any]) -> list[str]:
    """One line per reason for which groups stay whole; takes what `groups` takes."""
    named = [(f"{item['name']} ({item['size']} units)", item["reason"]) for item in found["frozen"]]
    return [f"frozen: {names}: {reason}" for names, reason in _alike(named)]


def candidates(found: Sequence[Mapping[str, Any]]) -> Table:
    """Named candidates made real, as `inspection.try_candidates` tells them, without those that failed."""
    how = timed(any(item.get("modelled") for item in found))
    table = _table(*map(_number, ("", "accuracy %", "predicted ms", how, "MACs", "params")))
    for number, item in enumerate(found, start=1):
        if "failed" not in item:
            facts, predicted = item["facts"], item["predicted"]
            table.add_row(
                str(number),
                _accuracy(facts["accuracy"], facts["accuracy_error"]),
                _latency(predicted["latency_ms"], predicted["error_ms"]),
                significant(item.get("measured_ms")),
                *_size(facts),
            )
    return table


def profile(found: Mapping[str, Any]) -> list[str]:
    """A profile as `profiling.told` tells it, and how it stood its proof."""
    lines = [f"{key:<16} {value}" for key, value in found.items() if key != "validation"]
    proof = found.get("validation")
    if proof:
        lines += [
            f"validation       on {proof['networks']} networks that nothing was fitted to:",
            f"                 mean error {proof['mean_error']:.1%} (repeated measurements differ by "
            f"{proof['floor']:.1%}), rank correlation {proof['spearman']:.3f}",
            f"                 within 5 %: {proof['within_5']:.0%}, within 10 %: {proof['within_10']:.0%}; "
            f"error bars hold {proof['covered']:.0%}, should {proof['coverage']:.0%}",
        ]
    return lines


def devices(found: Sequence[Mapping[str, Any]]) -> Table:
    """Devices as `devices.list_devices` tells them, without those whose profile is damaged."""
    table = _table(
        _name("device"), "runs", _number("batch"), _number("threads"), _name("board"), _name("versions"),
        _number("age"), _number("error"), _number("heard"), "",
    )  # fmt: skip
    for device in found:
        if "wrong" not in device:
            measured = device["profile"] is not None
            table.add_row(
                Text(device["device"]),
                f"{device['runtime']} {device['precision']}",
                str(device["batch"]),
                str(device["threads"]),
                Text(device["board"] + (f" ({device['power_mode']})" if device["power_mode"] else "")),
                Text(" ".join(f"{name} {version}" for name, version in device["versions"].items())),
                f"{device['age_days']:.0f} d" if measured else "–",
                f"{device['mean_error']:.1%}" if device.get("mean_error") is not None else "–",
                _ago(device["seen_s_ago"]) if "seen_s_ago" in device else "–",
                "★" if device["this_machine"] else "",
            )
    table.caption = (
        "★ this machine as it is now   error: mean, on networks that nothing was fitted to   "
        "heard: of the agent, last"
    )
    return table


def _ago(seconds: float) -> str:
    """In the largest unit that there is one of."""
    units = {"d": 86_400, "h": 3_600, "min": 60}
    unit, each = next(((unit, each) for unit, each in units.items() if seconds >= each), ("s", 1))
    return f"{seconds / each:.0f} {unit} ago"


def predictions(found: Mapping[str, Any]) -> Table:
    """Candidates as `predict.predict` tells them: latency, how restless it was when measured, and memory."""
    headings = (
        "candidate",
        "predicted ms",
        timed(found["modelled"]),
        "spread",
        "activations MB",
        "weights MB",
    )
    table = _table(*map(_number, headings))
    for number, item in enumerate(found["candidates"], start=1):
        predicted, measured = item["predicted"], item.get("measured")
        table.add_row(
            str(number),
            _latency(predicted["latency_ms"], predicted["error_ms"]),
            significant(measured["latency_ms"]) if measured else "–",
            f"{measured['spread']:.1%}" if measured else "–",
            *(significant(item["memory"][key] / 1e6) for key in ("peak_bytes", "weight_bytes")),
        )
    bars = (
        f"error bars are for {found['coverage']:.0%} of candidates and were calibrated on "
        f"{found['calibrated_on']}"
    )
    without = "sums of kernels, without error bars: no whole networks were measured"
    table.caption = f"on {found['device']}; {bars if found['calibrated_on'] else without}"
    return table


def operators(found: Mapping[str, Any], most: int = 4) -> Table:
    """What each operator takes, in the order in which they run, for the first candidates."""
    shown = found["candidates"][:most]
    table = _table(_name("layer"), *(_number(f"{n} ms") for n in range(1, len(shown) + 1)), _number("share"))
    for row in zip(*(item["operators"] for item in shown), strict=True):
        table.add_row(
            Text(row[0]["name"]),
            *(significant(operator["latency_ms"]) for operator in row),
            f"{row[0]['share']:.1%}",
        )
    left = len(found["candidates"]) - len(shown)
    more = f"; {left} more candidates with --json" if left else ""
    table.caption = f"shares are those of candidate 1; what is missing from 100 % is the call itself{more}"
    return table


def families(found: Mapping[str, Any]) -> Table:
    """The families of kernels in a table, as `lut.show` tells them."""
    headings = ("kernels", "inputs", "outputs", f"ms, {timed(found['modelled'])}")
    table = _table(_name("kernel"), *map(_number, headings))
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
    table = _table(_name("network"), _number("ms"), *(_number(f"mJ {rail}") for rail in rails))
    for network in found["networks"]:
        energy_mj = network["energy_mj"]
        told = (significant(energy_mj[rail]) if rail in energy_mj else "–" for rail in rails)
        table.add_row(Text(network["network"]), significant(network["latency_ms"]), *told)
    return table


def numbered(names: Sequence[str]) -> Table:
    table = _table(_number(""), _name("operator, for --operator"))
    for number, name in enumerate(names, start=1):
        table.add_row(str(number), Text(name))
    return table


def stairs(found: Stairs) -> list[Text]:
    """A plot of an operator's latency over its width, as lines; cliffs are yellow, • is measured."""
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
    first, last = str(found.widths[0]), str(found.widths[-1])
    lines.append(Text(f"{'':>12} {first}{last:>{max(1, len(columns) - len(first))}}", style="dim"))
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
                f"{len(cliffs)} of {len(found.widths)} widths cost more than a wider one (yellow): "
                f"{found.widths[worst]} takes {significant(found.latency_ms[worst])} ms, "
                f"{found.widths[wider]} takes {significant(found.latency_ms[wider])} ms"
            )
        )
    return lines


def checked(found: Mapping[str, Any]) -> list[str]:
    """What `lut.check` found in a table that is whole."""
    repeats = found["repeatability"]
    lines = [
        f"{found['profile']} is whole: {found['kernels']} kernels of {found['families']} families, "
        f"{found['networks']} networks of {found['models']} model{'s' * (found['models'] != 1)}",
        f"repeated measurements of a kernel differ by {repeats['kernels']:.1%} on average"
        + (f", of a network by {repeats['networks']:.1%}" if repeats["networks"] is not None else ""),
    ]
    if found["validation"]:
        proof = found["validation"]
        lines.append(f"mean error on {proof['networks']} networks held out: {proof['mean_error']:.1%}")
    restless = sorted(found["restless"], key=lambda item: -float(item["spread"]))
    if restless:
        lines.append(f"{len(restless)} measurements were disturbed, the worst first:")
        lines += [f"  {item['name']}: rounds spread by {item['spread']:.0%}" for item in restless[:5]]
    return lines


def compared(found: Comparison) -> str:
    """The first line about two profiles."""
    return (
        f"{found.shared} things are in both, {found.only_before} only in the first, {found.only_after} only "
        f"in the second; the median change is {found.median_change:+.1%}, and {len(found.moved)} moved by "
        "more than the noise"
    )


def moves(found: Comparison, most: int = 20) -> Table:
    """What moved from one profile to the other, the most first."""
    table = _table(_name("moved"), *map(_number, ("before ms", "after ms", "change", "noise")))
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


def moment(iso: str) -> str:
    """An ISO 8601 time in UTC to the minute."""
    return iso[:16].replace("T", " ") + " UTC"


def _table(*columns: str | Column) -> Table:
    """A plain table; a column given by its heading alone holds short words and is never wrapped."""
    return Table(
        *(Column(column, no_wrap=True) if isinstance(column, str) else column for column in columns),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption_justify="left",
        caption_style="dim",
    )


def _number(heading: str) -> Column:
    return Column(heading, justify="right", no_wrap=True)


def _name(heading: str) -> Column:
    """Of names as long as users like: one too long for the screen goes on in the next line."""
    return Column(heading, overflow="fold")


def _alike(reasons: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """From (name, reason) to (all names of one reason, reason)."""
    for reason in dict.fromkeys(reason for _, reason in reasons):
        yield ", ".join(name for name, own in reasons if own == reason), reason


def _style(row: Row) -> str:
    return {"dense": "dim", "uniform": "yellow"}.get(row.origin, "bold green" if row.exported else "")


def _accuracy(share: float, error: float | None) -> str:
    return f"{percent(share)}±{percent(error)}"


def _latency(latency_ms: float, error_ms: float | None) -> str:
    return significant(latency_ms) + ("" if error_ms is None else f"±{significant(error_ms, 2)}")


def _size(facts: Mapping[str, Any]) -> tuple[str, str]:
    return count(facts["macs"]), count(facts["parameters"])


def _layers(members: Sequence[str], most: int = 4) -> str:
    """The layers behind tensor axes such as "layer1.conv.weight:0", shortened."""
    names = list(dict.fromkeys(member.rpartition(":")[0].rpartition(".")[0] for member in members))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
