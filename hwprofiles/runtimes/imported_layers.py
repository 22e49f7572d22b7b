"""Layers whose table somebody else measured: a model asks for them as it has them, but for absorbed norms."""

from __future__ import annotations

from hwprofiles.device import Device
from hwprofiles.errors import InvariantError
from hwprofiles.ops import OpSpec, Size
from hwprofiles.runtimes.protocol import PLAIN, Lowered
from hwprofiles.runtimes.rules import check_known, fold_batch_norm


class ImportedLayers:
    """`Lowering` where nothing is known of a runtime but what its table says."""

    layouts: tuple[str, ...] = (PLAIN,)
    period = 1
    points = 4

    def __init__(self, runtime: str) -> None:
        self._runtime = runtime

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        check_known(spec, self._runtime)
        return Lowered((fold_batch_norm(spec),))

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        raise InvariantError("an imported table has one layout, and nothing to reorder")


def lowering_of(device: Device) -> ImportedLayers:
    return ImportedLayers(device.runtime)
