"""The kernels that ONNX Runtime makes of operators on a CPU, this machine's or another's.

At its highest optimisation level ONNX Runtime folds batch norm into the convolution before it, runs a
following sum and activation in the same kernel, and keeps activations in blocks of 8 or 16 channels (NCHWc).
The rules, read from optimised graphs of ONNX Runtime 1.31 and held by tests that read them again:

    conv2d, below one block of input channels      conv2d_from_nchw       output channels padded to blocks
    conv2d, input channels a multiple of 4         conv2d_nchwc           input and output padded to blocks
    conv2d, any other input channels               conv2d_nchw            nothing padded, and slower
    grouped conv2d, whole blocks in every group    conv2d_nchwc           else conv2d_nchw
    depthwise_conv2d, a multiple of 4              depthwise_conv2d_nchwc padded, else depthwise_conv2d_nchw
    max_pool2d and avg_pool2d, whole blocks        …_nchwc
    conv_transpose2d, depthwise or not             as it is: a product of plain matrices, and no blocks
    resize2d by whole numbers, of blocks           resize2d_nchwc         padded; by anything else as it is
    batch_norm behind a blocked kernel             depthwise_conv2d_nchwc of 1x1
    sums and the functions in `_BLOCKED`           on blocks where all that they read lies in blocks
    concatenation                                  on blocks where all that it reads lies in whole blocks
    linear                                         output padded to panels of 16, by a measured staircase
    everything else                                as it is

Whoever wants plain memory behind a blocked kernel, or the other way round, pays for a `reorder`: one width
off the grid costs more than its own layer. A sum is part of a blocked convolution only where the other
summand lies in blocks, too; an activation behind it only if it is in `_FUSED_WITH_SUM`.
"""

from __future__ import annotations

from dataclasses import replace

from hwprofiles.device import Device
from hwprofiles.ops import OpSpec, Size
from hwprofiles.runtimes.onnx_drawing import ACTIVATIONS
from hwprofiles.runtimes.protocol import PLAIN, Lowered
from hwprofiles.runtimes.rules import check_known, fold_batch_norm, up_to, whole_factors, whole_parts

_ALIGNED = 4  # the NCHWc convolution reads input channels in fours
_PANEL = 16  # the matrix product packs columns of weights by sixteen, on every CPU

_FUSED_WITH_SUM = {"relu", "sigmoid", "tanh", "hardsigmoid", "hardswish"}
_BLOCKED = {*_FUSED_WITH_SUM, "add", "silu", "gelu"}
"""What leaves blocked tensors as they lie; `mul` is not among them, as most often it is a gate's."""
# Layouts: blocks of channels, the last of them filled up with zeros or not.
_PADDED, _WHOLE = "padded blocks", "whole blocks"


class OnnxCpuLowering:
    """`Lowering` of ONNX Runtime's CPU provider in fp32.

    Args:
        block: channels in a block (16 with AVX-512, 8 with AVX2); 1 where layouts are not blocked.
    """

    def __init__(self, block: int) -> None:
        self.block = block

    layouts = (PLAIN, _PADDED, _WHOLE)
    points = 2  # four make no prediction better; docs/latency.md

    @property
    def period(self) -> int:
        return self.block

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        check_known(spec, "onnxruntime")
        spec = fold_batch_norm(spec)
        channels = spec.out_channels
        match spec.kind:
            case "conv2d" | "depthwise_conv2d":
                return self._convolution(spec, layout)
            case "max_pool2d" | "avg_pool2d" if self._lies(channels) == _WHOLE:
                return Lowered((_kernel(spec, "nchwc", channels, channels),), PLAIN, _WHOLE, _WHOLE)
            case "resize2d" if layout != PLAIN and whole_factors(spec):
                kernel = _kernel(spec, "nchwc", self.pad(channels), self.pad(channels))
                return Lowered((kernel,), PLAIN, layout, layout)
            case "batch_norm" if layout != PLAIN:
                kernel = _kernel(_as_convolution(spec), "nchwc", self.pad(channels), self.pad(channels))
                return Lowered((kernel,), PLAIN, layout, self._lies(channels))
            case "elementwise" if layout != PLAIN and _BLOCKED.issuperset(spec.fused):
                padded = self.pad(channels)
                return Lowered((spec.with_channels(padded, padded),), PLAIN, layout, layout)
            case "copy" if layout == _WHOLE and spec.fused == ("cat",):
                return Lowered((spec,), PLAIN, _WHOLE, _WHOLE)
            case "linear":
                return Lowered((spec.with_channels(spec.in_channels, up_to(channels, _PANEL)),))
        return Lowered((whole_parts(spec),))

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        kind = "reorder_output" if layout == PLAIN else "reorder_input"
        if layout != PLAIN:
            channels = up_to(channels, _ALIGNED)  # whoever reads blocks has no other counts
        return OpSpec(kind=kind, in_channels=channels, out_channels=channels, in_size=size, out_size=size)

    def _convolution(self, spec: OpSpec, layout: str) -> Lowered:
        inputs, outputs = spec.in_channels, spec.out_channels
        read, how = self._blocked(spec)
        if not how:
            return Lowered((_kernel(spec, "nchw", inputs, outputs),))
        inside, behind = _split_epilogue(spec.fused, adds=layout != PLAIN)
        lies, size = self._lies(outputs), spec.result_size
        kernel = replace(spec, fused=inside)
        kernels = [
            _kernel(kernel, how, inputs if how == "from_nchw" else self.pad(inputs), self.pad(outputs))
        ]
        for name in behind:
            if lies != PLAIN and (name not in _BLOCKED or name == "add"):
                kernels.append(self.reorder(outputs, size, PLAIN))
                lies = PLAIN
            count = outputs if lies == PLAIN else self.pad(outputs)
            kernels.append(
                OpSpec(
                    kind="elementwise",
                    in_channels=count,
                    out_channels=count,
                    in_size=size,
                    out_size=size,
                    fused=(name,),
                )
            )
        return Lowered(tuple(kernels), read, PLAIN if "add" in behind else layout, lies)

    def _blocked(self, spec: OpSpec) -> tuple[str, str]:
        """The layout that a convolution reads, and its blocked kernel; "" if it has none for its channels."""
        inputs, outputs = spec.in_channels, spec.out_channels
        if self.block == 1:
            return PLAIN, ""
        if spec.kind == "depthwise_conv2d":
            return (_WHOLE, "nchwc") if outputs % _ALIGNED == 0 else (PLAIN, "")
        if spec.groups > 1:
            whole = inputs // spec.groups % self.block == 0 and outputs // spec.groups % self.block == 0
            return (_WHOLE, "nchwc") if whole else (PLAIN, "")
        if inputs < self.block:
            return PLAIN, "from_nchw"
        return (_WHOLE, "nchwc") if inputs % _ALIGNED == 0 else (PLAIN, "")

    def _lies(self, channels: int) -> str:
        return PLAIN if self.block == 1 else _PADDED if channels % self.block else _WHOLE

    def pad(self, channels: int) -> int:
        return up_to(channels, self.block)


def lowering_of(device: Device) -> OnnxCpuLowering:
    return OnnxCpuLowering(device.channel_step)


def _kernel(spec: OpSpec, layout: str, in_channels: int, out_channels: int) -> OpSpec:
    return replace(spec, kind=f"{spec.kind}_{layout}", in_channels=in_channels, out_channels=out_channels)


def _split_epilogue(fused: tuple[str, ...], *, adds: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a blocked convolution does to its own result, and what others do behind it."""
    inside = ("add",) if fused[:1] == ("add",) and adds else ()
    behind = fused[len(inside) :]
    if behind and behind[0] in (_FUSED_WITH_SUM if inside else ACTIVATIONS):
        return (*inside, behind[0]), behind[1:]
    return inside, behind


def _as_convolution(norm: OpSpec) -> OpSpec:
    """A batch norm as the depthwise convolution of 1x1 that it is."""
    return replace(
        norm,
        kind="depthwise_conv2d",
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0,) * 4,
        dilation=(1, 1),
        groups=0,
    )
