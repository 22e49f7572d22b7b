"""What is decided of a set, step by step, kept in the store so that a resumed set does nothing again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from hwprofiles.errors import RequestError
from search.job import Job
from search.place import Place
from search.sets.asked import Member, ModelSet
from search.sets.sweep import Tried
from trials.store import Store

VERSION = 1
"""Of the JSON that the store holds."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one model may cost, in the unit of the budget.

    `cost` is its part of the budget, `levels` what its job searches at, and `equal` the one of them that is
    nearest to its part of an equal division.
    """

    cost: float
    equal: float
    levels: tuple[float, ...]


@dataclass(slots=True, kw_only=True)
class SetPlan:
    """Of each model by its name: its job's plan without targets, what was tried, and then its share.

    `taken` is the trial that each model became, or None where it stays as it is; empty until all are done.
    """

    jobs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    tried: dict[str, Tried] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    taken: dict[str, int | None] = field(default_factory=dict)

    def keep(self, store: Store, name: str) -> None:
        store.set_plan(name, {"version": VERSION, **asdict(self)})

    @classmethod
    def of(cls, store: Store, name: str) -> Self:
        """The plan of a set in the store, empty for a new one.

        Raises:
            RequestError: another version of prunefront made it.
        """
        stored = store.job(name).plan
        if not stored:
            return cls()
        if stored.get("version") != VERSION:
            raise RequestError(
                f"the stored plan of set {name!r} has format version {stored.get('version')!r}; allowed: "
                f"{VERSION}; run the set under another name"
            )
        return cls(
            jobs=stored["jobs"],
            tried={
                model: {int(number): point and tuple(point) for number, point in tried.items()}
                for model, tried in stored["tried"].items()
            },
            shares={
                model: Share(share["cost"], share["equal"], tuple(share["levels"]))
                for model, share in stored["shares"].items()
            },
            taken=stored["taken"],
        )


@dataclass(frozen=True, slots=True)
class OpenSet:
    """A set, where it is kept, and how far its plan is."""

    asked: ModelSet
    place: Place
    store: Store
    plan: SetPlan

    def place_of(self, member: Member) -> Place:
        """Where the job of one model keeps its files: beside those of the set."""
        return Place(self.place.runs, self.asked.job_name(member))

    def job(self, member: Member) -> Job:
        """The job of one model, once the budget is divided."""
        return self.asked.job(member, self.plan.shares[member.name].levels)

    def keep(self) -> None:
        self.plan.keep(self.store, self.asked.name)
