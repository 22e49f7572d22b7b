"""A small network and what trains it, on one thread and from one generator: the same numbers anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

HIDDEN = 32
LEARNING_RATE = 1e-3

Arrays = dict[str, NDArray[Any]]


class Learner:
    """Two hidden layers and Adam.

    Args:
        inputs: how many; there is one output.
        generator: what weights are drawn from: torch's own initialisation would use the global seed.
        weight_decay: of Adam's, added to gradients.
        silent: whether the output is 0 until it has learned.
    """

    def __init__(
        self, inputs: int, generator: torch.Generator, *, weight_decay: float = 0.0, silent: bool = False
    ) -> None:
        layers: list[nn.Module] = []
        for ends in ((inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)):
            linear = nn.Linear(*ends, device="meta").to_empty(device="cpu")
            reach = 0.0 if silent and ends[1] == 1 else ends[0] ** -0.5
            nn.init.uniform_(linear.weight, -reach, reach, generator=generator)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
        self._network = nn.Sequential(*layers[:-1])
        # The same memory as arrays: they follow what is learned.
        self._plain = [
            (layer.weight.detach().numpy(), layer.bias.detach().numpy())
            for layer in layers
            if isinstance(layer, nn.Linear)
        ]
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), LEARNING_RATE, weight_decay=weight_decay, fused=True
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """(..., inputs) -> (...)."""
        outputs: Tensor = self._network(inputs)
        return outputs[..., 0]

    def of_one(self, inputs: NDArray[np.float32]) -> float:
        """(inputs,) -> its output, without what torch takes to call a layer."""
        *hidden, (weight, bias) = self._plain
        for weights, biases in hidden:
            inputs = np.maximum(weights @ inputs + biases, 0)
        return float((weight @ inputs + bias)[0])

    def descend(self, loss: Tensor) -> None:
        """Take one step, this network's alone: the loss may run through others."""
        self._optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=self._optimizer.param_groups[0]["params"])
        self._optimizer.step()

    def state(self) -> Arrays:
        """All that `load` needs."""
        network = {name: value.numpy().copy() for name, value in self._network.state_dict().items()}
        moments = {
            f"adam.{parameter}.{name}": value.numpy().copy()
            for parameter, kept in self._optimizer.state_dict()["state"].items()
            for name, value in kept.items()
        }
        return network | moments

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `state` was taken."""
        moments: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        network = {}
        for name, array in state.items():
            value = torch.from_numpy(array.copy())
            match name.split("."):
                case ["adam", parameter, moment]:
                    moments[int(parameter)][moment] = value
                case _:
                    network[name] = value
        self._network.load_state_dict(network)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": dict(moments)})


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: sums come out the same anywhere, and the trials keep their cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
