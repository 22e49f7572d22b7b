"""What a criterion is, and what it is given: a model, its groups, and examples of the train split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trials.data import Split
from trials.graph import Value
from trials.groups import Coupling
from trials.oprules import Attention, Product, rule_of
from trials.repair import Calibration
from trials.room import AMPLE, Room
from trials.units import Group

Scores = Mapping[str, NDArray[np.float64]]
"""Group name → (size,) score of each unit; they are compared within their group alone."""
Tensors = Mapping[str, torch.Tensor]
TensorAxes = Set[tuple[str, int]]
"""(tensor, axis), as in `Coupling.tensor_axes`."""


class Criterion(Protocol):
    """Scores the units of every group; the lowest-scored go first.

    The same evidence gives the same scores. Where units change places in every tensor that has them, their
    scores change places with them.
    """

    def __call__(self, evidence: Evidence) -> Scores:
        """Score every unit.

        Raises:
            RequestError: the model has nothing of what the criterion looks at.
        """
        ...


@dataclass(frozen=True, eq=False)
class Evidence:
    """The dense model, its groups, and calibration `examples`, which go as many at a time as `room` says."""

    coupling: Coupling
    tensors: Tensors
    examples: Split
    room: Room = AMPLE
    seed: int = 0

    @cached_property
    def calibration(self) -> Calibration:
        """What repairs look at."""
        return self._calibration(brief=False)

    @cached_property
    def brief_calibration(self) -> Calibration:
        """What the repair of a trial that is no finalist looks at."""
        return self._calibration(brief=True)

    def _calibration(self, brief: bool) -> Calibration:
        return Calibration.fitting(
            self.coupling, self.tensors, self.examples, self.room, seed=self.seed, brief=brief
        )

    def batches(self, rows: int) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        """All examples in their order, at most so many at a time, as tensors."""
        for arrays, labels in self.examples.batches(min(rows, self.room.backward)):
            yield tuple(torch.from_numpy(values) for values in arrays), torch.from_numpy(labels)

    @property
    def own(self) -> TensorAxes:
        """The tensor axes that make units or ride with them.

        Zeroing what makes a unit and zeroing what reads it are the same removal: count it once.
        """
        return self.coupling.tensor_axes.keys() - self.coupling.contracted

    def added(
        self,
        worth: Callable[[torch.Tensor], torch.Tensor],
        axes: TensorAxes,
        values: Tensors | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """Add up what units are worth in each of these tensor axes; groups without any are left out.

        Args:
            worth: (units, numbers per unit) of one tensor → (units,), in double precision.
            values: numbers in the shapes of the tensors, instead of these; a tensor may be absent.
        """
        found: dict[str, NDArray[np.float64]] = {}
        for group in self.coupling.groups:
            for part in self._parts(group, axes, self.tensors if values is None else values):
                scores = worth(part).numpy()
                found[group.name] = found[group.name] + scores if group.name in found else scores
        return found

    def _parts(self, group: Group, axes: TensorAxes, values: Tensors) -> Iterator[torch.Tensor]:
        """(size, numbers per unit) of each tensor axis that a group's units have."""
        for (name, axis), vector in self.coupling.tensor_axes.items():
            places = self._places.get((group.name, vector))
            if places is not None and (name, axis) in axes and name in values:
                picked = values[name].index_select(axis, places.flatten()).movedim(axis, 0)
                yield picked.reshape(group.size, -1).double()

    @cached_property
    def _places(self) -> Mapping[tuple[str, int], torch.Tensor]:
        """(group, vector) → (size, positions per unit): where its units lie along axes with that vector."""
        groups, classes = self.coupling.groups, self.coupling.classes
        owner, rank = np.full(classes + 1, -1), np.zeros(classes + 1, dtype=np.int64)
        for number, group in enumerate(groups):
            owner[group.units], rank[group.units] = number, np.arange(group.size)
        found = {}
        for index, line in self._lines():
            owners = owner[line]
            for number in set(owners.tolist()) - {-1}:
                places = np.flatnonzero(owners == number)
                places = places[np.argsort(rank[line[places]], kind="stable")]
                found[groups[number].name, index] = torch.from_numpy(places.reshape(groups[number].size, -1))
        return found

    def _lines(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each vector's number with the class of each position, by heads and then by their width."""
        for index, classes in enumerate(self.coupling.vectors):
            yield from ((index, line) for line in classes)


class Readings:
    """The values that layers read units from, and a sum for each unit over all of them.

    A unit is what leaves its norm and activation, as a layer reads it: before that, a shift by the norm
    decides what its numbers mean. Places of queries and keys are read by the product of both.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        contracted = {name for name, _ in coupling.contracted}
        self._by_layers = dict.fromkeys(
            node["input"].name
            for node in coupling.graph.nodes
            if isinstance(node.args.get("input"), Value) and contracted.intersection(node.tensors)
        )
        read = list(self._by_layers)
        for node in coupling.graph.nodes:
            read += node.values if isinstance(rule_of(node.op), Product | Attention) else []
        self.names = [name for name in dict.fromkeys(read) if self._axes(name)]
        self.sums = np.zeros(coupling.classes + 1)
        self.counts = np.zeros(coupling.classes + 1)

    def _axes(self, name: str) -> list[tuple[int, NDArray[np.int64]]]:
        """The axes of a value along which units lie, with the class of each position.

        An axis of heads and their width comes twice; of what only products read, what they sum over comes.
        """
        rank = np.ndim(self.coupling.traced[name])
        vectors = [(axis, self.coupling.value_axes.get((name, 0, axis))) for axis in range(rank)]
        lines = [(axis, line) for axis, v in vectors if v is not None for line in self.coupling.vectors[v]]
        if name in self._by_layers:
            return lines
        return [(axis, line) for axis, line in lines if not self.coupling.summed.isdisjoint(line.tolist())]

    def add(self, name: str, numbers: torch.Tensor) -> None:
        """Add numbers in the shape of one of the values, with a batch."""
        for axis, vector in self._axes(name):
            rows = numbers.movedim(axis, 0).flatten(1).double()
            np.add.at(self.sums, vector, rows.sum(1).numpy())
            np.add.at(self.counts, vector, rows.shape[1])

    def totals(self) -> Scores:
        return {group.name: self.sums[group.units] for group in self.coupling.groups}

    def means(self) -> Scores:
        means = self.sums / self.counts.clip(min=1)
        return {group.name: means[group.units] for group in self.coupling.groups}
