"""What the form for a job offers: controllers, and kinds of budgets with the units of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.job.budget import MEASURED_KINDS, Asked, Budget
from search.sets.asked import ADDING_UP
from search.wording import NAMES, UNITS

CONTROLLERS = {
    "auto": "an estimate that starts from sensitivities, and learns from every trial",
    "amc": "a reinforcement learner that walks from group to group",
    "evolution": "small mutations of the best so far",
    "greedy": "small steps down from the dense model; learns nothing",
    "knapsack": "the best allocation for the sensitivities alone; learns nothing",
    "nsga2": "Optuna's genetic sampler",
    "tpe": "Optuna's Bayesian sampler",
    "random": "proportions drawn at random",
    "uniform": "the same share of every group",
}
"""What each proposes, as docs/search.md says it at length."""

_COUNTS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_WRITTEN: Mapping[str, tuple[Mapping[str, float], str]] = {
    "ms": ({"ms": 1}, "2.5 ms"),
    "mJ": ({"mJ": 1}, "30 mJ"),
    "MACs": (_COUNTS, "20 M"),
    "parameters": (_COUNTS, "250 k"),
    "bytes": (_BYTES, "4 MB"),
}
"""Unit → what may stand behind a number, with what that is to be multiplied by, and an example."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A kind of budget. A job file has percentages under `key`, and numbers under `number`.

    `units` is what may stand behind a number, with what to multiply it by; `shared` says whether several
    models may share it.
    """

    key: str
    number: str
    name: str
    units: Mapping[str, float]
    example: str
    shared: bool


def _limit(key: str) -> Limit:
    kind = Asked(key, ()).kind
    units, example = _WRITTEN[UNITS[kind]]
    return Limit(key, kind, NAMES[kind], units, example, kind in ADDING_UP)


DROP = Limit("accuracy_drop", "accuracy_drop", "accuracy drop", {"": 1}, "1", shared=False)
LIMITS = (
    *(_limit(key) for key in Budget.model_fields if key not in (*MEASURED_KINDS.values(), DROP.key)),
    DROP,
)
