"""What every runtime promises: say what the device is, which kernel an operator becomes, and run either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hwprofiles.device import Device
from hwprofiles.ops import OpSpec

CALL = OpSpec(kind="call", in_channels=1, out_channels=1)
"""An operator that does next to nothing: its latency is what any call of the runtime costs.

An operator timed alone pays for a call; in a network all operators share one.
"""


class Runtime(Protocol):
    """Lowers operators to the kernels that one inference runtime really runs, and runs them.

    Two operators with the same `canon` cost the same, so only canonical operators are measured. `canon` is
    pure and idempotent, and once it has chosen a kernel from `in_channels` it maps input and output channels
    independently and monotonically: a table may interpolate between canonical operators of equal `family`.
    """

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        """Return this machine under this runtime; `name` is the user's own word for it."""
        ...

    def canon(self, spec: OpSpec) -> OpSpec:
        """Return the lowered operator: `kind` names the kernel, channels are padded as that pads them.

        Raises:
            UnsupportedOpError: this runtime has no rule for the operator.
        """
        ...

    def prepare_operator(self, spec: OpSpec, device: Device) -> Callable[[], None]:
        """Build the operator with random weights and inputs; each call of the answer runs it once."""
        ...

    def prepare_network(self, onnx_path: Path, device: Device) -> Callable[[], None]:
        """Load a whole network with random inputs at the device's batch; each call runs it once.

        Raises:
            RequestError: the file cannot be loaded, or an axis other than the batch has no fixed size.
        """
        ...
