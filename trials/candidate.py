"""The space of candidates, one candidate, one trial and its facts: frozen records, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwprofiles.errors import InvariantError, RequestError, nearest

Counts = NDArray[np.int64]
"""(candidates, groups): kept units; the batch form of `Candidate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One group as the search sees it: how many units it has and which counts may be kept.

    Allowed counts are the multiples of `step` from `lowest` upwards, and always `size`. A whole residual
    block is an axis of size 1 with 0 as its lowest count, and the only kind of group that may go altogether.
    """

    name: str
    size: int
    step: int = 1
    lowest: int = 1

    @property
    def allowed(self) -> NDArray[np.int64]:
        return _allowed(self)

    @property
    def is_block(self) -> bool:
        return self.lowest == 0

    def round(self, wanted: ArrayLike) -> NDArray[np.int64]:
        """Round wanted counts to the nearest allowed ones; ties go up."""
        allowed = _allowed(self)
        middles = (allowed[1:] + allowed[:-1]) / 2
        return allowed[np.searchsorted(middles, wanted, side="right")]


@cache
def _allowed(axis: Axis) -> NDArray[np.int64]:
    start = -(-axis.lowest // axis.step) * axis.step
    allowed = np.append(np.arange(start, axis.size, axis.step, dtype=np.int64), axis.size)
    allowed.flags.writeable = False  # shared by all who ask
    return allowed


@dataclass(frozen=True, slots=True)
class Candidate:
    """How many units of each group are kept, in the order of the space's axes."""

    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """All candidates of a model: one axis per prunable group, in the model's own order."""

    axes: tuple[Axis, ...]

    @property
    def dense(self) -> Candidate:
        return Candidate(tuple(axis.size for axis in self.axes))

    @property
    def sizes(self) -> Counts:
        return np.array([axis.size for axis in self.axes], dtype=np.int64)

    @property
    def are_blocks(self) -> NDArray[np.bool_]:
        return np.array([axis.is_block for axis in self.axes], dtype=np.bool_)

    @property
    def with_all_blocks(self) -> Space:
        return Space(tuple(replace(axis, lowest=max(1, axis.lowest)) for axis in self.axes))

    def named(self, candidate: Candidate) -> dict[str, int]:
        return {axis.name: kept for axis, kept in zip(self.axes, candidate.kept, strict=True)}

    def parse(self, widths: Mapping[str, int]) -> Candidate:
        """Read `{group: kept}`; a group left out stays whole.

        Any count from 1 to the group's size is taken, on the step or not: the user said so. Of a block 0 is.

        Raises:
            RequestError: an unknown group, or a count out of range.
        """
        axes = {axis.name: axis for axis in self.axes}
        for name, kept in widths.items():
            if name not in axes:
                raise RequestError(f"widths name {name!r}, which is no prunable group; {nearest(name, axes)}")
            least, most = int(not axes[name].is_block), axes[name].size
            if not isinstance(kept, int) or isinstance(kept, bool) or not least <= kept <= most:
                raise RequestError(f"widths keep {kept!r} of group {name!r}; allowed: {least} to {most}")
        return Candidate(tuple(int(widths.get(axis.name, axis.size)) for axis in self.axes))

    def round(self, wanted: NDArray[np.float64]) -> Counts:
        """Round (candidates, groups) of wanted counts to the nearest allowed ones; ties go up."""
        return np.stack([axis.round(wanted[:, i]) for i, axis in enumerate(self.axes)], axis=1)


class Move(NamedTuple):
    """How many images the dense model answers with one class and this one with another."""

    dense: int
    now: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Where answers are others than the dense model's on the same images.

    `lost` images were answered right and no longer are, `won` ones the reverse; `moves` are the pairs of
    classes between which most answers moved, most first. `worst_class` lost the largest share of its images,
    `worst_drop`, -1..1, with one standard error.
    """

    lost: int
    won: int
    moves: tuple[Move, ...]
    worst_class: int
    worst_drop: float
    worst_drop_error: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "moves": tuple(Move(*move) for move in data["moves"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a trial found out that no device changes.

    Accuracies and losses are on the search-validation split, of which `images` were looked at;
    `accuracy_error` is one standard error, and `calibration_error`, 0..1, how far confidence lies from
    accuracy. `peak_bytes` are the activations of one sample at their peak, as `trials.memory` counts them.
    `history` keeps the accuracy after each stage (repaired, fine-tuned) in order, `notes` sentences on what
    went otherwise than asked. What prunefront did not find out yet when a trial was stored is None, or 0
    images.
    """

    accuracy: float
    accuracy_error: float
    loss: float
    divergence: float
    macs: int
    parameters: int
    peak_bytes: int | None = None
    calibration_error: float | None = None
    class_accuracy: tuple[float, ...] = ()
    changes: Changes | None = None
    images: int = 0
    history: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data: every record in it, too, is a dictionary or a list."""
        found = asdict(self)
        if self.changes:
            found["changes"]["moves"] = [list(move) for move in self.changes.moves]
        return found | {"class_accuracy": list(self.class_accuracy), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        changes = data.get("changes")
        return cls(
            **{
                **data,
                "class_accuracy": tuple(data["class_accuracy"]),
                "changes": Changes.from_json(changes) if changes else None,
                "notes": tuple(data.get("notes", ())),
            }
        )


class TrialState(StrEnum):
    """QUEUED → RUNNING → DONE or FAILED; a trial whose worker died goes back to QUEUED."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"

    @property
    def finished(self) -> bool:
        return self in (TrialState.DONE, TrialState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attempt at one candidate. A transition returns a new record.

    `target` is the cost the candidate was made to meet (see `search.budget`); `origin` names what proposed
    it: a controller, or "uniform" for the baselines that every job runs.
    """

    number: int
    candidate: Candidate
    seed: int
    target: float
    origin: str
    state: TrialState = TrialState.QUEUED
    attempts: int = 0
    facts: Facts | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.state is TrialState.DONE) != (self.facts is not None):
            raise InvariantError(f"trial {self.number} is {self.state} with facts={self.facts!r}")
        if (self.state is TrialState.FAILED) != bool(self.reason):
            raise InvariantError(f"trial {self.number} is {self.state} with reason={self.reason!r}")

    @property
    def is_new(self) -> bool:
        """Whether it was never attempted."""
        return self.state is TrialState.QUEUED and not self.attempts

    def start(self) -> Self:
        return replace(self, state=TrialState.RUNNING, attempts=self.attempts + 1)

    def requeue(self) -> Self:
        return replace(self, state=TrialState.QUEUED)

    def finish(self, facts: Facts) -> Self:
        return replace(self, state=TrialState.DONE, facts=facts)

    def fail(self, reason: str) -> Self:
        return replace(self, state=TrialState.FAILED, reason=reason)


def as_counts(candidates: Sequence[Candidate]) -> Counts:
    return np.array([candidate.kept for candidate in candidates], dtype=np.int64).reshape(len(candidates), -1)
