"""What becomes of a trial after the search: the kinds of results in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trials.store import Store

FINAL, EXPORTED, TUNED = "final", "exported", "tuned"
"""Trained and looked at on the test split; written as a folder to deploy; trained by a recipe of its own."""
MEASURED = "measured"
"""Measured on the first device of its job."""


def measured_on(name: str) -> str:
    """The kind of the results of measuring on a device that is not the first of its job."""
    return f"measured on {name}"


def results(store: Store, job: str, kind: str) -> dict[int, Mapping[str, Any]]:
    """Trial number → data of its result of one kind."""
    return {result.trial: result.data for result in store.results(job) if result.kind == kind}
