"""The report of a set: what each model became, and what all of them together gained on an equal division."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import TypeAdapter

from search.job import CostKind
from search.numbers import amount, percent, signed, timed
from search.report import Row
from search.wording import UNITS

FORMAT_VERSION = 1
"""Of the JSON that `SetReport.to_json` makes."""
GAINS: Mapping[CostKind, str] = {"latency_ms": "faster", "size_bytes": "smaller", "energy_mj": "less energy"}
"""What is said of models that cost less; of others, such as MACs, that there are fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model of a set.

    `floor` is the least accuracy on validation that it may have, 0 for none. `equal` is the best finalist
    within its part of an equal division, in which every model may cost the same share of what it costs dense,
    and `uniform` the widest there of which every group keeps the same share; None where there is none.
    """

    name: str
    job: str
    weight: float
    floor: float
    dense: Row
    taken: Row
    equal: Row | None
    uniform: Row | None

    @property
    def short(self) -> float:
        """By how much it misses its floor, 0..1."""
        return max(0.0, self.floor - self.taken.validation_accuracy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """All models of a set together: one network of each. `accuracy` is their weighted mean on validation."""

    label: str
    costs: tuple[float, ...]
    accuracy: float
    test_accuracy: float | None

    @property
    def cost(self) -> float:
        return sum(self.costs)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReport:
    """Everything a user should see after the search of a set.

    `budget` is as the file has it, one of `kind`, and `limit` the same in its unit. Costs are in that unit,
    and latencies measured where that could be done.
    """

    name: str
    created: str
    device: str
    modelled: bool
    budget: str
    limit: float
    kind: CostKind
    models: tuple[ModelRow, ...]
    export_folder: str
    warnings: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return UNITS[self.kind]

    @property
    def timed(self) -> str:
        """How latencies came about: "measured" or "modelled"."""
        return timed(self.modelled)

    def cost(self, row: Row) -> float:
        return cost_of(row, self.kind)

    def said(self, cost: float) -> str:
        """A cost as people say it, without its unit."""
        return amount(cost, self.unit)

    @property
    def totals(self) -> tuple[Total, ...]:
        """The dense models, the set as it is, and the set equally divided, as far as there is such."""
        found = [
            self._total("dense", lambda model: model.dense),
            self._total("divided", lambda model: model.taken),
            self._total("equal shares", lambda model: model.equal),
            self._total("equal shares, uniform", lambda model: model.uniform),
        ]
        return tuple(total for total in found if total)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What was asked for and is not reached, each in a sentence."""
        _, divided, *_ = self.totals
        found = []
        if divided.cost > self.limit:
            found.append(
                f"the budget is exceeded: all models together take {self.said(divided.cost)} {self.unit} and "
                f"may take {self.said(self.limit)}; no combination of finalists takes less"
            )
        found += [
            f"the floor of {model.name} is missed: it has {percent(model.taken.validation_accuracy)} % on "
            f"validation, and should have {percent(model.floor)} %; no combination of finalists comes nearer "
            "within the budget"
            for model in self.models
            if model.short > 0
        ]
        return tuple(found)

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        dense, divided, *_ = self.totals
        factor = dense.cost / divided.cost
        change = signed(self.accuracy(divided) - self.accuracy(dense), 1)
        points = "the same accuracy" if change == "0.0" else f"{change} points"
        kept = ", ".join(
            f"{model.name} {self.cost(model.taken) / self.cost(model.dense):.0%}" for model in self.models
        )
        gain = f"{factor:.2f}× {GAINS.get(self.kind, f'fewer {self.unit}')}"
        return f"{gain} together at {points}: {kept} of dense"

    @property
    def split(self) -> Literal["test", "validation"]:
        """The split that the headline is about: test where it was read for every network."""
        return "validation" if any(total.test_accuracy is None for total in self.totals) else "test"

    def accuracy(self, total: Total) -> float:
        """On the split that the headline is about."""
        shown = total.test_accuracy if self.split == "test" else None
        return total.accuracy if shown is None else shown

    def _total(self, label: str, network: Callable[[ModelRow], Row | None]) -> Total | None:
        rows = [network(model) for model in self.models]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            return None
        tested = [row.test_accuracy for row in found if row.test_accuracy is not None]
        return Total(
            label=label,
            costs=tuple(map(self.cost, found)),
            accuracy=self._mean([row.validation_accuracy for row in found]),
            test_accuracy=self._mean(tested) if len(tested) == len(rows) else None,
        )

    def _mean(self, accuracies: Sequence[float]) -> float:
        weights = [model.weight for model in self.models]
        return sum(w * a for w, a in zip(weights, accuracies, strict=True)) / sum(weights)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = TypeAdapter(SetReport).dump_python(self, mode="json")
        totals = TypeAdapter(tuple[Total, ...]).dump_python(self.totals, mode="json")
        told = {"headline": self.headline, "unit": self.unit, "totals": totals, "doubts": list(self.doubts)}
        return {"version": FORMAT_VERSION, **told, **content}


def cost_of(row: Row, kind: CostKind) -> float:
    """What a network costs of the kind that is limited; its latency is measured where that could be done."""
    own: Mapping[CostKind, float] = {
        "latency_ms": row.latency_ms,
        "macs": row.macs,
        "parameters": row.parameters,
    }
    return own[kind] if kind in own else row.limited[kind]


def render_html(report: SetReport) -> str:
    """The page: one file that needs no network and no scripts."""
    from search import figures  # matplotlib takes half a second to import

    environment = Environment(
        loader=PackageLoader("search"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "signed": signed}
    return environment.get_template("set.html").render(report=report, palette=figures.PALETTE)
