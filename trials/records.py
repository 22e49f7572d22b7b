"""What the store gives back of a job, beside its trials: itself, its results, its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trials.candidate import Candidate, TrialState


class JobState(StrEnum):
    """Where a job stands; DONE is final, every other state can be resumed.

    A job whose process was killed keeps the state it was killed in. INTERRUPTED is one whose process was
    asked to end; PAUSED one that its owner lets wait, CANCELLED one that its owner gave up.
    """

    QUEUED = "queued"
    PLANNING = "planning"
    SEARCHING = "searching"
    FINISHING = "finishing"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DONE = "done"


TAKEN_UP = (JobState.QUEUED, JobState.PLANNING, JobState.SEARCHING, JobState.FINISHING, JobState.INTERRUPTED)
"""States in which a job that nobody holds is to be worked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as the store knows it: `spec` is what the user asked for, `plan` what was worked out from it."""

    name: str
    state: JobState
    spec: Mapping[str, Any]
    plan: Mapping[str, Any]
    created_s: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the final stage found out about one trial, such as kind "finetuned", "measured" or "test"."""

    trial: int
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a job's log; `number` grows with every event of the store."""

    number: int
    time_s: float
    """Seconds since the epoch."""
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a front shows of a trial; its accuracy and the error of that are None unless it is done."""

    number: int
    candidate: Candidate
    state: TrialState
    origin: str
    target: float
    reason: str
    accuracy: float | None
    accuracy_error: float | None
