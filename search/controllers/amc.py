"""AMC: an actor walks the groups of a model and says how much of each to keep; a critic teaches it.

Papers: AMC (He et al., arXiv:1802.03494) and DDPG (Lillicrap et al., arXiv:1509.02971). AMC trains for 400
episodes on one budget; a job here has 60 to 200 trials for several. Departures, each for that reason:

- It starts warm: the actor says by what factor to keep more or less than the knapsack's answer to the
  sensitivities, at first by 1 (residual policies, Silver et al., arXiv:1812.06298). That answer is the first
  proposal of each level and part of the state, and no trials are left to chance, where the paper has 100.
- One agent serves all budget levels: the level is part of the state.
- Replay holds the action that was taken, after projection and rounding, not the one the actor wanted.
- The critic sees whole walks and explains a reward by the *sum* of its values over the walk (as value
  decomposition does, arXiv:1706.05296). AMC gives the final reward to every step and fits each alone, so
  that all other groups' choices are noise to it. Nothing is bootstrapped: no target networks, no tau.
- The critic sees an action as log(keep) minus the walk's mean, weighted by each group's share of the cost:
  to first order, what no projection changes. Else "keep more everywhere" would be the actor's whole lesson.
- What is better under a budget is what diverges less from the dense model: on a few thousand images accuracy
  does not tell near candidates apart that divergence does.
- The reward is the rank of that within its level as a normal score, not less a moving average: one collapsed
  candidate does not drown the differences between good ones.
- Each state names its group (one-hot) beside the features of it: neighbours in a network may differ more
  than a smooth function of their features can follow.
- Noise multiplies (log-normal), as only proportions matter, and decays from 0.3 to 0.05 over the job's
  trials, where the paper draws from a truncated normal of 0.5.
- 32 hidden units, not 300, and learning rate 1e-3 for both: a batch is 16 walks of all their steps.
- A block is kept where the actor wants half of it or more; the replay holds 1 for one that was kept, and for
  one that was dropped 1/4, as far below the half as 1 is above it for who looks at logarithms.

What that is worth: true accuracy in percent after 60 trials on two toys of `benchmarks/controllers_toy.py`,
seeds 10 to 13. Once it starts warm, what it learns is within what the seeds differ by, and so is all else:

                                                        chain           blocks
    as it is                                            92.39 ± 0.12    78.29 ± 0.65
    64 hidden units, 8 updates a trial                  92.51 ± 0.06    78.54 ± 0.67
    the same, 4 updates                                 92.40 ± 0.08    78.33 ± 0.65
    the same, no updates: noise alone                   92.50 ± 0.15    78.45 ± 0.71
    the same, 8 updates, first noise 0.15               92.47 ± 0.14    78.66 ± 0.74
    the same, 32 walks, begun on 192 estimated ones     92.51 ± 0.12    78.46 ± 0.64
    `auto`                                              92.49 ± 0.10    78.42 ± 0.76

So it is the cheapest of these that still learns, which halves the time of a proposal.

The paper's other reward, -error x log(cost), is `tradeoff` here. A level then is no more than a cap: what is
within it is proposed as it is, noise has a part that all groups share, and the critic sees log(keep) itself.
Cost is counted in billionths of the dense model's, so that milliseconds and MACs give the same reward.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from search.budget import Cost
from search.controllers.learner import Learner, one_thread
from search.controllers.proposals import Proposals, Wanted
from search.controllers.protocol import Proposal, Reward, ScoredTrial
from search.controllers.state import State
from search.knapsack import allocate
from search.sensitivity import Losses
from trials.candidate import Candidate, Counts, Space

WALKS_PER_BATCH = 16
UPDATES_PER_TRIAL = 4
NOISE_FIRST, NOISE_LAST = 0.3, 0.05
DROPPED = 0.25
COST_UNITS = 1e9
"""Of the dense model's cost, in which -error x log(cost) counts it; the paper counts operations."""


class AmcController:
    """DDPG over the walk of groups, conditioned on the budget level.

    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        features: (groups, features) what is known of each group (index, sizes, shares), about -1 to 1.
        trials: how many trials the job will run in all; noise is planned for that many.
        losses: of each axis, (allowed counts,) what the group alone costs.
        reward: the best within each budget level, or the best -error x log(cost).
    """

    def __init__(
        self,
        space: Space,
        cost: Cost,
        targets: Sequence[float],
        seed: int,
        *,
        features: NDArray[np.float64],
        trials: int,
        losses: Losses,
        reward: Reward = "accuracy",
    ) -> None:
        self._space, self._cost, self._losses = space, cost, losses
        self._trades_off = reward == "tradeoff"
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._proposals = Proposals(space, cost, targets, self._rng, fill=not self._trades_off)
        self._begun: set[float] = set()
        self._walked, self._trials = 0, trials

        groups = len(space.axes)
        self._dense_cost = cost(space.sizes[None])[0]
        self._features = np.hstack([features, np.eye(groups)])
        self._lowest = _float([axis.allowed[0] / axis.size or DROPPED for axis in space.axes])
        self._cost_share = _float(_cost_shares(space, cost))
        self._estimated: dict[float, tuple[Candidate, Tensor]] = {}

        state = self._features.shape[1] + 5
        self._actor = Learner(state, self._generator, silent=True)
        self._critic = Learner(state + 1, self._generator, weight_decay=1e-4)

        self._walks: list[Tensor] = []  # the replay, a trial each: (groups, state)
        self._keeps: list[Tensor] = []  # (groups,)
        self._goods: list[float] = []  # what is better is higher
        self._targets: list[float] = []
        self._ranked: defaultdict[float, list[float]] = defaultdict(list)
        """Budget level -> how good its trials were, ascending."""

    def ask(self, count: int) -> Sequence[Proposal]:
        return self._proposals.take(count, self._wanted)

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        with one_thread():
            for trial in scored:
                if self._take_in(trial):
                    self._learn()

    def _take_in(self, trial: ScoredTrial) -> bool:
        """Remember a trial; returns whether there is something to learn from it."""
        self._proposals.seen.add(trial.proposal.candidate)
        if trial.found:
            self._remember(trial.proposal, self._goodness(*trial.found, trial.cost))
        return bool(trial.found)

    def _goodness(self, accuracy: float, divergence: float, cost: float) -> float:
        if self._trades_off:
            return -(1 - accuracy) * math.log(COST_UNITS * cost / self._dense_cost)
        return -divergence

    def _wanted(self, target: float) -> Wanted:
        """The knapsack's answer once for each level, then (groups,) counts by the actor's walk."""
        if target in self._begun:
            return self._walk(target)
        self._begun.add(target)
        return self._estimate(target)[0]

    def _estimate(self, target: float) -> tuple[Candidate, Tensor]:
        """The knapsack's answer, and (groups,) its keep ratios, which the actor starts from."""
        if target not in self._estimated:
            answer = allocate(self._space, self._losses, self._cost, target)
            self._estimated[target] = answer, self._keep(answer)
        return self._estimated[target]

    def _keep(self, candidate: Candidate) -> Tensor:
        return _float(np.array(candidate.kept) / self._space.sizes).maximum(self._lowest)

    def _walk(self, target: float) -> NDArray[np.float64]:
        """Choose group after group as the actor says, times noise; groups not reached yet are whole."""
        self._walked += 1
        spread = NOISE_FIRST * (NOISE_LAST / NOISE_FIRST) ** min(1.0, self._walked / self._trials)
        noise = np.exp(spread * self._rng.standard_normal(len(self._space.axes)))
        if self._trades_off:
            noise *= math.exp(spread * self._rng.standard_normal())
        wanted, counts = self._space.sizes.astype(np.float64), self._space.sizes
        _, start = self._estimate(target)
        least = zip(self._space.axes, start.tolist(), self._lowest.tolist(), strict=True)
        for group, (axis, begin, lowest) in enumerate(least):
            [state] = self._states(np.array([group]), counts[None], target)
            keep = min(1.0, max(lowest, begin * math.exp(math.tanh(self._actor.of_one(state)))))
            wanted[group] = np.clip(keep * noise[group] * axis.size, float(not axis.is_block), axis.size)
            # A measured table knows the costs of allowed counts alone.
            counts[group] = axis.round(wanted[group])
        return wanted

    def _states(self, groups: Counts, counts: Counts, target: float) -> NDArray[np.float32]:
        """Describe steps of walks.

        Args:
            groups: (steps,) the group to choose next.
            counts: (steps, groups) kept units so far; groups not chosen yet are whole.

        Returns:
            (steps, state) the group's features, the cost already saved, the cost still to save, the keep
            ratio of the group before, the level, and the logarithm of the estimate's keep ratio; costs are
            shares of the dense model's.
        """
        cost = self._cost(counts) / self._dense_cost
        level = np.full(len(groups), target / self._dense_cost)
        before = np.maximum(groups - 1, 0)
        keep_before = np.where(
            groups > 0, counts[np.arange(len(groups)), before] / self._space.sizes[before], 1.0
        )
        _, begin = self._estimate(target)
        start = np.log(begin.numpy()[groups])
        dynamic = np.stack([1 - cost, cost - level, keep_before, level, start], axis=1)
        return np.hstack([self._features[groups], dynamic]).astype(np.float32)

    def _act(self, states: Tensor, start: Tensor, lowest: Tensor) -> Tensor:
        """The actor: (..., state) and (...) starts -> (...) keep ratios from `lowest` to 1."""
        keep = start * torch.tanh(self._actor(states)).exp()
        return keep.maximum(lowest).clamp(max=1)

    def _value(self, states: Tensor, keep: Tensor) -> Tensor:
        """The critic: (walks, groups, state) and (walks, groups) keep ratios -> (walks,) rewards."""
        action = keep.log()
        if not self._trades_off:
            action = action - action @ self._cost_share[:, None]
        values = self._critic(torch.cat([states, action[..., None]], dim=-1))
        return values.sum(dim=1) / math.sqrt(values.shape[1])

    def _remember(self, proposal: Proposal, good: float) -> None:
        kept = np.array(proposal.candidate.kept)
        groups = np.arange(len(kept))
        so_far = np.where(groups < groups[:, None], kept, self._space.sizes)
        self._walks.append(_float(self._states(groups, so_far, proposal.target)))
        self._keeps.append(self._keep(proposal.candidate))
        self._goods.append(good)
        self._targets.append(proposal.target)
        insort(self._ranked[proposal.target], good)

    def _learn(self) -> None:
        """Fit the critic to replayed rewards and move the actor uphill on it, a fixed number of times."""
        told = len(self._goods)
        for _ in range(UPDATES_PER_TRIAL):
            size = min(told, WALKS_PER_BATCH)
            batch = torch.randint(told, (size,), generator=self._generator).tolist()
            states = torch.stack([self._walks[walk] for walk in batch])
            keep = torch.stack([self._keeps[walk] for walk in batch])
            start = torch.stack([self._estimate(self._targets[walk])[1] for walk in batch])
            error = self._value(states, keep) - self._rewards(batch)
            self._critic.descend(error.square().mean())
            value = self._value(states, self._act(states, start, self._lowest))
            self._actor.descend(-value.mean())

    def _rewards(self, batch: Sequence[int]) -> Tensor:
        """(batch,) the normal quantile of each walk's rank among all of its level."""
        shares = []
        for walk in batch:
            ranked, good = self._ranked[self._targets[walk]], self._goods[walk]
            shares.append((bisect_left(ranked, good) + bisect_right(ranked, good)) / 2 / len(ranked))
        scores: Tensor = torch.special.ndtri(_float(shares))
        return scores

    def state(self) -> State:
        """All that a controller made alike needs to go on bit for bit, but for what its trials tell."""
        learners = {"actor": self._actor, "critic": self._critic}
        arrays = {
            f"{of}.{name}": array
            for of, learner in learners.items()
            for name, array in learner.state().items()
        }
        values = {
            "random": self._rng.bit_generator.state,
            "turn": self._proposals.turn,
            "begun": sorted(self._begun),
            "walked": self._walked,
        }
        return State({**arrays, "generator": self._generator.get_state().numpy()}, values)

    def load(self, state: State, asked: Sequence[Proposal], told: Sequence[ScoredTrial]) -> None:
        """Go on where `state` was taken, after these."""
        for of, learner in (("actor.", self._actor), ("critic.", self._critic)):
            learner.load(
                {name.removeprefix(of): array for name, array in state.arrays.items() if name.startswith(of)}
            )
        self._generator.set_state(torch.from_numpy(state.arrays["generator"].copy()))
        self._rng.bit_generator.state = state.values["random"]
        self._begun, self._walked = set(state.values["begun"]), state.values["walked"]
        self._proposals.turn = state.values["turn"]
        self._proposals.seen.update(proposal.candidate for proposal in asked)
        for trial in told:
            self._take_in(trial)


def _cost_shares(space: Space, cost: Cost) -> NDArray[np.float64]:
    """Return (groups,) how much of all savings each group's halving, or a block's going, brings; of sum 1."""
    halves = np.where(space.are_blocks, 0, -(-space.sizes // 2))
    halved = np.where(np.eye(len(space.axes), dtype=np.bool_), halves, space.sizes)
    dense = cost(space.sizes[None])
    saved: NDArray[np.float64] = np.maximum(dense - cost(halved), 1e-6 * dense)
    return saved / np.sum(saved)


def _float(values: ArrayLike) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)
