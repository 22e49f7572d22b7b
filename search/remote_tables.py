"""What the command line prints about jobs of a service, as the service tells of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from search.numbers import count, percent, signed, significant
from search.tables import folded, latency, moment, numeric, plain


def jobs(found: Sequence[Mapping[str, Any]]) -> Table:
    """Jobs, a line each."""
    table = plain(folded("job"), "owner", "state", "trials", folded("now"), "submitted")
    for job in found:
        table.add_row(
            job["name"],
            job["owner"],
            job["state"],
            f"{job['finished']} of {job['planned']}",
            doing(job),
            _time(job["created_s"]),
        )
    return table


def doing(job: Mapping[str, Any]) -> str:
    """What a job is at, or why it is not at anything."""
    progress = job["progress"]
    if job["wish"]:
        return f"asked to {job['wish']}"
    if job["at_work"] and "stage" in progress:
        return f"{progress['stage']} {progress['share']:.0%}"
    return "copy outstanding" if job["copy_outstanding"] else str(job["reason"])


def front(board: Mapping[str, Any]) -> Table:
    """The trials that no other beats, the fastest first, and the dense model."""
    headings = ("validation %", "predicted ms", "MACs", "params")
    table = plain(numeric("trial"), "proposed by", *map(numeric, headings))
    trials, dense = board["trials"], board["dense"]
    rows = [row for row, is_on in enumerate(trials["on_front"]) if is_on]
    for row in sorted(rows, key=lambda row: float(trials["latency_ms"][row])):
        table.add_row(
            str(trials["number"][row]),
            trials["origin"][row],
            percent(trials["accuracy"][row]),
            latency(trials["latency_ms"][row], trials["error_ms"][row]),
            count(trials["macs"][row]),
            count(trials["parameters"][row]),
        )
    size = count(dense["macs"]), count(dense["parameters"])
    table.add_row(
        "–", "dense", percent(dense["accuracy"]), significant(dense["latency_ms"]), *size, style="dim"
    )
    return table


def finalists(board: Mapping[str, Any]) -> Table:
    """The trials that were trained to the end, and what was measured of them."""
    headings = ("finalist", "validation %", "test %", "measured ms", "dense then")
    table = plain("", *map(numeric, headings))
    for each in board["finalists"]:
        table.add_row(
            "★" if each["exported"] else "",
            str(each["trial"]),
            percent(each["accuracy"]),
            percent(each["test_accuracy"]),
            significant(each["measured_ms"]),
            significant(each["dense_measured_ms"]),
        )
    table.caption = "★ exported" if any(each["exported"] for each in board["finalists"]) else None
    return table


def trial(found: Mapping[str, Any]) -> Iterator[str]:
    """One trial: where it is from, and what it came to."""
    yield f"trial {found['trial']}: {found['state']}, proposed by {found['origin']} (seed {found['seed']})"
    if found["reason"]:
        yield f"failed: {found['reason']}"
    if facts := found["facts"]:
        size = f"{count(facts['macs'])} MACs, {count(facts['parameters'])} params"
        yield f"validation {percent(facts['accuracy'])} %, {size}"
    yield f"predicted {latency(found['latency_ms'], found['error_ms'])} ms"
    if final := found["final"]:
        yield (
            f"finalist: validation {percent(final['accuracy'])} %, test {percent(final['test_accuracy'])} %, "
            f"measured {significant(final['measured_ms'])} ms"
        )


def differences(found: Mapping[str, Any]) -> Iterator[Table]:
    """Two trials beside each other, as `comparison.compare` tells them: in all, by group, and by layer."""
    names = found["trials"]
    totals = plain("", *map(numeric, names), numeric("difference"))
    for what, show, difference in (
        ("accuracy", percent, signed),
        ("latency_ms", significant, _more),
        ("macs", _counted, _more),
        ("parameters", _counted, _more),
    ):
        before, after = found[what]
        change = "–" if None in (before, after) else difference(after - before)
        totals.add_row(_TOTALS[what], show(before), show(after), change)
    yield totals
    groups = plain(folded("group"), *map(numeric, names), numeric("of"))
    for name, (before, after, size) in found["widths"].items():
        groups.add_row(Text(name), _whole(before), _whole(after), _whole(size))
    yield groups
    layers = plain(folded("layer"), *(numeric(f"{name} ms") for name in names), numeric("difference"))
    for name, (before, after) in found["layers"].items():
        layers.add_row(
            Text(name), significant(before), significant(after), _more((after or 0.0) - (before or 0.0))
        )
    yield layers


def tokens(found: Sequence[Mapping[str, Any]], now_s: float) -> Table:
    """Every token that was made, without its text."""
    table = plain("id", folded("user"), "role", "made", "holds until")
    for each in found:
        ends = _time(each["expires_s"])
        if each["revoked_s"] is not None:
            ends = "revoked"
        elif each["expires_s"] < now_s:
            ends = "expired"
        table.add_row(each["id"], each["user"], each["role"], _time(each["created_s"]), ends)
    return table


_TOTALS = {"accuracy": "validation %", "latency_ms": "predicted ms", "macs": "MACs", "parameters": "params"}


def _more(difference: float) -> str:
    sign = "+" if difference > 0 else "−" if difference < 0 else "±"
    size = abs(difference)
    return sign + (count(size) if size >= 1000 else significant(size) if size else "0")


def _counted(value: float | None) -> str:
    return "–" if value is None else count(value)


def _whole(value: int | None) -> str:
    return "–" if value is None else str(value)


def _time(seconds: float) -> str:
    return moment(datetime.fromtimestamp(seconds, UTC).isoformat())
