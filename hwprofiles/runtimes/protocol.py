"""What every runtime promises: say which kernels operators become, what the device is, and run either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from hwprofiles.device import Device
from hwprofiles.ops import OpGraph, OpSpec, Size

Run = Callable[[], float | None]
"""Runs something once. The milliseconds that it returns, by a device's own clock, are what it took; where it
returns None, the clock on the wall counts."""

CALL = OpSpec(kind="call", in_channels=1, out_channels=1)
"""An operator that does next to nothing: its latency is what any call of the runtime costs.

An operator timed alone pays for a call; in a network all operators share one.
"""


PLAIN = "plain"
"""How tensors lie in memory in the model itself, at a network's inputs and outputs, and often all through."""


class Lowered(NamedTuple):
    """What a runtime makes of one operator.

    `kernels` run in order; each is an `OpSpec` that `prepare_kernel` runs as it stands: its `kind` names the
    kernel and its channels are padded as that pads them. `reads` is the layout in which it wants its own
    input, `joins` that of all other sources (see `OpGraph.joined`), `writes` that of its result.
    """

    kernels: tuple[OpSpec, ...]
    reads: str = PLAIN
    joins: str = PLAIN
    writes: str = PLAIN


class Lowering(Protocol):
    """The rules by which a runtime makes kernels of operators; they need neither the runtime nor its device.

    Kernels that are equal cost the same, so each is measured once. Which ones `lower` chooses depends on a
    channel count only by whether it is below `period` (times `groups`, of a grouped layer) and by its
    remainder; those it has chosen map input and output channels independently and monotonically. So a table
    may lower a few counts for many, and interpolate between kernels of equal `family`, of which it needs
    `points` counts along each axis.

    `layouts` are the ways in which tensors may lie in memory; several tensors together count as the one of
    them that comes first here. Only `PLAIN` and the others need converting into one another.
    """

    layouts: tuple[str, ...]

    points: int

    @property
    def period(self) -> int: ...

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        """Return what becomes of an operator whose joined sources lie in `layout`.

        Raises:
            UnsupportedOpError: this runtime has no rule for the operator.
        """
        ...

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        """Return the kernel that brings a tensor into `layout`: into `PLAIN`, or out of it."""
        ...


class Runtime(Lowering, Protocol):
    """An inference runtime on this machine: what it makes of operators, as `Lowering` says, it also runs."""

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        """Return this machine under this runtime; `name` is the user's own word for it."""
        ...

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Run:
        """Build a kernel with random weights and inputs; each call of the answer runs it once."""
        ...

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Run:
        """Load a whole network with random inputs at the device's batch; each call runs it once.

        Args:
            graph: the operators that the file is made of, for a runtime that only works out what they take.

        Raises:
            RequestError: the file cannot be loaded, or an axis other than the batch has no fixed size.
        """
        ...
