"""Least-squares repair: give the layers that read removed units weights that make up for the loss.

Two repairs. `fast` solves every layer on its own from moments of the dense model's activations, gathered once
per model: milliseconds a candidate. `sequential` walks the network in order and takes each regression's
inputs from the already repaired network and its target from the dense one, behind the residual sum where
there is one, so that each layer also undoes the error of those before it: seconds a candidate. Convolutions
and linear layers are repaired; what else reads removed units, such as a transposed convolution, loses them.

Source: He et al., Channel Pruning for Accelerating Very Deep Neural Networks, arXiv 1707.06168, section 3.1
(layer-wise least squares) and 3.2.2 (targets behind the shortcut); selection by error is second-order
elimination, Hassibi and Stork, Optimal Brain Surgeon, NIPS 1992, in blocks as in Frantar and Alistarh,
Optimal Brain Compression, arXiv 2208.11580, section 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from trials.graph import Graph, Node, Tensor, Value
from trials.groups import Coupling, Group, Kept
from trials.network import Network, build
from trials.prune import mask

RIDGE = 1e-3
"""Of the mean variance of a layer's inputs; pulls towards the dense weights."""
MAX_FEATURES = 2_304
"""Layers that read more numbers than this per output keep the criterion's choice of units."""
CHUNK = 256

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer that reads units that may go, and where its error shows.

    `norm` is the batch norm that follows it alone, "" if none. `target` is the value that should stay as in
    the dense model: the layer's own output, or the residual sum behind it, to which `beside` adds.
    """

    node: Node
    weight: str
    bias: str
    norm: Node | None
    target: str
    beside: str

    @property
    def convolution(self) -> bool:
        return self.node.op.startswith("aten.conv2d")

    @property
    def intercept(self) -> str:
        """The tensor that can shift the layer's outputs: its bias, or the mean its norm takes off; or ""."""
        if self.bias or self.norm is None:
            return self.bias
        mean: str = self.norm["running_mean"].name
        return mean

    @property
    def changes(self) -> list[str]:
        """The tensors that a repair of this layer writes."""
        return [name for name in (self.weight, self.intercept) if name]


def layers(coupling: Coupling) -> list[Layer]:
    """The layers to repair, in running order; one that shares a tensor with another use of it is left out."""
    graph = coupling.graph
    uses = Counter(name for node in graph.nodes for name in node.tensors)
    consumers = graph.consumers()
    found = []
    for node in graph.nodes:
        weight, bias = node.args.get("weight"), node.args.get("bias")
        if not node.op.startswith(("aten.conv2d", "aten.linear")) or not isinstance(weight, Tensor):
            continue
        if (weight.name, 1) not in coupling.contracted:
            continue
        bias_name = bias.name if isinstance(bias, Tensor) else ""
        layer = Layer(node, weight.name, bias_name, *_aim(graph, consumers, node))
        if all(uses[name] == 1 for name in layer.changes):
            found.append(layer)
    return found


def _aim(graph: Graph, consumers: Mapping[str, list[Node]], layer: Node) -> tuple[Node | None, str, str]:
    """`norm`, `target` and `beside` of a layer: follow its output for as long as one node alone reads it."""
    outputs = {value.name for value in graph.outputs}
    norm, tail = None, layer.name
    while len(consumers[tail]) == 1 and tail not in outputs:
        after = consumers[tail][0]
        if _is_residual_sum(after):
            other = next((name for name in after.values if name != tail), tail)
            if _ready_before(graph, other, layer.name):
                return norm, after.name, other
            break
        if norm is None and _is_norm(after):
            norm = after
        elif after.op != "aten.dropout.default":
            break
        tail = after.name
    return norm, layer.name, ""


def _is_residual_sum(node: Node) -> bool:
    return node.op == "aten.add.Tensor" and len(node.values) == 2 and node.args.get("alpha") == 1


def _is_norm(node: Node) -> bool:
    parts = ("weight", "bias", "running_mean", "running_var")
    return node.op == "aten.batch_norm.default" and all(isinstance(node[name], Tensor) for name in parts)


def _ready_before(graph: Graph, value: str, layer: str) -> bool:
    """Whether a value can be computed before a layer runs, without any layer that may itself need repair."""
    order = {node.name: position for position, node in enumerate(graph.nodes)}
    while order.get(value, -1) > order[layer]:
        node = graph.nodes[order[value]]
        if len(node.values) != 1 or "weight" in node.args:
            return False
        value = node.values[0]
    return True


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of a layer's inputs x (features) and wanted outputs y, in float64.

    They are about the means where the layer can shift its outputs, else about zero, and the means are zero.
    """

    xx: torch.Tensor
    xy: torch.Tensor
    x_mean: torch.Tensor
    y_mean: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor, *, shift: bool = True) -> Moments:
        """From (samples, features) and (samples, outputs)."""
        x_mean, y_mean = (values.mean(0) if shift else values.new_zeros(values.shape[1]) for values in (x, y))
        x, y = x - x_mean, y - y_mean
        return cls((x.T @ x).double() / len(x), (x.T @ y).double() / len(x), x_mean.double(), y_mean.double())

    def solve(self, features: torch.Tensor, old: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (outputs, kept features) and intercept (outputs,) for the features that stay.

        `old` (outputs, features) are the weights the ridge pulls towards.
        """
        xx, old_kept = self.xx[features][:, features], old[:, features].double()
        ridge = RIDGE * float(xx.diagonal().mean()) + 1e-12
        eye = torch.eye(len(features), dtype=torch.float64)
        factor = torch.linalg.cholesky(xx + ridge * eye)
        weights = torch.cholesky_solve(self.xy[features] + ridge * old_kept.T, factor).T
        return weights, self.y_mean - weights @ self.x_mean[features]

    def eliminate(self, blocks: torch.Tensor, count: int) -> torch.Tensor:
        """Indices of the `count` blocks of features that stay when the least needed goes, one by one.

        `blocks` (units, features per unit). What a unit is worth is the rise of the least-squares error when
        it goes and the others make up for it: w' C^-1 w, with its blocks w of the weights, C of the inverse.
        """
        alive = list(range(len(blocks)))
        ridge = RIDGE * float(self.xx.diagonal().mean()) + 1e-12
        inverse = torch.linalg.inv(self.xx + ridge * torch.eye(len(self.xx), dtype=torch.float64))
        weights = inverse @ self.xy
        while len(alive) > count:
            rows = blocks[alive]
            corners = inverse[rows[:, :, None], rows[:, None, :]]
            own = weights[rows]
            rise = (own * torch.linalg.solve(corners, own)).sum((1, 2))
            gone = alive.pop(int(rise.argmin()))
            block = blocks[gone]
            corner = torch.linalg.solve(inverse[block][:, block], inverse[block])
            weights = weights - inverse[:, block] @ torch.linalg.solve(
                inverse[block][:, block], weights[block]
            )
            inverse = inverse - inverse[:, block] @ corner
        return torch.tensor(alive)


class Calibration:
    """Calibration inputs, the places looked at in each layer, and what the dense model computes there.

    `positions` samples of each layer's output are taken per input, the same for all inputs of a chunk.
    """

    def __init__(
        self,
        coupling: Coupling,
        tensors: Tensors,
        inputs: Sequence[torch.Tensor],
        *,
        positions: int = 16,
        seed: int = 0,
    ) -> None:
        self.coupling, self.tensors = coupling, tensors
        self.chunks = [tuple(x[i : i + CHUNK] for x in inputs) for i in range(0, len(inputs[0]), CHUNK)]
        self.layers = layers(coupling)
        self.positions = positions
        self._picks: dict[tuple[str, int], torch.Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self.targets: dict[str, torch.Tensor] = {}
        self.moments: dict[str, Moments] = {}
        self._observe()

    @torch.no_grad()
    def _observe(self) -> None:
        """One pass of the dense model: targets at the sampled places, and moments of every layer."""
        network = build(self.coupling.graph, self.tensors).eval()
        by_target = {layer.target: layer for layer in self.layers}
        by_node = {layer.node.name: layer for layer in self.layers}
        for node, values in _walk(network, self.chunks):
            layer = by_node.get(node.name)
            if layer is not None:
                self.moments[node.name] = self.regression(
                    layer, values, self.sampled(layer, values[node.name])
                )
            if node.name in by_target:
                layer = by_target[node.name]
                self.targets[layer.node.name] = self.sampled(layer, values[node.name])

    def regression(
        self, layer: Layer, values: Mapping[str, Sequence[torch.Tensor]], wanted: torch.Tensor
    ) -> Moments:
        """Of what a layer reads and the (samples, outputs) it should give."""
        return Moments.of(self.patches(layer, values), wanted, shift=bool(layer.intercept))

    def sampled(self, layer: Layer, chunks: Sequence[torch.Tensor]) -> torch.Tensor:
        """(samples, outputs) of a value with the layer's output shape."""
        parts = []
        for index, value in enumerate(chunks):
            if layer.convolution:
                pick = self._pick(layer, index, value.shape[2] * value.shape[3])
                parts.append(value.flatten(2)[:, :, pick].transpose(1, 2).flatten(0, 1))
            else:
                rows = value.reshape(len(value), -1, value.shape[-1])
                parts.append(rows[:, self._pick(layer, index, rows.shape[1])].flatten(0, 1))
        return torch.cat(parts)

    def patches(self, layer: Layer, values: Mapping[str, Sequence[torch.Tensor]]) -> torch.Tensor:
        """(samples, features): what the layer reads at the sampled places of its output."""
        node, source = layer.node, layer.node.args["input"]
        assert isinstance(source, Value)
        chunks = values[source.name]
        if not layer.convolution:
            return self.sampled(layer, chunks)
        kernel = self.tensors[layer.weight].shape[2:]
        result = self.coupling.traced[node.name]
        assert isinstance(result, np.ndarray)
        height, width = result.shape[2:]
        parts = []
        for index, value in enumerate(chunks):
            padded = F.pad(value, _padding(node, kernel))
            pick = self._pick(layer, index, height * width)
            rows = (pick // width) * node["stride"][0]
            columns = (pick % width) * node["stride"][1]
            taps_r = torch.arange(kernel[0]) * node["dilation"][0]
            taps_c = torch.arange(kernel[1]) * node["dilation"][1]
            windows = padded[
                :, :, (rows[:, None] + taps_r)[:, :, None], (columns[:, None] + taps_c)[:, None, :]
            ]
            parts.append(windows.permute(0, 2, 1, 3, 4).flatten(2).flatten(0, 1))
        return torch.cat(parts)

    def _pick(self, layer: Layer, chunk: int, places: int) -> torch.Tensor:
        key = (layer.node.name, chunk)
        if key not in self._picks:
            self._picks[key] = (
                torch.randperm(places, generator=self._generator)[: self.positions].sort().values
            )
        return self._picks[key]


def _padding(node: Node, kernel: Sequence[int]) -> tuple[int, int, int, int]:
    """As F.pad takes it: left, right, top, bottom."""
    padding = node["padding"]
    if isinstance(padding, str):
        total = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(node["dilation"], kernel, strict=True)
        ]
        return (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    return (padding[1], padding[1], padding[0], padding[0])


Values = dict[str, list[torch.Tensor]]
"""Value name → its chunks, of the values that are still to be read."""


def _walk(
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
    step = next(step for step in network.steps if step.name == name)
    needed = {
        key: values[key] if key in values else run_chunks(network, key, values, chunks)
        for key in step.node.values
    }
    return [
        step(network, {key: parts[i] for key, parts in needed.items()}, len(chunk[0]))
        for i, chunk in enumerate(chunks)
    ]


@torch.no_grad()
def fast(calibration: Calibration, kept: Kept) -> dict[str, torch.Tensor]:
    """The dense tensors, with every layer that reads removed units refitted to its own dense output.

    Weights that read removed units are zero: pass the result to `prune`.
    """
    coupling, repaired = calibration.coupling, _readable(calibration, kept)
    alive = coupling.alive(kept)
    for layer in calibration.layers:
        features = _features(coupling, layer, alive, repaired[layer.weight])
        if len(features) < repaired[layer.weight][0].numel():
            for name in layer.changes:
                repaired[name] = repaired[name].clone()
            _refit(repaired, layer, calibration.moments[layer.node.name], features)
    return repaired


@torch.no_grad()
def sequential(
    calibration: Calibration, kept: Kept, *, by_error: bool = True
) -> tuple[Kept, dict[str, torch.Tensor]]:
    """Repair layer by layer in running order; returns the units that stay and the dense-sized tensors.

    From the first layer that loses inputs on, every layer is refitted, also one that keeps all of its own: it
    reads what the layers before it made a little different.

    With `by_error`, a group that a single layer reads chooses its units anew, by the error they cause there;
    `kept` then says only how many stay.
    """
    coupling = calibration.coupling
    chosen = dict(kept)
    repaired = {name: tensor.clone() for name, tensor in _readable(calibration, kept).items()}
    network = build(coupling.graph, repaired).eval()
    by_node = {layer.node.name: layer for layer in calibration.layers}
    free = _single_readers(coupling, kept) if by_error else {}
    changed = False

    def repair(node: Node, values: Values) -> None:
        nonlocal changed
        layer = by_node.get(node.name)
        if layer is None:
            return
        weight = repaired[layer.weight]
        features = _features(coupling, layer, coupling.alive(chosen), weight)
        changed = changed or len(features) < weight[0].numel()
        if not changed:
            return
        beside = None
        if layer.beside:
            beside = values.get(layer.beside) or run_chunks(network, layer.beside, values, calibration.chunks)
        moments = calibration.regression(layer, values, _wanted(calibration, layer, beside, repaired))
        group = free.get(layer.weight)
        if group is not None and weight[0].numel() <= MAX_FEATURES:
            blocks = _blocks(coupling, layer, group, weight)
            stay = moments.eliminate(blocks, len(kept[group.name]))
            chosen[group.name] = np.sort(stay.numpy())
            features = blocks[stay].flatten().sort().values
        _refit(repaired, layer, moments, features)

    for _ in _walk(network, calibration.chunks, repair):
        pass
    return chosen, repaired


def _readable(calibration: Calibration, kept: Kept) -> dict[str, torch.Tensor]:
    """The dense tensors, of which those that no layer of the calibration repairs read no removed unit."""
    masked = mask(calibration.coupling, calibration.tensors, kept)
    return masked | {layer.weight: calibration.tensors[layer.weight] for layer in calibration.layers}


def _wanted(
    calibration: Calibration,
    layer: Layer,
    beside: Sequence[torch.Tensor] | None,
    tensors: Tensors,
) -> torch.Tensor:
    """(samples, outputs) that the layer itself should give so that its target is as in the dense model."""
    wanted = calibration.targets[layer.node.name]
    if beside is None:
        return wanted
    wanted = wanted - calibration.sampled(layer, beside)
    if layer.norm is not None:
        shift, scale, mean, variance = (
            tensors[layer.norm[name].name] for name in ("bias", "weight", "running_mean", "running_var")
        )
        gain = scale / torch.sqrt(variance + layer.norm["eps"])
        # An output that its norm all but silences cannot be inverted; a floor keeps it finite and harmless.
        gain = torch.where(gain.abs() < 1e-4, torch.full_like(gain, 1e-4), gain)
        wanted = (wanted - shift) / gain + mean
    return wanted


def _features(
    coupling: Coupling, layer: Layer, alive: NDArray[np.bool_], weight: torch.Tensor
) -> torch.Tensor:
    """Indices of the layer's inputs (channel x kernel) whose units stay."""
    vector = coupling.vectors[coupling.tensor_axes[layer.weight, 1]]
    taps = weight[0, 0].numel()
    channels = torch.from_numpy(np.flatnonzero(alive[vector]))
    return (channels[:, None] * taps + torch.arange(taps)).flatten()


def _blocks(coupling: Coupling, layer: Layer, group: Group, weight: torch.Tensor) -> torch.Tensor:
    """(units, features per unit): the layer's inputs that belong to each unit of a group."""
    vector = coupling.vectors[coupling.tensor_axes[layer.weight, 1]]
    taps = weight[0, 0].numel()
    channels = torch.from_numpy(np.stack([np.flatnonzero(vector == unit) for unit in group.units]))
    return (channels[:, :, None] * taps + torch.arange(taps)).flatten(1)


def _single_readers(coupling: Coupling, kept: Kept) -> dict[str, Group]:
    """Weight → group, where that weight is all that reads the group and reads nothing else."""
    readers: dict[str, list[str]] = {}
    for name, axis in coupling.contracted:
        classes = set(coupling.vectors[coupling.tensor_axes[name, axis]].tolist())
        for group in coupling.groups:
            if classes & set(group.units.tolist()):
                readers.setdefault(group.name, []).append(name)
    found = {}
    for group in coupling.groups:
        names = readers.get(group.name, [])
        if len(names) == 1 and group.name in kept:
            classes = set(coupling.vectors[coupling.tensor_axes[names[0], 1]].tolist())
            if classes == set(group.units.tolist()):
                found[names[0]] = group
    return found


def _refit(tensors: Tensors, layer: Layer, moments: Moments, features: torch.Tensor) -> None:
    """Write solved weights into the layer's tensors: zero where nothing is read any more."""
    weight = tensors[layer.weight]
    solved, intercept = moments.solve(features, weight.flatten(1))
    matrix = torch.zeros_like(weight).flatten(1)
    matrix[:, features] = solved.to(weight.dtype)
    weight.copy_(matrix.reshape(weight.shape))
    if layer.bias:
        tensors[layer.bias].copy_(intercept)
    elif layer.intercept:
        # The norm subtracts its running mean from the layer's output: an intercept moves that instead.
        tensors[layer.intercept].sub_(intercept.to(weight.dtype))
