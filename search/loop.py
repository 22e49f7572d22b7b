"""The search: ask → run → store → tell, in an order that does not depend on timing, resumable at any moment.

Trials are numbered as they are asked for. The baselines come first: one uniform candidate per budget level.
Before trial n is asked for, exactly the trials up to n - in_flight have been told to the controller, in the
order of their numbers, whatever finished when. So the same seed gives the same candidates, and a killed job
goes on by asking and telling its stored trials again, but for those that were asked for and told when its
controller was kept last, if it is one that can be.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, Self

from hwprofiles.errors import InvariantError
from search.budget import Cost
from search.controllers.protocol import Controller, Proposal, ScoredTrial
from search.controllers.state import Keeper, State
from search.progress import Listener
from trials.candidate import Candidate, Facts, Space, Trial, TrialState, as_counts
from trials.pool import Finished
from trials.steering import Wish, Wishes, nothing_wished
from trials.store import Store

MAX_DEATHS = 3
"""Workers that may die of one trial before it is given up; what stops the whole job is not counted."""
KEPT_EVERY = 16
"""Trials told after which what a controller knows is kept."""
MAX_REPEATS = 20
"""Times in a row that a controller may propose what has been tried before its search is over."""


class Workers(Protocol):
    """The part of `trials.pool.Pool` that the loop uses."""

    @property
    def free(self) -> int: ...

    def submit(self, key: Any, request: Any) -> None: ...

    def wait(self, timeout_s: float) -> list[Finished]: ...


class Requests(Protocol):
    """How a trial becomes a request to a worker, and an answer facts."""

    def request(self, trial: Trial, needed: float) -> Any:
        """
        Args:
            needed: a merit short of which the trial is of no use, or 0.
        """
        ...

    def facts(self, value: Any) -> Facts: ...

    def merit(self, facts: Facts) -> float:
        """What the controller learns to maximise, 0..1."""
        ...


class Loop:
    """One job's search.

    Args:
        baselines: proposals that every job tries first, told to the controller like its own.
        trials: how many trials there will be in all, baselines included.
        in_flight: see the module; stored with the job, as the candidates depend on it.
        finalists: how many trials will be chosen. What falls short of as many others, no two alike, that were
            made for its target and told before it was asked for is of no use.
        add_to_front: called with each trial that is told as done, and its merit; returns what to say of the
            front so far.
        memory: where what the controller knows is kept, if it is a `Keeper`.
    """

    def __init__(
        self,
        store: Store,
        job: str,
        controller: Controller,
        baselines: Sequence[Proposal],
        *,
        name: str,
        space: Space,
        cost: Cost,
        trials: int,
        in_flight: int,
        finalists: int,
        seed: int,
        requests: Requests,
        add_to_front: Callable[[Trial, float], str],
        listener: Listener,
        memory: Path | None = None,
    ) -> None:
        self.store, self.job, self.controller, self.name = store, job, controller, name
        self.baselines, self.space, self.cost = baselines, space, cost
        self.total, self.in_flight, self.finalists, self.seed = trials, in_flight, finalists, seed
        self.requests, self.add_to_front, self.listener = requests, add_to_front, listener
        store.requeue_running(job)
        self.trials: list[Trial] = store.trials(job)
        self._unsaved: list[Trial] = []
        """What is to be stored next, in this order."""
        self._ends = Counter(trial.state for trial in self.trials if trial.state.finished)
        self._tried: set[Candidate] = set()
        self._deaths: Counter[int] = Counter()
        self._asked = self._told = 0
        self._ended = False
        self._best: float | None = None
        self._merits: dict[float, list[float]] = defaultdict(list)
        """Target → the best merits told so far, as many as there will be finalists."""
        self._needed: list[float] = []
        self._front = ""
        self._memory, self._history = memory, _History()
        self._known_asked, self._known_told = self._recall()

    def run(self, workers: Workers, wish: Wishes = nothing_wished) -> list[Trial]:
        """Search to the end, or until it is told to stop; returns all trials by number.

        Args:
            wish: what its owner asks of the search now. Once that is to pause or to stop, no trial is begun,
                and those that run are waited for.

        Raises:
            InvariantError: the controller does not ask again for what is stored.
            KeyboardInterrupt: it is to pause, and no trial runs any more.
        """
        waiting, running, moved = deque[int](), set[int](), True
        while moved or waiting or running:
            # Where the controller has something to learn or to ask for, it does not wait for workers.
            for finished in workers.wait(0.0 if moved else 1.0) if running else []:
                number = self._settle(finished)
                running.discard(number)
                if not self.trials[number].state.finished:
                    waiting.appendleft(number)
            wished = wish()
            if wished is Wish.STOP:
                self.total = len(self.trials)
                waiting.clear()
            self._start(waiting, running, workers, at_most=0 if wished else workers.free)
            if wished is Wish.PAUSE and not running:
                raise KeyboardInterrupt
            self._keep()
            self._report()
            moved = self._advance(waiting)
        self._store()
        if len(self.trials) < self.total:
            self.listener.note(
                f"the search is over after {len(self.trials)} of {self.total} trials: "
                f"{self.name} has no other candidate that meets the budget"
            )
        return self.trials

    def _start(self, waiting: deque[int], running: set[int], workers: Workers, at_most: int) -> None:
        """Give workers so many trials, once all that has changed is stored.

        What is only asked for can wait for what changes next: lost, it would be asked for again.
        """
        started = [waiting.popleft() for _ in range(min(len(waiting), at_most))]
        for number in started:
            self._change(self.trials[number].start())
        if not all(trial.is_new for trial in self._unsaved):
            self._store()
        for number in started:
            workers.submit(number, self.requests.request(self.trials[number], self._needed[number]))
            running.add(number)

    def _store(self) -> None:
        """Store all that has changed, in one transaction."""
        if self._unsaved:
            self.store.save(self.job, *self._unsaved)
            self._unsaved.clear()

    def _advance(self, waiting: deque[int]) -> bool:
        """Ask for one trial, or tell one, if finished trials allow it; what is to be run waits then."""
        if not self._ended and self._asked < self.total and self._asked - self._told < self.in_flight:
            if self._ask() and not self.trials[self._asked - 1].state.finished:
                waiting.append(self._asked - 1)
            return True
        if self._told == self._asked or not self.trials[self._told].state.finished:
            return False
        self._tell(self.trials[self._told])
        return True

    def _ask(self) -> bool:
        """Ask for the next trial, or compare it with the stored one; False ends the search."""
        proposal = self._next()
        if proposal is None:
            self._ended = True
            return False
        number = self._asked
        if number < len(self.trials):
            self._check_replay(self.trials[number], proposal)
        else:
            trial = Trial(
                number=number,
                candidate=proposal.candidate,
                seed=self.seed + number,
                target=proposal.target,
                origin="uniform" if number < len(self.baselines) else self.name,
            )
            self.trials.append(trial)
            self._unsaved.append(trial)
        self._tried.add(proposal.candidate)
        best = self._merits[proposal.target]
        self._needed.append(best[-1] if len(best) == self.finalists else 0.0)
        self._asked += 1
        self._history.asked(self.trials[number])
        return True

    def _tell(self, trial: Trial) -> None:
        scored = self._scored(trial)
        if self._told >= self._known_told:
            self.controller.tell([scored])
        self._told += 1
        self._history.told(trial)
        merit = scored.accuracy
        if merit is not None:
            self._best = merit if self._best is None else max(self._best, merit)
            if trial.number >= len(self.baselines):  # which take no finalist's place
                best = self._merits[trial.target]
                self._merits[trial.target] = sorted({*best, merit}, reverse=True)[: self.finalists]
            self._front = self.add_to_front(trial, merit)

    def _scored(self, trial: Trial) -> ScoredTrial:
        return ScoredTrial(
            proposal=Proposal(candidate=trial.candidate, target=trial.target),
            accuracy=None if trial.facts is None else self.requests.merit(trial.facts),
            divergence=None if trial.facts is None else trial.facts.divergence,
            cost=float(self.cost(as_counts([trial.candidate]))[0]),
        )

    def _next(self) -> Proposal | None:
        if self._asked < len(self.baselines):
            return self.baselines[self._asked]
        if self._asked < self._known_asked:
            known = self.trials[self._asked]
            return Proposal(candidate=known.candidate, target=known.target)
        for _ in range(MAX_REPEATS):
            for proposal in self.controller.ask(1):
                if proposal.candidate not in self._tried:
                    return proposal
        return None

    def _recall(self) -> tuple[int, int]:
        """Let the controller go on where it was kept; returns what it had been asked for and told by then."""
        if self._memory is None or not isinstance(self.controller, Keeper):
            return 0, 0
        kept = State.read(self._memory)
        if kept is None:
            return 0, 0
        asked, told = self.trials[: kept.values["asked"]], self.trials[: kept.values["told"]]
        if kept.values["history"] != _History.of(asked, told).digest:
            return 0, 0
        known = State(kept.arrays, kept.values["controller"])
        proposed = [
            Proposal(candidate=trial.candidate, target=trial.target) for trial in asked[len(self.baselines) :]
        ]
        self.controller.load(known, proposed, [self._scored(trial) for trial in told])
        return len(asked), len(told)

    def _keep(self) -> None:
        """Keep what the controller knows, unless it was kept a short while ago or its search is over."""
        if self._memory is None or not isinstance(self.controller, Keeper) or self._ended or self._unsaved:
            return
        if self._told >= max(self._known_told + KEPT_EVERY, len(self.baselines)):
            state = self.controller.state()
            place = {"asked": self._asked, "told": self._told, "history": self._history.digest}
            State(state.arrays, {**place, "controller": dict(state.values)}).write(self._memory)
            self._known_asked, self._known_told = self._asked, self._told

    def _check_replay(self, stored: Trial, proposal: Proposal) -> None:
        if stored.candidate != proposal.candidate:
            raise InvariantError(
                f"trial {stored.number} of job {self.job!r} was {self.space.named(stored.candidate)} but its "
                f"replay asks for {self.space.named(proposal.candidate)}; prunefront, a library or a "
                "file in the folder of its run, such as sensitivity.json, has changed since: run the job "
                "under another name"
            )

    def _settle(self, finished: Finished) -> int:
        """Take in how a trial ended, or that it has to run again; returns its number."""
        number = finished.key
        assert isinstance(number, int)
        trial = self.trials[number]
        if finished.died:
            self._deaths[number] += 1
            self.store.add_event(self.job, "worker died", f"trial {number}, attempt {trial.attempts}")
            if self._deaths[number] < MAX_DEATHS:
                self._change(trial.requeue())
            else:
                self._change(trial.fail(f"its worker died {MAX_DEATHS} times"))
        elif finished.error:
            self._change(trial.fail(finished.error))
        else:
            self._change(trial.finish(self.requests.facts(finished.value)))
        return number

    def _change(self, trial: Trial) -> None:
        self._ends.update([trial.state] * trial.state.finished)
        self.trials[trial.number] = trial
        self._unsaved.append(trial)

    def _report(self) -> None:
        finished, failed = self._ends.total(), self._ends[TrialState.FAILED]
        parts = [
            f"trial {finished} of {self.total}",
            "" if self._best is None else f"best {self._best:.1%}",
            self._front,
            f"{failed} failed" if failed else "",
        ]
        self.listener.update(finished / max(1, self.total), ", ".join(filter(None, parts)))


class _History:
    """A digest of what a controller was asked for and told; it costs the same however much that is."""

    def __init__(self) -> None:
        self._asked, self._told = sha256(), sha256()

    @classmethod
    def of(cls, asked: Iterable[Trial], told: Iterable[Trial]) -> Self:
        history = cls()
        for trial in asked:
            history.asked(trial)
        for trial in told:
            history.told(trial)
        return history

    def asked(self, trial: Trial) -> None:
        self._asked.update(repr(trial.candidate.kept).encode())

    def told(self, trial: Trial) -> None:
        found = trial.facts and (float(trial.facts.accuracy), float(trial.facts.divergence))
        self._told.update(repr(found).encode())

    @property
    def digest(self) -> str:
        return self._asked.hexdigest() + self._told.hexdigest()
