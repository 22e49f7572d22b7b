"""Calibration inputs, and what the dense model computes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import Self

import numpy as np
import torch

from trials.data import Split
from trials.evaluate import Execution
from trials.graph import Node, Value
from trials.groups import Coupling
from trials.network import Network, build
from trials.repair.layers import Layer, layers
from trials.repair.moments import Inputs, Moments
from trials.repair.sampling import inputs_at, outputs_at
from trials.repair.scores import Scores, ScoreSums, Turn, find_scores
from trials.room import Room

EXAMPLES, POSITIONS = 2_048, 16
"""Inputs that a calibration looks at, and places in each. They are looked at as they are: shifted and
mirrored ones repaired a ResNet-56 worse, and half as many did so, too."""
BRIEF_EXAMPLES, BRIEF_POSITIONS = 256, 32
"""What it takes to tell which of two candidates is repaired better."""

TARGET_BYTES = 256 * 2**20
"""Of targets that are held at a time: those of a ResNet-56 take 130 MiB, of a ResNet-50 1.7 GiB."""

Tensors = Mapping[str, torch.Tensor]
Values = dict[str, list[torch.Tensor]]
"""Value name → its chunks, of the values that are still to be read."""


class Calibration:
    """Inputs, the places looked at in each layer, and what the dense model computes there.

    `positions` places of each layer's output are looked at per input, the same for all inputs of a chunk;
    inputs go through a layer in chunks of so many.
    """

    def __init__(
        self,
        coupling: Coupling,
        tensors: Tensors,
        inputs: Sequence[torch.Tensor],
        *,
        positions: int = POSITIONS,
        chunk: int = 256,
        seed: int = 0,
    ) -> None:
        self.coupling, self.tensors = coupling, tensors
        self.chunks = [tuple(x[i : i + chunk] for x in inputs) for i in range(0, len(inputs[0]), chunk)]
        self.layers, self.scores = layers(coupling), find_scores(coupling)
        generator = torch.Generator().manual_seed(seed)
        self._picks = {
            layer.name: [
                torch.randperm(places, generator=generator)[:positions].sort().values for _ in self.chunks
            ]
            for layer in self.layers
            for places in [self._places(layer)]
        }
        self._spans = self._spanned()
        self._targets: dict[str, list[torch.Tensor]] = {}

    @classmethod
    def fitting(
        cls,
        coupling: Coupling,
        tensors: Tensors,
        examples: Split,
        room: Room,
        *,
        seed: int = 0,
        brief: bool = False,
    ) -> Self:
        """Of as many of the examples as there is room for, up to `EXAMPLES`; of fewer, more places are looked
        at, for as many samples. A brief one has half of the samples, of a quarter of the examples."""
        most, places = (BRIEF_EXAMPLES, BRIEF_POSITIONS) if brief else (EXAMPLES, POSITIONS)
        arrays, _ = examples.evenly(min(most, room.held)).batch(slice(None))
        return cls(
            coupling,
            tensors,
            Execution.CHANNELS_LAST.tensors(arrays),  # which repair reads pixel by pixel
            positions=places * most // len(arrays[0]),
            chunk=room.forward,
            seed=seed,
        )

    @property
    def inputs(self) -> Mapping[str, Inputs]:
        """Layer → moments of what it reads in the dense model."""
        return self._sums[0]

    @property
    def turns(self) -> Sequence[tuple[Scores, Turn]]:
        """Each of `scores` with how its queries and keys are turned."""
        return self._sums[1]

    @cached_property
    def turned(self) -> Set[int]:
        """The classes of queries and keys of `scores`: which of their places go does not matter."""
        coupling, found = self.coupling, set[int]()
        for scores in self.scores:
            vector = coupling.tensor_axes.get((scores.query.tensors[0], 0))
            if vector is not None:
                found.update(coupling.vectors[vector][:, scores.query.rows].ravel().tolist())
        return found

    @cached_property
    @torch.no_grad()
    def _sums(self) -> tuple[Mapping[str, Inputs], Sequence[tuple[Scores, Turn]]]:
        by_node = {layer.name: layer for layer in self.layers}
        inputs = {layer.name: Inputs(shift=bool(layer.intercept)) for layer in self.layers}
        products = {scores.node: scores for scores in self.scores}
        of_scores = {name: ScoreSums() for name in products}
        network = build(self.coupling.graph, self.tensors).eval()
        for number, chunk in enumerate(self.chunks):
            for node, values in walk(network, [chunk]):
                if node.name in by_node:
                    layer, pick = by_node[node.name], self._picks[node.name][number]
                    (x,) = values[_source(layer)]
                    inputs[layer.name].add(inputs_at(layer, x, pick, self._made(layer)))
                if node.name in products:
                    query, key = products[node.name].query, products[node.name].key
                    of_scores[node.name].add(
                        query.by_head(values[query.value][0]), key.by_head(values[key.value][0])
                    )
        return inputs, [(products[name], found.turn()) for name, found in of_scores.items()]

    def moments(
        self, layer: Layer, features: torch.Tensor | None = None, outputs: torch.Tensor | None = None
    ) -> Moments:
        """Of what a layer reads and makes in the dense model; all of it, or what is given by index.

        What it makes follows from its weights, so that what it reads is all that is looked at.
        """
        weights = layer.matrix(self.tensors[layer.weight])
        made = slice(None) if outputs is None else outputs
        read = torch.arange(weights.shape[1]) if features is None else features
        found = self.inputs[layer.name].moments(weights[made], read)
        if layer.bias:
            found.y_mean.add_(self.tensors[layer.bias][made])
        return found

    @torch.no_grad()
    def targets(self, layer: Layer) -> Sequence[torch.Tensor]:
        """(samples, outputs) of a layer's target in the dense model, a part for each chunk.

        With them come those of other layers, and they stay until a layer is asked for that is not among them:
        in running order the dense model is run as few times as `TARGET_BYTES` allow.
        """
        if layer.name not in self._targets:
            self._targets = {}  # before others take their place
            self._targets = self._made_by_dense(next(some for some in self._spans if layer in some))
        return self._targets[layer.name]

    def _made_by_dense(self, layers: Sequence[Layer]) -> dict[str, list[torch.Tensor]]:
        found: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in layers}
        network = build(self.coupling.graph, self.tensors).eval()
        for number, chunk in enumerate(self.chunks):
            left = {layer.target: layer for layer in layers}
            for node, values in walk(network, [chunk]):
                if node.name in left:
                    layer = left.pop(node.name)
                    pick = self._picks[layer.name][number]
                    found[layer.name].append(outputs_at(layer, values[node.name][0], pick))
                if not left:
                    break
        return found

    def _spanned(self) -> list[list[Layer]]:
        """The layers in running order, as many together as targets may be held of."""
        spans, held_bytes = list[list[Layer]](), math.inf
        for layer in self.layers:
            samples = sum(
                len(chunk[0]) * len(pick)
                for chunk, pick in zip(self.chunks, self._picks[layer.name], strict=True)
            )
            made_bytes = samples * layer.shape[1 - layer.input_axis] * self.tensors[layer.weight].itemsize
            if held_bytes + made_bytes > TARGET_BYTES:
                spans.append([])
                held_bytes = 0
            spans[-1].append(layer)
            held_bytes += made_bytes
        return spans

    def read(self, layer: Layer, chunks: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """(samples, features) of each chunk of a value that the layer reads."""
        for value, pick in zip(chunks, self._picks[layer.name], strict=True):
            yield inputs_at(layer, value, pick, self._made(layer))

    def made(self, layer: Layer, chunks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(samples, outputs) of each chunk of a value with the layer's output shape."""
        return [
            outputs_at(layer, value, pick)
            for value, pick in zip(chunks, self._picks[layer.name], strict=True)
        ]

    def _made(self, layer: Layer) -> tuple[int, ...]:
        result = self.coupling.traced[layer.name]
        assert isinstance(result, np.ndarray)
        return result.shape[2:] if layer.spatial else result.shape[1:-1]

    def _places(self, layer: Layer) -> int:
        return int(np.prod(self._made(layer), initial=1))


def _source(layer: Layer) -> str:
    source = layer.node["input"]
    assert isinstance(source, Value)
    return source.name


def walk(
    network: Network,
    chunks: Sequence[tuple[torch.Tensor, ...]],
    before: Callable[[Node, Values], None] = lambda node, values: None,
) -> Iterator[tuple[Node, Values]]:
    """Run a network node by node over all chunks, yielding each node as its value appears.

    `before` is called with each node before it runs, and may change its weights.
    """
    graph = network.graph
    values: Values = {item.name: [chunk[i] for chunk in chunks] for i, item in enumerate(graph.inputs)}
    for step, dead in zip(network.steps, network.release, strict=True):
        before(step.node, values)
        values[step.name] = run_chunks(network, step.name, values, chunks)
        yield step.node, values
        for name in dead:
            del values[name]


def run_chunks(
    network: Network,
    name: str,
    values: Mapping[str, Sequence[torch.Tensor]],
    chunks: Sequence[tuple[torch.Tensor, ...]],
) -> list[torch.Tensor]:
    """The output of one node for every chunk; what it reads is computed where it is not there yet."""
    step = network.by_name[name]
    needed = {
        key: values[key] if key in values else run_chunks(network, key, values, chunks)
        for key in step.node.values
    }
    return [
        step(network, {key: parts[i] for key, parts in needed.items()}, len(chunk[0]))
        for i, chunk in enumerate(chunks)
    ]
