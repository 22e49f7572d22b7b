"""What is asked of a worker and what it answers: recipe, request, leg of a training, outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trials.answers import Evaluation
from trials.bundle import Bundle
from trials.candidate import Candidate, Facts
from trials.halfway import Halfway
from trials.sparsity import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a job makes its candidates real; equal for all of its trials.

    `execution` is how torch evaluates, `training` how it trains. `zeros` is the share of single weights that
    are zero, or how many of how many stay; 0 leaves all that units leave. `blocks` says whether whole blocks
    may go. `frozen` are the groups whose proof failed, with the reason: workers need not prove again.
    """

    criterion: str = "l1"
    repair: str = "least_squares"
    final_repair: str = "sequential"
    validation_images: int = 0
    brief_steps: int = 0
    final_steps: int = 0
    batch_size: int = 128
    learning_rate: float = 0.0
    distill: float = 1.0
    augment: str = "none"
    zeros: str | float = 0.0
    zeros_scope: Scope = "global"
    schedule: str = "one_shot"
    execution: str = "float32"
    training: str = "float32"
    seed: int = 0
    blocks: bool = False
    frozen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One candidate to make real; a `final` one to the end: trained in full, tested, its network handed back.

    `needed` is an accuracy short of which it is of no use: no more images are looked at than it takes to see
    that it falls short. A `probe`, of which one group is pruned, is not trained, keeps all its weights, and
    has the fast repair of what is repaired in order: behind a single cut that does nearly as well.
    """

    candidate: Candidate
    seed: int
    needed: float = 0.0
    probe: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A part of a final request: to train for so long, from the start or from where it was left off, by the
    same recipe.

    Where the job has zeros, which come during the training, a leg is the whole way.
    """

    request: Request
    for_s: float
    halfway: Halfway | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a request found out.

    Of a final request alone: `test`, the one look at the test split, and `network`, to be kept by whoever
    asked: a worker may be on a machine whose disk nobody else sees.
    """

    facts: Facts
    kept: Mapping[str, Sequence[int]]
    test: Mapping[str, float] | None = None
    network: Bundle | None = None

    def to_json(self) -> dict[str, Any]:
        return {"facts": self.facts.to_json(), "kept": dict(self.kept), "test": self.test}


def merit(found: Evaluation | Facts, carved: bool) -> float:
    """What a search maximises, 0..1: accuracy, or closeness to the dense model on a carved split.

    A trained network has memorised the images of a carved split: accuracy there flatters every candidate.
    """
    return math.exp(-found.divergence) if carved else found.accuracy
