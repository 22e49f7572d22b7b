"""Every error this project raises on purpose, drawn by who can act on it.

    PrunefrontError
    ├── RequestError            the user edits the job, the command or the file      (exit 2, HTTP 422)
    │   ├── UnsupportedOpError  a model uses an op that has no rule
    │   ├── BundleError         a bundle is damaged, too large or not what it says
    │   ├── ProfileError        a profile file is damaged or of another identity
    │   ├── NotMeasuredError    a table was asked for an operator it does not hold
    │   ├── NotFoundError       there is nothing of that name                        (HTTP 404)
    │   └── ConflictError       it does not fit the state that something is in       (HTTP 409)
    ├── TrialError              this candidate failed; the search goes on            (stored with the trial)
    ├── TransientError          the same call may work later; the pool tries again   (exit 3, HTTP 503)
    │   ├── LostLeaseError      another process has taken over; this one must end
    │   └── NoRoomError         a disk is full                                       (HTTP 507)
    └── InvariantError          our bug                                              (exit 1, HTTP 500)

A message is one sentence that says what, where, what was allowed, the nearest valid thing and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrunefrontError(Exception):
    """Root of the tree; never raised itself. Its message is one line, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RequestError(PrunefrontError):
    """The user can mend this by editing what they asked for."""


class UnsupportedOpError(RequestError):
    """The model uses an operator that has no rule."""


class BundleError(RequestError):
    """A bundle is damaged, too large, or not what its manifest says."""


class ProfileError(RequestError):
    """A profile is damaged, or belongs to another device, runtime or version."""


class NotMeasuredError(RequestError):
    """A table was asked about an operator that it does not hold."""


class NotFoundError(RequestError):
    """There is nothing of that name, or not for who asks."""


class ConflictError(RequestError):
    """What is asked for does not fit the state that something is in now."""


class TrialError(PrunefrontError):
    """One candidate failed for a reason of its own (NaN, divergence, nothing pruned)."""


class TransientError(PrunefrontError):
    """The same call may succeed later: a worker died, a device is busy."""


class LostLeaseError(TransientError):
    """Another process has taken over what this one worked on."""


class NoRoomError(TransientError):
    """A disk, or a quota on one, has no room left."""


class InvariantError(PrunefrontError):
    """Something that only a bug can break is broken."""


def one_line(text: str) -> str:
    """Return a text with a space in place of each line break and of the indentation after it.

    What cannot be printed, such as a terminal's commands in a name that a file brings, becomes "\ufffd".
    """
    line = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in line.replace("\t", " "))


def nearest(wanted: str, allowed: Iterable[str]) -> str:
    """Return the closing words of a message: the nearest allowed name, or all of them when none is near."""
    names = sorted(allowed)
    return near(wanted, names) or f"allowed: {', '.join(names)}"


def near(wanted: str, allowed: Iterable[str]) -> str:
    """Return the question whether the nearest allowed name was meant; "" when none is near."""
    close = difflib.get_close_matches(wanted, sorted(allowed), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
