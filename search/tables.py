"""What the command line prints about jobs, trials and networks: tables that 80 columns hold.

Those about devices are in `device_tables`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from search.numbers import count, percent, significant, timed
from search.report import Report, Row
from search.wording import NAMES, quantity

BAR = 20
"""Characters of a bar that stands for a whole group."""


def networks(report: Report) -> Table:
    """What a run prints at its end: every network, slowest first, the exported one with a star."""
    headings = (f"{report.split} %", "predicted ms", report.timed, "MACs", "params", "faster")
    table = plain("", "network", *map(numeric, headings))
    marks = ""
    for row in report.ordered:
        own = ("★" if row.exported else "") + ("●" if row.on_front else "")
        guessed = "" if report.is_measured(row) else "~"
        marks += own + guessed
        cells = (
            own,
            row.label,
            _accuracy(report.accuracy(row), report.accuracy_error(row)),
            latency(row.predicted_ms, row.predicted_error_ms),
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
    table = plain(*map(numeric, ("trial", "proposed by", "validation %", "predicted ms")))
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
    table = plain(folded("job"), "state", "trials", numeric("failed"), numeric("best %"), "started")
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
    table = plain(numeric("trial"), "proposed by", "state", *map(numeric, headings), "then")
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
    table = plain("", *map(numeric, headings))
    final, measured = trial["results"].get("final"), trial["results"].get("measured")
    predicted = latency(trial["predicted"]["latency_ms"], trial["predicted"]["error_ms"])
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


def others(trial: Mapping[str, Any]) -> Table:
    """One trial on the job's devices beyond the first; takes what `stages` takes."""
    table = plain(folded("also on"), numeric("predicted ms"), numeric(""))
    for name, found in trial["others"].items():
        predicted = latency(found["predicted"]["latency_ms"], found["predicted"]["error_ms"])
        measured = trial["results"].get(f"measured on {name}")
        how = timed(found["modelled"])
        told = f"{how} {significant(measured['latency_ms'])}" if measured else f"not {how}"
        table.add_row(name, predicted, told)
    return table


def answers(trial: Mapping[str, Any]) -> list[str]:
    """What became of the dense model's answers, a few lines for each stage; takes what `stages` takes."""
    known = {"searched": trial["facts"], "finalist": trial["results"].get("final", {}).get("facts")}
    lines = []
    for stage, facts in known.items():
        changes = facts and facts.get("changes")  # stored facts may be of before there were any
        if not changes:
            continue
        drop = f"{percent(changes['worst_drop'])}±{percent(changes['worst_drop_error'])}"
        worst = f"class {changes['worst_class']} lost most, {drop} points"
        lines.append(
            f"{stage}: of {facts['images']} answers {changes['lost']} that dense gives right are wrong and "
            f"{changes['won']} that it gives wrong are right; "
            f"{worst if changes['worst_drop'] > 0 else 'no class lost'}; "
            f"calibration error {percent(facts['calibration_error'])} %"
        )
        if moves := changes["moves"]:
            told = ", ".join(f"{dense}→{now} ({images})" for dense, now, images in moves)
            lines.append(f"{stage}: most answers moved from class to class as {told}")
        lines += [f"{stage}: {note}" for note in facts["notes"]]
    return lines


def picked(found: Mapping[str, Any]) -> list[str]:
    """What `picking.picked` tells of a trial, and what to do with it."""
    validation, test, device = found["validation"], found["test"], found["device"]
    shown = [f"validation {_accuracy(validation['accuracy'], validation['accuracy_error'])} %"]
    if test:
        shown.append(f"test {_accuracy(test['accuracy'], test['accuracy_error'])} %")
    shown.append(f"{count(found['macs'])} MACs, {count(found['parameters'])} parameters")
    predicted = latency(found["predicted"]["latency_ms"], found["predicted"]["error_ms"])
    timed_ms = found["measured_ms"]
    how = f", {timed(found['modelled'])} {significant(timed_ms)} ms" if timed_ms else ""
    held = [
        f"{NAMES[kind]} {quantity(float(significant(cost)), kind)}"
        for kind, cost in found["held"].items()
        if kind not in ("latency_ms", "macs", "parameters")
    ]
    return [
        f"{found['label']}: {found['then'] or 'as the search saw it, before it is fine-tuned'}",
        ", ".join([*shown, *held]),
        f"predicted {predicted} ms on {device}{how}",
        f"export it with: {found['next']}",
    ]


def widths(trial: Mapping[str, Any]) -> Table:
    """How many units of each group a trial keeps; takes what `stages` takes."""
    table = plain(folded("group"), numeric("kept"), numeric("of"), numeric("share"), "")
    for name, kept in trial["widths"].items():
        size = trial["sizes"][name]
        if name in trial["gone"]:
            table.add_row(Text(name), "–", str(size), "–", Text(f"gone with block {trial['gone'][name]}"))
            continue
        full = round(BAR * kept / size)
        bar = Text("█" * full, style="green").append("░" * (BAR - full), style="dim")
        table.add_row(Text(name), str(kept), str(size), f"{kept / size:.0%}", bar)
    return table


def groups(found: Mapping[str, Any]) -> Table:
    """A model's groups, as `inspection.inspect_job` tells them."""
    headings = ("units", "MACs", "latency")
    table = plain(folded("group"), "kind", *map(numeric, headings), folded("couples the layers"))
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
        ragged = not any(count % step == 0 for count in more["counts"])
        lines.append(
            f"pruning does not pay: {group['name']}: {group['size']}→{more['worst']} costs more than "
            f"{group['size']} ({significant(more['worst_ms'])} instead of {significant(more['whole_ms'])} ms)"
            + (f", as do {others} other counts" if others else "")
            + (f"; multiples of {step} do not" if ragged and step < group["size"] else "")
        )
    if left := known[most:]:
        lines.append(f"pruning does not pay for some counts of {len(left)} more groups; --json names them")
    return lines


def small(found: Mapping[str, Any]) -> list[str]:
    """A line for the groups that the device runs no faster with fewer units, but for those in `dear`."""
    step = found["step"]
    named = [
        f"{group['name']} ({group['size']} units)"
        for group in found["groups"]
        if group["kind"] == "channels" and group["size"] <= step and not group["dear"]
    ]
    if not named:
        return []
    return [f"no faster with fewer: {', '.join(named)}: within one step of the device, which is {step} units"]


def frozen(found: Mapping[str, Any]) -> list[str]:
    """One line per reason for which groups stay whole; takes what `groups` takes."""
    named = [(f"{item['name']} ({item['size']} units)", item["reason"]) for item in found["frozen"]]
    return [f"frozen: {names}: {reason}" for names, reason in _alike(named)]


def blocks(found: Mapping[str, Any], most: int = 4) -> list[str]:
    """A line about residual blocks that could be dropped whole, if there are any."""
    names = found["blocks_that_stay"]
    if not names:
        return []
    told = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return [f"blocks that could go whole, with [search] blocks = true: {told}"]


def candidates(found: Sequence[Mapping[str, Any]]) -> Table:
    """Named candidates made real, as `inspection.try_candidates` tells them, without those that failed."""
    how = timed(any(item.get("modelled") for item in found))
    table = plain(*map(numeric, ("", "accuracy %", "predicted ms", how, "MACs", "params")))
    for number, item in enumerate(found, start=1):
        if "failed" not in item:
            facts, predicted = item["facts"], item["predicted"]
            table.add_row(
                str(number),
                _accuracy(facts["accuracy"], facts["accuracy_error"]),
                latency(predicted["latency_ms"], predicted["error_ms"]),
                significant(item.get("measured_ms")),
                *_size(facts),
            )
    return table


def moment(iso: str) -> str:
    """An ISO 8601 time in UTC to the minute."""
    return iso[:16].replace("T", " ") + " UTC"


def plain(*columns: str | Column) -> Table:
    """A plain table; a column given by its heading alone holds short words and is never wrapped."""
    return Table(
        *(Column(column, no_wrap=True) if isinstance(column, str) else column for column in columns),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption_justify="left",
        caption_style="dim",
    )


def numeric(heading: str) -> Column:
    return Column(heading, justify="right", no_wrap=True)


def folded(heading: str) -> Column:
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


def latency(latency_ms: float, error_ms: float | None) -> str:
    return significant(latency_ms) + ("" if error_ms is None else f"±{significant(error_ms, 2)}")


def _size(facts: Mapping[str, Any]) -> tuple[str, str]:
    return count(facts["macs"]), count(facts["parameters"])


def _layers(members: Sequence[str], most: int = 4) -> str:
    """The layers behind tensor axes such as "layer1.conv.weight:0", shortened."""
    names = list(dict.fromkeys(member.rpartition(":")[0].rpartition(".")[0] for member in members))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
