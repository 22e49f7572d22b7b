"""Our controllers as a searcher of Ray Tune, for experiments of one's own; docs/tune.md has one.

Importing this imports Ray, which reads its environment then: do it inside `trials.cluster.session`, or set
what keeps Ray to this machine before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from hwprofiles.disk import write_whole
from hwprofiles.errors import RequestError
from search.budget import Cost
from search.controllers.protocol import Controller, Proposal, ScoredTrial
from trials.candidate import Space, as_counts


class ControllerSearcher(Searcher):  # type: ignore[misc]
    """Suggests `{"widths": {group: kept units}, "target": cost}` until the controller has no more.

    A trial's last result is what the controller is told, also of one that a scheduler stopped early; one that
    failed, or reported no finite number, teaches nothing. Limit the trials at a time
    (`max_concurrent_trials`): they are asked for in ignorance of each other.

    Args:
        cost: the one that the controller has.
        accuracy, divergence: the keys of a result that hold them.
    """

    def __init__(
        self,
        controller: Controller,
        space: Space,
        cost: Cost,
        *,
        accuracy: str = "accuracy",
        divergence: str = "divergence",
    ) -> None:
        super().__init__(metric=accuracy, mode="max")
        self._controller, self._space, self._cost = controller, space, cost
        self._keys = accuracy, divergence
        self._proposed: dict[str, Proposal] = {}
        self._history: list[tuple[str, list[float | None] | None]] = []
        """Ids in the order of asks, for which there is None, and of tells, with what was told."""

    def __reduce__(self) -> Any:
        # A tuner pickles its searcher when it is made, but a controller is no data: `restore` leads back.
        return Searcher, ()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        proposals = self._controller.ask(1)
        self._history.append((trial_id, None))
        if not proposals:
            return str(Searcher.FINISHED)
        [self._proposed[trial_id]] = proposals
        proposal = self._proposed[trial_id]
        return {"widths": self._space.named(proposal.candidate), "target": proposal.target}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        found = {} if error or result is None else result
        told = [None if found.get(key) is None else float(found[key]) for key in self._keys]
        self._history.append((trial_id, told))
        proposal, (accuracy, divergence) = self._proposed[trial_id], told
        cost = float(self._cost(as_counts([proposal.candidate]))[0])
        self._controller.tell(
            [ScoredTrial(proposal=proposal, accuracy=accuracy, divergence=divergence, cost=cost)]
        )

    def save(self, checkpoint_path: str) -> None:
        """Keep what was asked and told, as JSON."""
        write_whole(Path(checkpoint_path), json.dumps(self._history).encode())

    def restore(self, checkpoint_path: str) -> None:
        """Ask and tell it all again.

        Raises:
            RequestError: this searcher has been used.
        """
        if self._history:
            raise RequestError("only a new searcher can be restored; make one of a new controller")
        keys = self._keys
        for trial_id, told in json.loads(Path(checkpoint_path).read_text(encoding="utf-8")):
            if told is None:
                self.suggest(trial_id)
            else:
                self.on_trial_complete(trial_id, dict(zip(keys, told, strict=True)))
