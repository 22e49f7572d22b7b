"""Workers that are made up, beside which all else of a search is real."""

from __future__ import annotations

import time
from bisect import insort
from typing import Any

import numpy as np

from trials.candidate import Candidate, Facts
from trials.pool import Finished
from trials.requests import Outcome, Request


class Canned:
    """A worker whose trials take `trial_s` and find what their candidate's widths say."""

    def __init__(self, trial_s: float, dense: Candidate) -> None:
        self.trial_s, self.dense = trial_s, np.array(dense.kept)

    def __call__(self, request: Request) -> Outcome:
        time.sleep(self.trial_s)
        keep = np.array(request.candidate.kept) / self.dense
        accuracy = float(0.95 - 0.3 * (1 - keep).mean() ** 2)
        facts = Facts(
            accuracy=accuracy,
            accuracy_error=0.01,
            loss=1 - accuracy,
            divergence=1 - accuracy,
            macs=1,
            parameters=1,
            class_accuracy=(accuracy,) * 10,
            history={"repaired": accuracy},
            seconds={"repair": self.trial_s, "evaluate": 0.0},
        )
        return Outcome(facts=facts, kept={})


class Simulated:
    """Any number of workers, of which only the clock knows: busy for `trial_s`, and then as `Canned`."""

    def __init__(self, workers: int, trial_s: float, dense: Candidate) -> None:
        self.free, self.trial_s, self._answer = workers, trial_s, Canned(0.0, dense)
        self._due: list[tuple[float, Any, Request]] = []
        self.ended_s: list[float] = []
        """When those ended that the last waiting gave, by `time.time`."""

    def submit(self, key: Any, request: Request) -> None:
        self.begin(key, request, self.trial_s)

    def begin(self, key: Any, request: Request, takes_s: float) -> None:
        self.free -= 1
        insort(self._due, (time.time() + takes_s, key, request), key=lambda each: each[0])

    def wait(self, timeout_s: float) -> list[Finished]:
        time.sleep(max(0.0, min(timeout_s, self._due[0][0] - time.time())))
        over = sum(due_s <= time.time() for due_s, _, _ in self._due)
        ended, self._due = self._due[:over], self._due[over:]
        self.free += over
        self.ended_s = [due_s for due_s, _, _ in ended]
        return [
            Finished(key=key, value=self._answer(request), busy_s=self.trial_s) for _, key, request in ended
        ]
