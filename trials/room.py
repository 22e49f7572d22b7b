"""How many examples a worker works on at a time, so that activations take no more than is meant for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from trials.costs import Costs
from trials.memory import Memory

WORKING_BYTES = 2**30
"""For activations of one worker: two of them shall fit into 8 GiB with all else that they hold."""
MOST_EXAMPLES = 256
"""At a time, however small they are."""
APART = 2
"""Results of torch for one of an operator as hardware sees it, which has its norm and activation in it."""


@dataclass(frozen=True, slots=True)
class Room:
    """Examples of a model that fit at a time.

    `forward` are evaluated together, `backward` trained on together, and `held` go through a network layer by
    layer, all of them before the next layer.
    """

    forward: int
    backward: int
    held: int

    @classmethod
    def of(cls, costs: Costs) -> Self:
        """For the dense model, and so for all that are pruned from it."""
        memory, dense = Memory(costs), costs.coupling.space().sizes[None]
        peak_bytes = APART * int(memory.peak_bytes(dense)[0])
        trained_bytes = APART * int(memory.result_bytes(dense)[0])
        held = max(1, WORKING_BYTES // peak_bytes)
        return cls(
            forward=min(held, MOST_EXAMPLES),
            backward=max(1, WORKING_BYTES // trained_bytes),
            held=held,
        )


AMPLE = Room(forward=MOST_EXAMPLES, backward=MOST_EXAMPLES, held=2**30)
"""For small examples."""
