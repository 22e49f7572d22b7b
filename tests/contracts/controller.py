"""What every controller promises: subclass, supply `make`, inherit the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from search.budget import Cost
from search.controllers.protocol import Controller, Proposal, ScoredTrial
from trials.candidate import Axis, Candidate, Counts, Space

SPACE = Space(
    (
        Axis(name="stem", size=16, step=4, lowest=4),
        Axis(name="block1", size=32, step=4, lowest=4),
        Axis(name="block2", size=32, step=8, lowest=8),
        Axis(name="block3", size=64, step=8, lowest=8),
        Axis(name="head", size=10),
    )
)
BLOCKS = Space((*SPACE.axes, *(Axis(name=f"whole{number}", size=1, lowest=0) for number in range(4))))
TARGETS = (800.0, 1200.0, 1500.0)
TRIALS = 24

Accuracy = Callable[[Candidate], float | None]


def cost(counts: Counts) -> NDArray[np.float64]:
    """Between 176 and 2136, linear in the counts, and 200 for each block that follows them."""
    widths = counts[:, : len(SPACE.axes)] @ np.array([10, 20, 15, 12, 9])
    return np.asarray(widths + 200 * counts[:, len(SPACE.axes) :].sum(axis=1), dtype=np.float64)


def accuracy(candidate: Candidate) -> float | None:
    """The first group matters most, and blocks not at all."""
    keep = np.array(candidate.kept[: len(SPACE.axes)]) / SPACE.sizes
    return float(np.sqrt(keep) @ np.array([0.5, 0.2, 0.1, 0.1, 0.1]))


def score(proposals: Sequence[Proposal], accuracy: Accuracy = accuracy) -> list[ScoredTrial]:
    found = [(proposal, accuracy(proposal.candidate)) for proposal in proposals]
    return [
        ScoredTrial(
            proposal=proposal,
            accuracy=reached,
            divergence=None if reached is None else 1 - reached,
            cost=float(cost(np.array([proposal.candidate.kept]))[0]),
        )
        for proposal, reached in found
    ]


def losses(space: Space) -> list[NDArray[np.float64]]:
    """What each group alone costs: `1 - accuracy` with the others whole."""
    found = []
    for index, axis in enumerate(space.axes):
        counts = np.tile(space.sizes, (len(axis.allowed), 1))
        counts[:, index] = axis.allowed
        found.append(np.array([1 - (accuracy(Candidate(tuple(row))) or 0.0) for row in counts.tolist()]))
    return found


def play(controller: Controller, trials: int = TRIALS, at_once: int = 2) -> list[Proposal]:
    """Ask and tell until there are `trials` proposals or no more."""
    asked: list[Proposal] = []
    while len(asked) < trials and (proposals := controller.ask(min(at_once, trials - len(asked)))):
        controller.tell(score(proposals))
        asked += proposals
    return asked


class ControllerContract:
    def make(
        self, seed: int, space: Space = SPACE, cost: Cost = cost, targets: Sequence[float] = TARGETS
    ) -> Controller:
        """Return a new controller for `TRIALS` trials."""
        raise NotImplementedError

    def test_every_proposal_holds_its_budget_with_allowed_counts(self) -> None:
        for proposal in play(self.make(seed=0)):
            assert proposal.target in TARGETS
            assert cost(np.array([proposal.candidate.kept]))[0] <= proposal.target
            for kept, axis in zip(proposal.candidate.kept, SPACE.axes, strict=True):
                assert kept in axis.allowed

    def test_the_first_proposals_take_each_level_once(self) -> None:
        first = self.make(seed=0).ask(len(TARGETS))
        assert sorted(proposal.target for proposal in first) == sorted(TARGETS)

    def test_nothing_is_proposed_twice(self) -> None:
        candidates = [proposal.candidate for proposal in play(self.make(seed=0))]
        assert len(set(candidates)) == len(candidates)

    def test_of_many_that_are_under_way_at_once_none_is_proposed_twice(self) -> None:
        candidates = [proposal.candidate for proposal in self.make(seed=0).ask(TRIALS)]
        assert len(candidates) == len(set(candidates)) >= len(TARGETS)

    def test_what_others_proposed_and_ran_is_not_proposed_again(self) -> None:
        others = play(self.make(seed=0), trials=6)
        controller = self.make(seed=0)
        controller.tell(score(others))
        assert not {p.candidate for p in play(controller)} & {p.candidate for p in others}

    def test_a_fresh_controller_fed_the_same_history_asks_the_same(self) -> None:
        original, resumed = self.make(seed=3), self.make(seed=3)
        for _ in range(TRIALS // 4):
            asked = original.ask(4)
            assert resumed.ask(4) == asked
            original.tell(score(asked))
            resumed.tell(score(asked))

    def test_the_state_of_the_global_random_generators_is_not_used(self) -> None:
        np.random.seed(1)
        first = play(self.make(seed=3))
        np.random.seed(2)
        assert play(self.make(seed=3)) == first

    def test_asking_and_telling_many_at_once_equals_one_by_one(self) -> None:
        together, single = self.make(seed=5), self.make(seed=5)
        for _ in range(TRIALS // 4):
            asked = together.ask(4)
            assert [proposal for _ in range(4) for proposal in single.ask(1)] == list(asked)
            together.tell(score(asked))
            for trial in score(asked):
                single.tell([trial])

    def test_a_failed_trial_teaches_nothing_however_it_is_reported(self) -> None:
        nan, endless = float("nan"), float("inf")
        reports = ((nan, nan), (-endless, endless), (nan, 0.1), (0.9, nan), (0.9, None), (None, 0.1))
        first, *others = [self.make(seed=0) for _ in range(1 + len(reports))]
        for number in range(TRIALS // 2):
            asked = first.ask(2)
            first.tell(score(asked, lambda candidate: None) if number % 3 else score(asked))
            for controller, (accuracy, divergence) in zip(others, reports, strict=True):
                assert controller.ask(2) == asked
                failed = [replace(trial, accuracy=accuracy, divergence=divergence) for trial in score(asked)]
                controller.tell(failed if number % 3 else score(asked))

    def test_blocks_are_dropped_where_no_width_meets_the_budget_with_all_of_them(self) -> None:
        asked = play(self.make(seed=0, space=BLOCKS, targets=(600.0, 1600.0)))
        assert asked
        for proposal in asked:
            kept = np.array(proposal.candidate.kept)
            blocks = kept[len(SPACE.axes) :]
            assert cost(kept[None])[0] <= proposal.target
            assert set(blocks) <= {0, 1}
            assert blocks.sum() < 3 or proposal.target > 600

    @pytest.mark.parametrize("most", [1, 3])
    def test_a_space_with_few_candidates_is_used_up_and_then_answered_with_nothing(self, most: int) -> None:
        space = Space((Axis(name="only", size=8 * most, step=8, lowest=8),))
        counts = [8 * (number + 1) for number in range(most)]
        controller = self.make(
            seed=0, space=space, cost=lambda kept: kept[:, 0].astype(np.float64), targets=counts
        )
        asked = controller.ask(5)
        assert sorted(proposal.candidate.kept[0] for proposal in asked) == counts
        assert controller.ask(1) == []
