"""Activations of the dense model, held part of the way for candidates that are the dense model so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trials.network import Network, Values
from trials.proof import outputs

Inputs = tuple[torch.Tensor, ...]
Part = tuple[Values, int]
"""The values alive before a step, and the rows of the batch that they are of."""


class Prefix:
    """What a candidate need not compute again, because up to some step it is the dense model.

    Exact: up to where candidates are dense is found by comparing their nodes and tensors. Activations are
    held at necks, the steps before which a single value is alive, such as a residual sum between two blocks.
    What is held takes at most `held_bytes`; the neck that was not asked for the longest goes first.
    """

    def __init__(self, dense: Network, batches: Sequence[Inputs], held_bytes: int) -> None:
        self.dense, self.batches, self.held_bytes = dense.eval(), batches, held_bytes
        self.necks = _necks(dense)
        self._held: dict[int, list[Part]] = {}
        """Neck → what is alive there of every batch; the neck that was asked for last is the last."""

    def run(self, network: Network) -> Iterator[Any]:
        """Yield what a network makes of each batch.

        Go through it as the network is to be run: in eval mode, without gradients, always in one autocast.
        """
        shared = shared_steps(self.dense, network)
        neck = max((neck for neck in self.necks if neck <= shared), default=0)
        if neck and neck not in self._held:
            self._make(neck)
        if neck not in self._held:
            yield from (network(*inputs) for inputs in self.batches)
            return
        self._held[neck] = self._held.pop(neck)
        for values, rows in self._held[neck]:
            alive = dict(values)
            network.run(alive, rows, first=neck)
            yield network.outputs(alive)

    def _make(self, neck: int) -> None:
        """Hold a neck, worked out from the last one held before it, if there is room for it at all."""
        before = max((held for held in self._held if held < neck), default=0)
        source, made = self._held.get(before), list[Part]()
        for number in range(len(self.batches)):
            if source:
                values, rows = dict(source[number][0]), source[number][1]
            else:
                inputs = self.batches[number]
                values, rows = self.dense.bind(inputs), len(inputs[0])
            self.dense.run(values, rows, first=before, past=neck)
            made.append((values, rows))
            if number == 0 and not self._make_room(_bytes(made) * len(self.batches)):
                return
        self._held[neck] = made

    def _make_room(self, needed_bytes: int) -> bool:
        if needed_bytes > self.held_bytes:
            return False
        while sum(map(_bytes, self._held.values())) + needed_bytes > self.held_bytes:
            del self._held[next(iter(self._held))]
        return True


def shared_steps(dense: Network, network: Network) -> int:
    """How many steps, counted from the first, are the same node with the same tensors in both networks."""
    ours, theirs = dense.state_dict(), network.state_dict()
    for number, (step, other) in enumerate(zip(dense.steps, network.steps, strict=False)):
        if step.node != other.node or not all(
            torch.equal(ours[name], theirs[name]) for name in step.node.tensors
        ):
            return number
    return len(dense.steps)


def _necks(network: Network) -> list[int]:
    """Steps before which one value is alive, and it is not an input."""
    alive = {item.name for item in network.graph.inputs}
    necks = []
    for number, (step, dead) in enumerate(zip(network.steps, network.release, strict=True), start=1):
        alive = (alive | {step.name}) - set(dead)
        if len(alive) == 1 and number < len(network.steps):
            necks.append(number)
    return necks


def _bytes(held: Sequence[Part]) -> int:
    return sum(part.nbytes for values, _ in held for value in values.values() for part in outputs(value))
