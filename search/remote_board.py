"""What a service tells of a job's trials, in columns: as a frame, row by row, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hwprofiles.errors import ConflictError, RequestError

if TYPE_CHECKING:
    import pandas as pd

    from search.job import CostKind


def frame(board: Mapping[str, Any]) -> pd.DataFrame:
    """The trials of a board, by number."""
    import pandas as pd

    columns = {key: values for key, values in board["trials"].items() if key != "reason"}
    return pd.DataFrame(columns).set_index("number").rename_axis("trial")


def pick(board: Mapping[str, Any], limits: Mapping[CostKind, float]) -> dict[str, Any]:
    """The most accurate trial that costs no more, as its row; finalists come first.

    Args:
        limits: of "latency_ms", which counts with its error bar, "macs" and "parameters".

    Raises:
        RequestError: there is none; names the one that comes nearest.
    """
    finals = {each["trial"]: each["accuracy"] for each in board["finalists"]}
    rows = [row for row in _rows(board["trials"]) if row["state"] == "done"]
    if not rows:
        raise ConflictError(f"job {board['job']!r} has no finished trial yet; wait for one")

    def costs(row: Mapping[str, Any]) -> dict[CostKind, float]:
        whole = {**row, "latency_ms": row["latency_ms"] + row["error_ms"]}
        return {kind: float(whole[kind]) for kind in limits}

    def excess(row: Mapping[str, Any]) -> float:
        return max(cost / limits[kind] for kind, cost in costs(row).items())

    fits = [row for row in rows if excess(row) <= 1]
    if not fits:
        from search.wording import rounded_up

        near = min(rows, key=excess)
        asked = " and ".join(f"{kind}={limit:.15g}" for kind, limit in limits.items())
        nearest = " and ".join(f"{kind}={rounded_up(cost):.4g}" for kind, cost in costs(near).items())
        raise RequestError(
            f"no trial of job {board['job']!r} holds {asked} on {board['device']}; the nearest, trial "
            f"{near['number']}, holds {nearest}: ask for that, or search with a lower budget"
        )
    trained = [{**row, "accuracy": finals[row["number"]]} for row in fits if row["number"] in finals]
    best = max(trained or fits, key=lambda row: float(row["accuracy"]))
    return {**best, "device": board["device"], "finalist": bool(trained)}


def _rows(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Trials one by one."""
    lists = {key: values for key, values in columns.items() if isinstance(values, list)}
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(lists, values, strict=True))
