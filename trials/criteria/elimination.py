"""The criterion that repair itself answers: what is missed least once the others make up for it."""

from __future__ import annotations

from trials import repair
from trials.criteria.evidence import Evidence, Scores
from trials.criteria.magnitude import l1


def error(evidence: Evidence) -> Scores:
    """The place in which a unit goes when units go one by one, each time the one that is missed least.

    What is missed is the least-squares error of all layers that read a unit, after they are refitted to make
    up for it. Groups with a reader that no repair refits are scored by `l1`, and so are queries and keys:
    which of their places go does not matter once they are turned.

    Source: `trials.repair`.
    """
    return {**l1(evidence), **repair.importance(evidence.calibration)}
