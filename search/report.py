"""The report: what a search found, as one record.

Whoever finishes a job fills in a `Report`. From it come the page `report.html` and the picture of the front
(`search.page`), the table that the command line prints (`search.tables`), and the JSON that all of them can
be made from again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from hwprofiles.device import Device
from hwprofiles.errors import RequestError, nearest
from latency_models.calibrate import Calibration
from search.devices import RESTLESS
from search.numbers import signed, significant, timed
from search.pareto import front_mask
from trials.candidate import Changes

OTHER_STATE = 0.15
"""How far the dense model may lie from its prediction, as a share, before a report points it out."""

FORMAT_VERSION = 1
"""Of the JSON that `Report.to_json` makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network worth comparing: the dense model, a uniform baseline or a finalist.

    Accuracies are 0..1 and their errors one standard error. `target` is the cost it was made for, in the
    unit of the job's budget; the dense model has none. `measured_spread` is a share of the measured latency.
    `limited` is what it costs of further kinds that the budget limits, by their keys in the job file. `kept`
    maps each group to its kept units, `gone` those that went with a block to its name. `origin` is
    "dense", "uniform" or the controller's name. `calibration_error`, 0..1, and `changes` against dense are
    on the validation split.
    """

    label: str
    trial: int | None
    origin: str
    target: float | None
    validation_accuracy: float
    validation_error: float
    test_accuracy: float | None = None
    test_error: float | None = None
    predicted_ms: float
    predicted_error_ms: float
    measured_ms: float | None = None
    measured_spread: float | None = None
    macs: int
    parameters: int
    kept: Mapping[str, int] = field(default_factory=dict)
    gone: Mapping[str, str] = field(default_factory=dict)
    limited: Mapping[str, float] = field(default_factory=dict)
    calibration_error: float | None = None
    changes: Changes | None = None
    on_front: bool = False
    exported: bool = False

    @property
    def latency_ms(self) -> float:
        """Measured where it was measured, else predicted."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms

    @property
    def measured_off(self) -> float | None:
        """How far the measurement lies from the prediction, as a share of that; above 0 it is slower."""
        return None if self.measured_ms is None else self.measured_ms / self.predicted_ms - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One trial of the search, as it was before finalists were fine-tuned.

    `accuracy` is on the validation split; a trial has either that or, in `failed`, the reason for none.
    """

    number: int
    accuracy: float | None
    predicted_ms: float
    origin: str
    on_front: bool = False
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group of the dense model; both shares are of the whole dense model and 0..1.

    `losses` is what the group alone costs the model where it was measured: kept units → divergence in nats.
    """

    name: str
    kind: str
    size: int
    macs_share: float
    latency_share: float
    losses: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How alike a rung and a later one rank the candidates that reached both: Spearman's, 1 at best."""

    rung: str
    later: str
    correlation: float
    candidates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a user should see after a search.

    `rows` are the baselines and finalists, without `dense`. `created` is when the job was, an ISO 8601 time.
    `budget` is what the job file asks for, and `target_unit` the unit of every row's target. `hypervolume`
    has one value per finished trial, of accuracy x share of the dense latency saved: 0 at
    (`reference_accuracy`, `reference_ms`), at most 1. `frozen` maps a group that stays whole to the reason,
    `seconds` a stage to its duration, `commands` what a user may want next to the command that does it.
    `export_folder` begins where the runs are; it is empty as long as nothing is exported, and so is `choice`,
    which says why the winner won. `classes` are the names of the model's classes, and `ladder` says how far
    each rung of effort is to be trusted. `others` are the same on the job's other devices.
    """

    job: str
    created: str
    device: Device
    budget: str
    target_unit: str
    dense: Row
    rows: tuple[Row, ...]
    points: tuple[Point, ...]
    groups: tuple[GroupRow, ...]
    hypervolume: tuple[float, ...]
    reference_accuracy: float
    reference_ms: float
    calibration: Calibration
    frozen: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    export_folder: str = ""
    choice: str = ""
    commands: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    ladder: tuple[Trust, ...] = ()
    others: tuple[Report, ...] = ()

    @property
    def on_devices(self) -> tuple[Report, ...]:
        """The same job on each of its devices, the first one first."""
        return self, *self.others

    def on(self, name: str) -> Report:
        """The same job on one of its devices, by default the first.

        Raises:
            RequestError: the job has no such device.
        """
        found = {report.device.name: report for report in self.on_devices}
        if name and name not in found:
            raise RequestError(
                f"job {self.job!r} has no device {name!r}; {nearest(name, found)}; for others there is "
                "`prunefront rescore`"
            )
        return found[name] if name else self

    @property
    def winner(self) -> Row | None:
        """The exported row; None where nothing is exported."""
        return next((row for row in self.rows if row.exported), None)

    @property
    def ordered(self) -> tuple[Row, ...]:
        """The dense model and all rows, slowest first: a baseline stands beside what it compares to."""
        return tuple(sorted((self.dense, *self.rows), key=lambda row: -row.latency_ms))

    @property
    def decisive(self) -> Report:
        """The same on that device on which the winner gains least, which is what it was chosen by."""
        return min(self.on_devices, key=lambda each: each.speedup(each.winner or each.dense))

    @property
    def headline(self) -> str:
        """The result in one sentence; of several devices, on the one that decided."""
        return self.decisive._result(", where it gains least" if self.others else "")

    @property
    def result(self) -> str:
        """The result on this device, whatever came out on others."""
        return self._result()

    def _result(self, where: str = "") -> str:
        device = self.device.name + (" (modelled)" if self.device.modelled else "")
        winner = self.winner
        if winner is not None:
            factor = self.speedup(winner)
            speed = f"{factor:.2f}× faster" if factor >= 1 else f"{1 / factor:.2f}× slower"
            return f"{speed} {_points(self.accuracy_change(winner))} on {device}{where}: {winner.label}"
        on_front = sum(row.on_front for row in self.rows)
        if on_front:
            return f"{on_front} network{'s' * (on_front > 1)} on the front of {device}; none exported yet"
        return f"No network is on the front of {device} yet"

    @property
    def doubt(self) -> str:
        """What speaks against the speed-up of the headline, in a sentence; empty where nothing does."""
        winner = self.winner
        if winner is None or not self.is_measured(winner):
            return ""
        spreads = {"the dense model": self.dense.measured_spread, winner.label: winner.measured_spread}
        return doubt(spreads) or self._other_state

    @property
    def _other_state(self) -> str:
        """That the device is not as it was when it was profiled; empty where it is."""
        off = self.dense.measured_off or 0.0
        if abs(off) <= OTHER_STATE:
            return ""
        changed = f"{abs(off):.0%} {'slower' if off > 0 else 'faster'}"
        measured, predicted = significant(self.dense.measured_ms), significant(self.dense.predicted_ms)
        return (
            f"{self.device.name} is {changed} than when it was profiled (the dense model takes {measured} ms "
            f"and was predicted at {predicted}): the speed-up holds, but the budget's milliseconds are of "
            "another state of it, by clocks, heat or neighbours"
        )

    @property
    def timed(self) -> str:
        """How latencies that are not predicted came about: "measured" or "modelled"."""
        return timed(self.device.modelled)

    @property
    def split(self) -> Literal["test", "validation"]:
        """The split that all accuracies are shown on: test where it was read for every network."""
        read = all(row.test_accuracy is not None for row in (self.dense, *self.rows))
        return "test" if read else "validation"

    def accuracy(self, row: Row) -> float:
        """On the split that is shown."""
        shown = row.test_accuracy if self.split == "test" else None
        return row.validation_accuracy if shown is None else shown

    def accuracy_error(self, row: Row) -> float | None:
        return row.test_error if self.split == "test" else row.validation_error

    def with_front(self) -> Self:
        """The same report, where those networks are marked that no other beats on what is shown of them."""
        networks = (self.dense, *self.rows)
        costs = np.array([(1 - self.accuracy(row), row.latency_ms) for row in networks])
        dense, *rows = (
            replace(row, on_front=bool(on)) for row, on in zip(networks, front_mask(costs), strict=True)
        )
        return replace(self, dense=dense, rows=tuple(rows))

    def is_measured(self, row: Row) -> bool:
        """Whether `speedup` compares measurements and not predictions."""
        return self.dense.measured_ms is not None and row.measured_ms is not None

    def speedup(self, row: Row) -> float:
        """How many times faster than dense: by measurements where both have one, else by predictions."""
        if self.dense.measured_ms is not None and row.measured_ms is not None:
            return self.dense.measured_ms / row.measured_ms
        return self.dense.predicted_ms / row.predicted_ms

    def accuracy_change(self, row: Row) -> float:
        """Accuracy gained on dense, on the split that is shown."""
        return self.accuracy(row) - self.accuracy(self.dense)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = TypeAdapter(Report).dump_python(self, mode="json")
        told = {"modelled": self.device.modelled, "doubt": self.doubt}
        return {"version": FORMAT_VERSION, **told, **content}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild a report from `to_json`.

        Raises:
            RequestError: another version wrote it, or a value is missing or of another type.
        """
        if stored.get("version") != FORMAT_VERSION:
            raise RequestError(
                f"the stored report has format version {stored.get('version')!r}; allowed: {FORMAT_VERSION}; "
                "make it again with this version of prunefront"
            )
        content = {key: value for key, value in stored.items() if key != "version"}
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RequestError(
                f"the stored report is damaged at {where}: {first['msg'].lower()}; make it again from the job"
            ) from None


def doubt(spreads: Mapping[str, float | None]) -> str:
    """A sentence against comparing measurements, such as of two networks; empty where none was disturbed.

    Args:
        spreads: of the rounds of each by its name, as a share of what it took; see `hwprofiles.Summary`.
    """
    far = [
        f"{name} (rounds spread by {spread:.0%})"
        for name, spread in spreads.items()
        if spread is not None and spread > RESTLESS
    ]
    if not far:
        return ""
    return (
        f"the measurement of {' and of '.join(far)} was disturbed, so do not rely on the speed-up: above "
        f"{RESTLESS:.0%} the device was busy with something else; let it rest and run the job again under "
        "another name, with --name"
    )


def _points(change: float) -> str:
    shown = signed(change, 1)
    return "at the same accuracy" if shown == "0.0" else f"at {shown} points"
