"""The search: ask → run → store → tell, in an order that does not depend on timing, resumable at any moment.

Trials are numbered as they are asked for. The baselines come first: one uniform candidate per budget level.
Before trial n is asked for, exactly the trials up to n - in_flight have been told to the controller, in the
order of their numbers, whatever finished when. So the same seed gives the same candidates, and a killed job
goes on by asking and telling its stored trials again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hwprofiles.errors import InvariantError
from search.budget import Cost
from search.controllers.protocol import Controller, Proposal, ScoredTrial
from search.progress import Listener
from trials.candidate import Candidate, Facts, Space, Trial, TrialState, as_counts
from trials.store import Store

MAX_ATTEMPTS = 3
MAX_REPEATS = 20
"""Times in a row that a controller may propose what a baseline has tried before its search is over."""


class Workers(Protocol):
    """The part of `trials.pool.Pool` that the loop uses."""

    @property
    def free(self) -> int: ...

    def submit(self, key: Any, request: Any) -> None: ...

    def wait(self, timeout_s: float) -> list[Any]: ...


class Requests(Protocol):
    """How a trial becomes a request to a worker, and an answer facts."""

    def request(self, trial: Trial) -> Any: ...

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
        seed: int,
        requests: Requests,
        listener: Listener,
    ) -> None:
        self.store, self.job, self.controller, self.name = store, job, controller, name
        self.baselines, self.space, self.cost = baselines, space, cost
        self.total, self.in_flight, self.seed = trials, in_flight, seed
        self.requests, self.listener = requests, listener
        store.requeue_running(job)
        self.trials: list[Trial] = store.trials(job)
        self._tried: set[Candidate] = set()
        self._asked = self._told = 0
        self._ended = False

    def run(self, workers: Workers) -> list[Trial]:
        """Search to the end; returns all trials by number."""
        waiting, running = self._advance(), set[int]()
        while waiting or running:
            while waiting and workers.free > 0:
                number = waiting.pop(0)
                trial = self._save(self.trials[number].start())
                workers.submit(number, self.requests.request(trial))
                running.add(number)
            self._report()
            for finished in workers.wait(1.0):
                running.discard(finished.key)
                if not self._settle(finished):
                    waiting.insert(0, finished.key)
            waiting += self._advance()
        self._report()
        return self.trials

    def _advance(self) -> list[int]:
        """Ask and tell as far as finished trials allow; returns the numbers of new trials to run."""
        to_run = []
        while True:
            while not self._ended and self._asked < self.total and self._asked - self._told < self.in_flight:
                if self._ask() and not self.trials[self._asked - 1].state.finished:
                    to_run.append(self._asked - 1)
            if self._told == self._asked or not self.trials[self._told].state.finished:
                return to_run
            self._tell(self.trials[self._told])

    def _ask(self) -> bool:
        """Ask for the next trial and store it, or compare it with the stored one; False ends the search."""
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
            self.store.add_trials(self.job, [trial])
            self.trials.append(trial)
        self._tried.add(proposal.candidate)
        self._asked += 1
        return True

    def _tell(self, trial: Trial) -> None:
        merit = None if trial.facts is None else self.requests.merit(trial.facts)
        proposal = Proposal(candidate=trial.candidate, target=trial.target)
        cost = float(self.cost(as_counts([trial.candidate]))[0])
        self.controller.tell([ScoredTrial(proposal=proposal, accuracy=merit, cost=cost)])
        self._told += 1

    def _next(self) -> Proposal | None:
        if self._asked < len(self.baselines):
            return self.baselines[self._asked]
        for _ in range(MAX_REPEATS):
            for proposal in self.controller.ask(1):
                if proposal.candidate not in self._tried:
                    return proposal
        return None

    def _check_replay(self, stored: Trial, proposal: Proposal) -> None:
        if stored.candidate != proposal.candidate:
            raise InvariantError(
                f"trial {stored.number} of job {self.job!r} was {self.space.named(stored.candidate)} but its "
                f"replay asks for {self.space.named(proposal.candidate)}; prunefront or a library has "
                "changed since: run the job under another name"
            )

    def _settle(self, finished: Any) -> bool:
        """Store how a trial ended; False if it has to run again."""
        trial = self.trials[finished.key]
        if finished.died and trial.attempts < MAX_ATTEMPTS:
            self.store.add_event(self.job, "worker died", f"trial {trial.number}, attempt {trial.attempts}")
            self._save(trial.requeue())
            return False
        if finished.died:
            self._save(trial.fail(f"its worker died {trial.attempts} times"))
        elif finished.error:
            self._save(trial.fail(finished.error))
        else:
            self._save(trial.finish(self.requests.facts(finished.value)))
        return True

    def _save(self, trial: Trial) -> Trial:
        self.store.save(self.job, trial)
        self.trials[trial.number] = trial
        return trial

    def _report(self) -> None:
        done = [trial for trial in self.trials if trial.state is TrialState.DONE]
        failed = sum(trial.state is TrialState.FAILED for trial in self.trials)
        text = f"trial {len(done) + failed} of {self.total}"
        if done:
            best = max(self.requests.merit(trial.facts) for trial in done if trial.facts is not None)
            text += f", best {best:.1%}"
        if failed:
            text += f", {failed} failed"
        self.listener.update((len(done) + failed) / max(1, self.total), text)
