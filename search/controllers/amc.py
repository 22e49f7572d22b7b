"""AMC: an actor walks the groups of a model and says how much of each to keep; a critic teaches it.

Papers: AMC (He et al., arXiv:1802.03494) and DDPG (Lillicrap et al., arXiv:1509.02971). AMC trains for 400
episodes on one budget; a job here has 60 to 200 trials for several. Departures, each for that reason:

- One agent serves all budget levels: the level is part of the state.
- Replay holds the action that was taken, after projection and rounding, not the one the actor wanted.
- The critic sees whole walks and explains a reward by the *sum* of its values over the walk (as value
  decomposition does, arXiv:1706.05296). AMC gives the final reward to every step and fits each alone, so
  that all other groups' choices are noise to it. Nothing is bootstrapped: no target networks, no tau.
- The critic sees an action as log(keep) minus the walk's mean, weighted by each group's share of the cost:
  to first order, what no projection changes. Else "keep more everywhere" would be the actor's whole lesson.
- The reward is the accuracy's rank within its level as a normal score, not accuracy minus a moving average:
  one collapsed candidate does not drown the differences between good ones.
- Each state names its group (one-hot) beside the features of it: neighbours in a network may differ more
  than a smooth function of their features can follow.
- Noise multiplies (log-normal), as only proportions matter, and decays from 0.3 to 0.05 over the job's
  trials, where the paper draws from a truncated normal of 0.5.
- 64 hidden units, not 300, and learning rate 1e-3 for both: a batch is 32 walks of all their steps.
- A block is kept where the actor wants half of it or more; the replay holds 1 for one that was kept, and for
  one that was dropped 1/4, as far below the half as 1 is above it for who looks at logarithms.

Variants while this was written: true accuracy in percent after 120 trials, mean of seeds 0 to 2, on the three
toys of `benchmarks/controllers_toy.py`. Some twenty were compared on these same seeds, so a few tenths mean
little and the last row flatters itself:

    each step fitted alone, keep as it is, raw reward    89.67  91.75  75.50
    sum over the walk, proportions                       90.18  91.64  77.14
    the same without one-hot                             89.93  91.50  76.10
    the same with one-hot, ranks as reward               90.48  91.83  76.86
    the same, first noise 0.3 instead of 0.5             90.50  91.88  77.12

On six seeds not used before it reaches 88.74, 91.76 and 76.15, and random search 85.92, 91.00 and 73.98. No
clear gain, so left out: walks around the best trials of a level; the best of 32 walks by the critic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from search.budget import Cost
from search.controllers.proposals import Proposals
from search.controllers.protocol import Proposal, ScoredTrial
from search.controllers.sampling import random_counts
from trials.candidate import Counts, Space

HIDDEN = 64
LEARNING_RATE = 1e-3
WALKS_PER_BATCH = 32
UPDATES_PER_TRIAL = 8
WARM_UP = 0.25  # of all trials are random, as in the paper (100 of 400)
NOISE_FIRST, NOISE_LAST = 0.3, 0.05
DROPPED = 0.25


class AmcController:
    """DDPG over the walk of groups, conditioned on the budget level.

    Args:
        targets: budget levels in the unit of `cost`; proposals take them in turn.
        features: (groups, features) what is known of each group (index, sizes, shares), about -1 to 1.
        trials: how many trials the job will run in all; warm-up and noise are planned for that many.
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
    ) -> None:
        self._space = space
        self._cost = cost
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._proposals = Proposals(space, cost, targets, self._rng)
        self._chosen = 0
        self._warm_up = max(2 * len(targets), round(WARM_UP * trials))
        self._trials = trials

        groups = len(space.axes)
        self._dense_cost = cost(space.sizes[None])[0]
        self._features = np.hstack([features, np.eye(groups)])
        self._lowest = _float([axis.allowed[0] / axis.size or DROPPED for axis in space.axes])
        self._cost_share = _float(_cost_shares(space, cost))

        state = self._features.shape[1] + 4
        self._actor = _network(state, self._generator)
        self._critic = _network(state + 1, self._generator)
        self._actor_optimizer = torch.optim.Adam(self._actor.parameters(), LEARNING_RATE, fused=True)
        self._critic_optimizer = torch.optim.Adam(
            self._critic.parameters(), LEARNING_RATE, weight_decay=1e-4, fused=True
        )

        self._walks: list[Tensor] = []  # the replay, a trial each: (groups, state)
        self._keeps: list[Tensor] = []  # (groups,)
        self._accuracies: list[float] = []
        self._targets: list[float] = []

    def ask(self, count: int) -> Sequence[Proposal]:
        with _one_thread():
            return self._proposals.take(count, self._wanted)

    def tell(self, scored: Sequence[ScoredTrial]) -> None:
        with _one_thread():
            for trial in scored:
                self._proposals.seen.add(trial.proposal.candidate)
                if trial.accuracy is not None and np.isfinite(trial.accuracy):
                    self._remember(trial.proposal, trial.accuracy)
                    self._learn()

    def _wanted(self, target: float) -> NDArray[np.float64]:
        """Choose (groups,) counts: at random at first, then by the actor's walk."""
        self._chosen += 1
        if self._chosen <= self._warm_up:
            return random_counts(self._space, self._rng)
        return self._walk(target)

    def _walk(self, target: float) -> NDArray[np.float64]:
        """Choose group after group as the actor says, times noise; groups not reached yet are whole."""
        progress = min(1.0, (self._chosen - self._warm_up) / max(1, self._trials - self._warm_up))
        spread = NOISE_FIRST * (NOISE_LAST / NOISE_FIRST) ** progress
        noise = np.exp(spread * self._rng.standard_normal(len(self._space.axes)))
        wanted, counts = self._space.sizes.astype(np.float64), self._space.sizes
        for group, axis in enumerate(self._space.axes):
            state = self._states(np.array([group]), counts[None], target)
            with torch.no_grad():
                keep = self._act(state, self._lowest[group]).item()
            wanted[group] = np.clip(keep * noise[group] * axis.size, float(not axis.is_block), axis.size)
            # A measured table knows the costs of allowed counts alone.
            counts[group] = axis.round(wanted[group])
        return wanted

    def _states(self, groups: Counts, counts: Counts, target: float) -> Tensor:
        """Describe steps of walks.

        Args:
            groups: (steps,) the group to choose next.
            counts: (steps, groups) kept units so far; groups not chosen yet are whole.

        Returns:
            (steps, state) the group's features, the cost already saved, the cost still to save, the keep
            ratio of the group before, and the level; costs are shares of the dense model's.
        """
        cost = self._cost(counts) / self._dense_cost
        level = np.full(len(groups), target / self._dense_cost)
        before = np.maximum(groups - 1, 0)
        keep_before = np.where(
            groups > 0, counts[np.arange(len(groups)), before] / self._space.sizes[before], 1.0
        )
        dynamic = np.stack([1 - cost, cost - level, keep_before, level], axis=1)
        return _float(np.hstack([self._features[groups], dynamic]))

    def _act(self, states: Tensor, lowest: Tensor) -> Tensor:
        """The actor: (..., state) -> (...) keep ratios from `lowest` to 1; about 3/4 while untrained."""
        return lowest + (1 - lowest) * torch.sigmoid(self._actor(states)[..., 0] + 1)

    def _value(self, states: Tensor, keep: Tensor) -> Tensor:
        """The critic: (walks, groups, state) and (walks, groups) keep ratios -> (walks,) rewards."""
        proportion = keep.log()
        proportion = proportion - proportion @ self._cost_share[:, None]
        values: Tensor = self._critic(torch.cat([states, proportion[..., None]], dim=-1))
        return values.sum(dim=(1, 2)) / math.sqrt(values.shape[1])

    def _remember(self, proposal: Proposal, accuracy: float) -> None:
        kept = np.array(proposal.candidate.kept)
        groups = np.arange(len(kept))
        so_far = np.where(groups < groups[:, None], kept, self._space.sizes)
        self._walks.append(self._states(groups, so_far, proposal.target))
        self._keeps.append(_float(kept / self._space.sizes).maximum(self._lowest))
        self._accuracies.append(accuracy)
        self._targets.append(proposal.target)

    def _learn(self) -> None:
        """Fit the critic to replayed rewards and move the actor uphill on it, a fixed number of times."""
        rewards = _normal_scores(np.array(self._accuracies), np.array(self._targets))
        for _ in range(UPDATES_PER_TRIAL):
            size = min(len(rewards), WALKS_PER_BATCH)
            batch = torch.randint(len(rewards), (size,), generator=self._generator)
            states = torch.stack([self._walks[walk] for walk in batch])
            keep = torch.stack([self._keeps[walk] for walk in batch])
            error = self._value(states, keep) - rewards[batch]
            _descend(error.square().mean(), self._critic_optimizer)
            value = self._value(states, self._act(states, self._lowest))
            _descend(-value.mean(), self._actor_optimizer)


def _normal_scores(accuracy: NDArray[np.float64], target: NDArray[np.float64]) -> Tensor:
    """Return (trials,) rewards: the normal quantile of each accuracy's rank among the trials of its level."""
    same_level = target[:, None] == target
    below = (same_level & (accuracy < accuracy[:, None])).sum(axis=1)
    equal = (same_level & (accuracy == accuracy[:, None])).sum(axis=1)
    scores: Tensor = torch.special.ndtri(_float((below + equal / 2) / same_level.sum(axis=1)))
    return scores


def _cost_shares(space: Space, cost: Cost) -> NDArray[np.float64]:
    """Return (groups,) how much of all savings each group's halving, or a block's going, brings; of sum 1."""
    halves = np.where(space.are_blocks, 0, -(-space.sizes // 2))
    halved = np.where(np.eye(len(space.axes), dtype=np.bool_), halves, space.sizes)
    dense = cost(space.sizes[None])
    saved: NDArray[np.float64] = np.maximum(dense - cost(halved), 1e-6 * dense)
    return saved / np.sum(saved)


def _network(inputs: int, generator: torch.Generator) -> nn.Sequential:
    """Two hidden layers, drawn from `generator`: torch's own initialisation would use the global seed."""
    layers: list[nn.Module] = []
    for ends in ((inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)):
        linear = nn.Linear(*ends, device="meta").to_empty(device="cpu")
        nn.init.uniform_(linear.weight, -(ends[0] ** -0.5), ends[0] ** -0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take one step on the optimizer's own parameters: the actor's loss runs through the critic."""
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


def _float(values: ArrayLike) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: sums come out the same anywhere, and the trials keep their cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
