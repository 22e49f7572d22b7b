"""What the owner of a job asks of it, and what becomes of the job by that.

    pause     no new trials; running ones finish; the job waits
    resume    it goes on
    stop      no new trials; running ones finish; the best of what is there is trained, measured and exported
    cancel    it ends now
    retry     what was cancelled or has failed starts again, with all that it has found

As Weights & Biases has them, and `retry` beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from hwprofiles.errors import ConflictError
from trials.records import JobState


class Verb(StrEnum):
    """What can be asked of a job."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    CANCEL = "cancel"
    RETRY = "retry"


class Wish(StrEnum):
    """What was asked of who works on a job and is not done yet."""

    NOTHING = ""
    PAUSE = "pause"
    STOP = "stop"
    PAUSE_STOP = "pause, and then stop"
    CANCEL = "cancel"

    @property
    def now(self) -> Wish:
        """What is to be done first."""
        return Wish.PAUSE if self is Wish.PAUSE_STOP else self


Wishes = Callable[[], Wish]
"""Tells what is asked at this moment."""


def nothing_wished() -> Wish:
    """What is asked of a job that answers to nobody but its own process."""
    return Wish.NOTHING


_OPEN = (
    JobState.QUEUED, JobState.PLANNING, JobState.SEARCHING, JobState.FINISHING, JobState.INTERRUPTED,
    JobState.PAUSED,
)  # fmt: skip
_FITS = {
    Verb.PAUSE: _OPEN,
    Verb.RESUME: _OPEN,
    Verb.STOP: _OPEN,
    Verb.CANCEL: (*_OPEN, JobState.FAILED, JobState.CANCELLED),
    Verb.RETRY: (JobState.FAILED, JobState.CANCELLED),
}
"""The states that a verb can be asked in. Asking for what is so already changes nothing."""


def steered(job: str, verb: Verb, state: JobState, wish: Wish, *, at_work: bool) -> tuple[JobState, Wish]:
    """The state and the wish of a job after a verb.

    Args:
        at_work: whether a process works on it, which then does what is wished; else it is so at once.

    Raises:
        ConflictError: the verb does not fit.
    """
    cancelled = wish is Wish.CANCEL and verb is not Verb.CANCEL
    if state not in _FITS[verb] or cancelled:
        said = "being cancelled" if cancelled else state
        fitting = [] if cancelled else [other for other in Verb if state in _FITS[other]]
        raise ConflictError(f"job {job!r} is {said} and cannot take {verb}; {_allowed(fitting)}")
    match verb:
        case Verb.PAUSE:
            asked = Wish.PAUSE_STOP if wish in (Wish.STOP, Wish.PAUSE_STOP) else Wish.PAUSE
            return (state, asked) if at_work else (JobState.PAUSED, wish)
        case Verb.CANCEL:
            return (state, Wish.CANCEL) if at_work else (JobState.CANCELLED, Wish.NOTHING)
        case Verb.RESUME:
            kept = {Wish.PAUSE: Wish.NOTHING, Wish.PAUSE_STOP: Wish.STOP}.get(wish, wish)
            return JobState.QUEUED if state is JobState.PAUSED else state, kept
        case Verb.STOP:
            return JobState.QUEUED if state is JobState.PAUSED else state, Wish.STOP
        case Verb.RETRY:
            return JobState.QUEUED, Wish.NOTHING


def _allowed(verbs: list[Verb]) -> str:
    return f"it can take {', '.join(verbs)}" if verbs else "it is over"
