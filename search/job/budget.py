"""The table [budget] of a job file: what candidates may cost, of one or more kinds, at one or more levels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, PlainSerializer, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from search.job.table import Table

CostKind = Literal[
    "latency_ms", "latency_p99_ms", "macs", "parameters", "size_bytes", "memory_bytes", "energy_mj"
]
MEASURED_KINDS: Mapping[str, CostKind] = {
    "latency": "latency_ms", "latency_p99": "latency_p99_ms", "energy": "energy_mj",
}  # fmt: skip
"""Keys of percentages → the key, and the kind, of what a device is measured for; it takes only numbers."""
_KINDS: Mapping[str, CostKind] = {**{kind: kind for kind in get_args(CostKind)}, **MEASURED_KINDS}
"""Of every key."""
RANGE_LEVELS = 6
WINNER_DROP = 1.0
"""In points of accuracy, where the job does not say how much of it the winner may lose."""

_PERCENTAGE = r"(\d+(?:\.\d+)?) ?%"


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a budget: a cost, or (`relative`) a fraction of the dense model's cost."""

    value: float
    relative: bool

    @property
    def percentage(self) -> str:
        return f"{self.value * 100:.15g}%"


def _read_levels(value: object) -> tuple[Level, ...]:
    if isinstance(value, str) and (match := re.fullmatch(rf"{_PERCENTAGE} ?\.\. ?{_PERCENTAGE}", value)):
        return _range(float(match[1]), float(match[2]))
    levels = tuple(_read_level(each) for each in (value if isinstance(value, list) else [value]))
    if len(set(levels)) < len(levels):
        raise PydanticCustomError("levels", "one level twice")
    return levels


def _range(lowest: float, highest: float) -> tuple[Level, ...]:
    """`RANGE_LEVELS` percentages from the lowest to the highest, to a tenth; 100 itself asks for nothing.

    Raises:
        ValueError: that is no range, or a level comes to 0 or 100 %.
    """
    written = f"{lowest:.15g}%..{highest:.15g}%"
    if lowest >= highest:
        raise ValueError(f'has the range "{written}", which does not rise; write the lower percentage first')
    if not 0 < lowest < highest <= 100:
        raise ValueError(
            f'has the range "{written}"; allowed: from above 0% up to 100%, which is all of dense'
        )
    steps = RANGE_LEVELS - (highest < 100)
    percentages = [round(lowest + (highest - lowest) * step / steps, 1) for step in range(RANGE_LEVELS)]
    if not 0 < percentages[0] <= percentages[-1] < 100:
        end = 0 if percentages[0] == 0 else 100
        raise ValueError(
            f'has the range "{written}", of which a level comes to {end}%, as those of ranges are tenths of '
            "percents; write levels so near to that one by one, in a list"
        )
    return tuple(_read_level(f"{percentage}%") for percentage in dict.fromkeys(percentages))


def _read_level(value: object) -> Level:
    """
    Raises:
        ValueError: it is a percentage that no candidate can have, or one that is no budget.
        PydanticCustomError: it is nothing of the kind.
    """
    if isinstance(value, str) and (match := re.fullmatch(_PERCENTAGE, value)):
        level = Level(float(match[1]) / 100, relative=True)
        if 0 < level.value < 1:
            return level
        why = "no network costs nothing" if level.value == 0 else "the dense model costs 100% as it is"
        raise ValueError(f'has the level "{value}", but {why}; allowed: percentages above 0% and below 100%')
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**63:
        return Level(float(value), relative=False)
    raise PydanticCustomError("level", "neither a cost nor a percentage")


def _write_levels(levels: Sequence[Level]) -> list[str | float]:
    return [level.percentage if level.relative else level.value for level in levels]


Levels = Annotated[
    tuple[Level, ...],
    PlainValidator(_read_levels),
    PlainSerializer(_write_levels),
    Field(
        description='a number above 0, a percentage above "0%" and below "100%", a list of different ones, '
        'or a range such as "20%..100%"'
    ),
]
Points = Annotated[
    float | None, Field(ge=0, lt=100, description="points of accuracy, a number from 0 to below 100")
]


@dataclass(frozen=True, slots=True)
class Asked:
    """One key of a budget with its levels."""

    key: str
    levels: tuple[Level, ...]

    @property
    def kind(self) -> CostKind:
        """What the levels count, in the unit of a level that is not relative."""
        return _KINDS[self.key]

    def check_unit(self) -> None:
        """Of what is measured one key takes percentages, and another numbers.

        Raises:
            ValueError: a level belongs under the other key.
        """
        share, number = MEASURED_KINDS.get(self.key), self.key in MEASURED_KINDS.values()
        if number and any(level.relative for level in self.levels):
            of_dense = next(key for key, kind in MEASURED_KINDS.items() if kind == self.key)
            raise ValueError(f'has a percentage as {self.key}; write {of_dense} = "50%" for a share of dense')
        if share and not all(level.relative for level in self.levels):
            unit = "millijoules" if share == "energy_mj" else "milliseconds"
            raise ValueError(
                f'has a number as {self.key}; write {self.key} = "50%" for a share of dense, '
                f"or {share} = 2.0 for {unit}"
            )

    def written(self, level: Level) -> str:
        """One of the levels as the job file has it, with its key."""
        return f'{self.key} = "{level.percentage}"' if level.relative else f"{self.key} = {level.value:.15g}"


WHOLE_FRONT = Asked("latency", _range(20, 100))
"""What is searched where a job only says how much accuracy may be lost."""


class Budget(Table):
    """What every candidate must cost at most, and how much accuracy the winner may lose.

    Several levels of one key draw a front; all candidates meet the one level of every other key.
    """

    latency_ms: Levels = ()
    latency: Levels = ()
    latency_p99_ms: Levels = ()
    latency_p99: Levels = ()
    macs: Levels = ()
    parameters: Levels = ()
    size_bytes: Levels = ()
    memory_bytes: Levels = ()
    energy_mj: Levels = ()
    energy: Levels = ()
    accuracy_drop: Points = None

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        given = self._given
        if not given and self.accuracy_drop is None:
            raise ValueError(f"needs one or more of {', '.join(type(self).model_fields)}; it has none")
        fronts = [asked.key for asked in given if len(asked.levels) > 1]
        if len(fronts) > 1:
            raise ValueError(
                f"has several levels of {' and of '.join(fronts)}; allowed: of one key, which draws the front"
            )
        for asked in given:
            asked.check_unit()
        return self

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What costs must be at most, the leading key first: the one with several levels, else the first.

        Targets of trials are in the unit of the leading one.
        """
        given = self._given or (WHOLE_FRONT,)
        return tuple(sorted(given, key=lambda asked: len(asked.levels) == 1))

    @property
    def leading(self) -> Asked:
        return self.asked[0]

    @property
    def is_measured(self) -> bool:
        """Whether it limits anything that a device is measured for."""
        return any(asked.kind in MEASURED_KINDS.values() for asked in self.asked)

    @property
    def winner_drop(self) -> float:
        """How much accuracy, 0..1, the winner may lose."""
        return (WINNER_DROP if self.accuracy_drop is None else self.accuracy_drop) / 100

    @property
    def _given(self) -> tuple[Asked, ...]:
        keys = [key for key in type(self).model_fields if key != "accuracy_drop"]
        return tuple(Asked(key, getattr(self, key)) for key in keys if getattr(self, key))
