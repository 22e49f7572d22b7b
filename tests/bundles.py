"""The example models as bundles, exported once per test run, and what their groups are, in short."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor, nn

from tests.models import MODELS, VOCABULARY, build
from trials.bundle import Bundle
from trials.export import export_model
from trials.graph import Input
from trials.groups import Coupling, analyse


def input_of(name: str) -> Input:
    _, shape, dtype = MODELS[name]
    return Input(name="x", shape=shape, dtype=str(dtype).removeprefix("torch."), high=VOCABULARY)


@cache
def exported(name: str) -> Bundle:
    return export_model(build(name), [input_of(name)])


@cache
def coupled(name: str, *, blocks: bool = False) -> Coupling:
    """The groups of a model, not yet proved; with or without its residual blocks."""
    return analyse(exported(name).graph, blocks=blocks)


def export_images(model: nn.Module, *shape: int) -> Bundle:
    """Export a model that takes float32 inputs of one shape, given without the batch."""
    return export_model(model, [Input(name="x", shape=shape)])


def sizes(coupling: Coupling) -> dict[str, int]:
    return {group.name: group.size for group in coupling.groups}


def shapes(coupling: Coupling) -> dict[str, tuple[str, int, int]]:
    """Group name → kind, size and how many positions of its first tensor a unit owns."""
    return {group.name: (group.kind, group.size, group.width) for group in coupling.groups}


def frozen(coupling: Coupling) -> dict[str, str]:
    return {item.name: item.reason for item in coupling.frozen}


class ConvolutionThen(nn.Module):
    """A convolution and whatever `body` does with its output."""

    def __init__(self, body: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self.conv(x))
