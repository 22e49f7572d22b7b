"""What TensorRT makes of operators, in the words that its engines allow.

An engine does not tell apart what a model may write in several ways, so neither do the keys of kernels: every
clipping is a `clamp`, an average over a whole map is a `mean2d`, and a 1x1 convolution of a single pixel is
what a `linear` layer of one vector becomes.
"""

from __future__ import annotations

from dataclasses import replace

from hwprofiles.device import Device
from hwprofiles.ops import OpSpec
from hwprofiles.runtimes.gpu import OWN_STEP, GpuLowering
from hwprofiles.runtimes.protocol import Lowered

STEPS = {**OWN_STEP, "int8": 16}
"""Numbers in 16 bytes; engines in int8 are only imported, none is built here."""
_CLAMPS = ("relu6", "hardtanh", "clamp")


class TensorRtLowering(GpuLowering):
    """`Lowering` of TensorRT."""

    def __init__(self, step: int) -> None:
        super().__init__("tensorrt", step)

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        fused = tuple("clamp" if name in _CLAMPS else name for name in spec.fused)
        return super().lower(_as_in_engines(replace(spec, fused=fused)), layout)


def lowering_of(device: Device) -> TensorRtLowering:
    return TensorRtLowering(device.channel_step)


def _as_in_engines(spec: OpSpec) -> OpSpec:
    whole = spec.kernel == spec.in_size and not any(spec.padding)
    if spec.kind == "conv2d" and whole and spec.in_size == (1, 1) and spec.groups == 1:
        ins, outs = spec.in_channels, spec.out_channels
        return OpSpec(kind="linear", in_channels=ins, out_channels=outs, in_size=(1,), fused=spec.fused)
    if spec.kind == "mean2d" or (spec.kind == "avg_pool2d" and whole):
        size = spec.in_size
        return replace(spec, kind="mean2d", kernel=size, stride=size, padding=(0,) * 4)
    return spec
