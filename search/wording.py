"""What a budget asks for, in words; loads neither torch nor what a job is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10

from search.job import Asked, Budget, CostKind, DeviceChoice
from search.job.budget import MEASURED_KINDS
from search.numbers import amount

UNITS: Mapping[CostKind, str] = {
    "latency_ms": "ms",
    "latency_p99_ms": "ms",
    "macs": "MACs",
    "parameters": "parameters",
    "size_bytes": "bytes",
    "memory_bytes": "bytes",
    "energy_mj": "mJ",
}
"""Of targets."""
NAMES: Mapping[CostKind, str] = {
    "latency_ms": "latency",
    "latency_p99_ms": "p99 latency",
    "macs": "MACs",
    "parameters": "parameters",
    "size_bytes": "size",
    "memory_bytes": "memory",
    "energy_mj": "energy",
}


def budget_text(budget: Budget, devices: Sequence[DeviceChoice] = ()) -> str:
    """Such as "latency at most 20%, 30% of dense; MACs at most 2.00 M".

    Args:
        devices: of the job; of several it is said which a limit of time or energy holds on.
    """
    parts = []
    for asked in budget.asked:
        bound = [each.name for each in devices if not (each.own_latency and asked.kind == "latency_ms")]
        measured = asked.kind in MEASURED_KINDS.values()
        on = f" on {' and '.join(bound)}" if measured and len(devices) > 1 else ""
        parts.append(_limit_text(asked) + on)
    parts += [f"{_limit_text(own)} on {each.name}" for each in devices if (own := each.own_latency)]
    if budget.accuracy_drop is not None:
        parts.append(f"accuracy at most {drop_text(budget)} below dense")
    return "; ".join(parts)


def drop_text(budget: Budget) -> str:
    """How much accuracy the winner may lose, such as "1 point"."""
    points = budget.winner_drop * 100
    return f"{points:g} point{'' if points == 1 else 's'}"


def quantity(cost: float, kind: CostKind) -> str:
    """A cost with the unit that its name does not say: 2 ms, 12.3 k, 4.11 MB."""
    unit = UNITS[kind]
    match unit:
        case "ms" | "mJ":
            return f"{cost:g} {unit}"
        case "bytes":
            return f"{amount(cost, unit)}B" if cost >= 1000 else f"{cost:.0f} B"
    return amount(cost, unit)


def _limit_text(asked: Asked) -> str:
    costs = [quantity(level.value, asked.kind) for level in asked.levels if not level.relative]
    shares = [f"{level.value * 100:g}%" for level in asked.levels if level.relative]
    return f"{NAMES[asked.kind]} at most {', '.join(costs + shares)}{' of dense' if shares else ''}"


def rounded_up(cost: float) -> float:
    """A cost to four digits, and no less than it is, so that whoever asks for that is given it."""
    step = 10.0 ** (floor(log10(cost)) - 3)
    return ceil(cost / step) * step
