"""When weights become zero while a network is trained: at once, in rounds, gradually, or after a look ahead.

A schedule trains a network in place by calling `train`, and leaves it with the zeros that were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

from trials.finetune import Constraint
from trials.network import Network
from trials.sparsity import Masks, Sparsity, hide

Train = Callable[[int, Constraint], object]
"""Trains the network for so many steps, under a constraint."""

ROUNDS = 4
GRADUAL_SHARE = 0.75
"""Of the steps, until all zeros are there; the rest is for recovery."""
REWIND_SHARE = 0.05
"""Of the steps, after which the weights are those to go back to."""


class Schedule(Protocol):
    def __call__(self, network: Network, sparsity: Sparsity, steps: int, train: Train) -> None:
        """Train `network` in place; at the end it has the zeros of `sparsity`."""
        ...


def one_shot(done: float) -> float:
    """All zeros before the first step."""
    return 1.0


def iterative(done: float) -> float:
    """An equal part of the zeros in each of four rounds, the first before the first step.

    Source: Han et al., Learning both Weights and Connections, NIPS 2015, arXiv 1506.02626, section 3.4.
    Departure: the rounds share one decay of the learning rate.
    """
    return min(1.0, (math.floor(done * ROUNDS) + 1) / ROUNDS)


def gradual(done: float) -> float:
    """Many zeros early, when much can go, and few late: 1 - (1 - t)^3 over the first three quarters.

    Source: Zhu and Gupta, To Prune, or Not to Prune, arXiv 1710.01878, equation 1, from no zeros.
    """
    return 1 - (1 - min(1.0, done / GRADUAL_SHARE)) ** 3


def growing(progress: Callable[[float], float]) -> Schedule:
    """One training, in which zeros grow to `progress` (share of the steps done → share of the zeros)."""

    def schedule(network: Network, sparsity: Sparsity, steps: int, train: Train) -> None:
        there = -1.0
        masks: Masks = {}

        def hold(done: int, learning_rate: float) -> None:
            nonlocal there, masks
            wanted = progress(done / steps)
            # Choosing anew takes a sort of all weights: only when another hundredth of the zeros is due.
            if wanted >= there + 0.01 or there < wanted == 1.0:
                there, masks = wanted, sparsity.masks(network, wanted)
            hide(network, masks)

        hold(0, 0.0)
        train(steps, hold)
        hold(steps, 0.0)

    return schedule


def rewind(network: Network, sparsity: Sparsity, steps: int, train: Train) -> None:
    """Train to the end to see which weights stay, then from an early state again, with these alone.

    Takes about twice the steps.

    Source: Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020, arXiv
    1912.05671, with one round. Departure: the second training has a learning rate schedule of its
    own over the steps that are left.
    """
    early = max(1, round(REWIND_SHARE * steps))
    state = {}

    def remember(done: int, learning_rate: float) -> None:
        if done == early:
            state.update({name: tensor.clone() for name, tensor in network.state_dict().items()})

    train(steps, remember)
    masks = sparsity.masks(network)
    network.load_state_dict(state)
    hide(network, masks)
    train(steps - early, lambda done, learning_rate: hide(network, masks))
    hide(network, masks)


SCHEDULES: Mapping[str, Schedule] = {
    "one_shot": growing(one_shot),
    "iterative": growing(iterative),
    "gradual": growing(gradual),
    "rewind": rewind,
}
"""By the names that a job file uses."""
