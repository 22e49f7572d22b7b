"""Numbers as people say them; one that is not there is a dash."""

from __future__ import annotations


def percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{share * 100:.{digits}f}"


def signed(share: float, digits: int = 2) -> str:
    """A share as percent with its sign: +0.30, −1.20, and 0.00 for what rounds to it."""
    shown = percent(share, digits)
    return shown.lstrip("-") if float(shown) == 0 else f"{float(shown):+.{digits}f}".replace("-", "−")


def significant(value: float | None, digits: int = 3) -> str:
    """A number to so many digits, or whole where it has more of them: 0.0120, 1.23, 1234."""
    if value is None:
        return "–"
    return f"{value:.0f}" if round(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")


def count(units: float) -> str:
    """A count as people say it: 853, 12.3 k, 4.11 M."""
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if units >= size:
            return f"{significant(units / size)}{suffix}"
    return f"{units:.0f}"


def amount(cost: float, unit: str) -> str:
    """A cost without its unit: a time or an energy to three digits, else as people say counts."""
    return significant(cost) if unit in ("ms", "mJ") else count(cost)


def duration(seconds: float) -> str:
    """A duration as people say it: 4.2 s, 1 min 5 s, 2 h 3 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def timed(modelled: bool) -> str:
    """The word for latencies of a device, which nobody may take for measured where they are worked out."""
    return "modelled" if modelled else "measured"
