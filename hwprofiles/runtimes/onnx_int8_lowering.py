"""The kernels that ONNX Runtime makes of operators on a CPU in int8, this machine's or another's.

Between quantised operators tensors stay quantised, maps with their channels last; whatever has no integer
kernel runs in floating point between a `dequantize` and a `quantize`. Read from optimised graphs of ONNX
Runtime 1.31, held by tests that read them again; stairs from its sources (mlas/lib/convsym.cpp), held by a
test that measures them:

    conv2d, inputs and outputs a multiple of 4         conv2d_int8_direct      outputs padded to blocks of 16
        (without AVX-512 outputs of 8)
    conv2d, less than 16 outputs                       conv2d_int8_narrow0…4   the same, by a matrix product
    conv2d, any other channels                         conv2d_int8_left0…4     the same, by a matrix product
    grouped conv2d                                     conv2d_int8_groups      nothing padded
    depthwise_conv2d, a multiple of 16                 depthwise_conv2d_int8_direct
    depthwise_conv2d, any other count                  depthwise_conv2d_int8_left0…7
    linear                                             linear_int8             outputs padded to panels of 16
    pools, matmul, attention, softmax                  …_int8                  nothing padded
    max_pool2d of what lies in floats                  max_pool2d_int8_plain   in bytes, but channels second
    group_norm, rms_norm                               …_int8, in floating point but for sums and products
    conv_transpose2d, depthwise or not                 …_int8, in floating point inside
    resize2d behind those                              resize2d_int8, bilinear in floating point inside
    add, mul, silu, sigmoid, leaky_relu                elementwise_int8
    any other function of one element behind those     elementwise_int8, in floating point inside
    concatenation, and copies of quantised tensors     copy_int8
    relu and other clips                               nothing: a bound of the kernel before
    mean2d, other norms, everything else               as in fp32

The number at the end is that of the output channels that are left to be done one by one, behind those that
a kernel does four (or, of a depthwise convolution, eight) at a time: a depthwise convolution of 31 channels
takes almost four times as long as one of 32. With AVX2 it is 4 where whole fours make no whole eights. Not
counted are the transposition of a map that is flattened, the floats between a clip and the layer before it
where something else reads that layer, too, and what a max pool right behind a group norm takes longer there.
AVX2's alignment is from the sources alone; other CPUs are taken to have no direct convolution.
"""

from __future__ import annotations

from dataclasses import replace

from hwprofiles.device import Device
from hwprofiles.ops import OpSpec, Size
from hwprofiles.runtimes.protocol import CALL, PLAIN, Lowered
from hwprofiles.runtimes.rules import check_known, fold_batch_norm, up_to, whole_parts

INT8 = "int8"
"""Quantised, and with its channels last where it is a map of a convolution or a pool."""

_BLOCK = 16  # output channels that a convolution or a matrix product does at a time
_OUTPUTS_BY = {16: 4, 8: 8}  # what a direct convolution's outputs are a multiple of, with AVX-512 and AVX2
_INTEGER = {"add", "mul", "silu", "sigmoid", "leaky_relu"}
_CLIPS = {"relu", "relu6", "hardtanh", "clamp"}


class OnnxInt8Lowering:
    """`Lowering` of ONNX Runtime's CPU provider in int8.

    Args:
        block: floats in a vector register (16 with AVX-512, 8 with AVX2); 1 on other CPUs, of which no direct
            convolutions are known.
    """

    layouts = (PLAIN, INT8)
    period = _BLOCK
    points = 2  # four make no prediction better; docs/latency.md

    def __init__(self, block: int) -> None:
        self.block = block

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        check_known(spec, "onnxruntime")
        spec = whole_parts(fold_batch_norm(spec))
        match spec.kind:
            case "conv2d" | "depthwise_conv2d":
                return _integer(spec, self._convolution(spec))
            case "linear":
                padded = spec.with_channels(spec.in_channels, up_to(spec.out_channels, _BLOCK))
                return _integer(spec, _kernel(padded))
            case "matmul" | "attention" | "softmax" | "group_norm" | "rms_norm":
                return _integer(spec, _kernel(spec))
            case "conv_transpose2d" | "depthwise_conv_transpose2d":
                return _integer(spec, _kernel(spec))
            case "max_pool2d" | "avg_pool2d" if layout == INT8:
                return _integer(spec, _kernel(spec))
            case "max_pool2d":
                return Lowered((_kernel(spec, "_plain"),), PLAIN, PLAIN, INT8)
            case "resize2d" if layout == INT8:
                return Lowered((replace(spec, kind="resize2d_int8"),), INT8, INT8, INT8)
            case "copy" if layout == INT8 or spec.fused == ("cat",):
                return Lowered((replace(spec, kind="copy_int8"),), INT8, INT8, INT8)
            case "elementwise" if layout == INT8 or _INTEGER.issuperset(spec.fused):
                return Lowered(_behind(spec) or (CALL,), INT8, INT8, INT8)
            case "batch_norm" | "instance_norm":  # a clip behind it is a bound of the quantising that follows
                spec = replace(spec, fused=tuple(name for name in spec.fused if name not in _CLIPS))
        return Lowered((spec,))

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        kind = "dequantize" if layout == PLAIN else "quantize"
        return OpSpec(kind=kind, in_channels=channels, out_channels=channels, in_size=size, out_size=size)

    def _convolution(self, spec: OpSpec) -> OpSpec:
        inputs, outputs = spec.in_channels, spec.out_channels
        known = self.block in _OUTPUTS_BY
        if spec.kind == "depthwise_conv2d":
            return _kernel(spec, "_direct" if known and outputs % _BLOCK == 0 else f"_left{outputs % 8}")
        if spec.groups > 1:
            return _kernel(spec, "_groups")
        aligned = _OUTPUTS_BY.get(self.block, 4)
        left = outputs % 4 or outputs % aligned
        padded = spec.with_channels(inputs, up_to(outputs, _BLOCK))
        if outputs < _BLOCK:
            return _kernel(padded, f"_narrow{left}")
        direct = known and inputs % 4 == 0 and outputs % aligned == 0
        return _kernel(padded, "_direct" if direct else f"_left{left}")


def lowering_of(device: Device) -> OnnxInt8Lowering:
    return OnnxInt8Lowering(device.channel_step)


def _kernel(spec: OpSpec, how: str = "") -> OpSpec:
    return replace(spec, kind=f"{spec.kind}_int8{how}", fused=())


def _integer(spec: OpSpec, kernel: OpSpec) -> Lowered:
    """An integer kernel, what follows it in the operator, and all tensors quantised."""
    return Lowered((kernel, *_behind(spec)), INT8, INT8, INT8)


def _behind(spec: OpSpec) -> tuple[OpSpec, ...]:
    """What is done to each element of an operator's quantised result, one kernel for each function."""
    return tuple(
        OpSpec(
            kind="elementwise_int8",
            in_channels=spec.out_channels,
            out_channels=spec.out_channels,
            in_size=spec.result_size,
            out_size=spec.result_size,
            fused=(name,),
        )
        for name in spec.fused
        if name not in _CLIPS
    )
