"""What the GPU runtimes share: how they fill up channels, how that is proved, and networks in half precision.

The rule is NVIDIA's: matrix kernels read 16 bytes at a time, so channels are filled up to a multiple of 4
numbers in fp32 and TF32 and of 8 in fp16 ("Deep Learning Performance Documentation", section "Tensor Core
Requirements"; the formats CHW4 and HWC8 of TensorRT's `TensorFormat`). It is an assumption about each board
until `stair_step` finds the same step in its measured stairs. Everything else is timed as it stands, with all
that follows a layer in its model, which the runtime fuses or not as it does in the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from hwprofiles.device import Device
from hwprofiles.errors import InvariantError
from hwprofiles.ops import OpSpec, Size
from hwprofiles.runtimes.protocol import PLAIN, Lowered
from hwprofiles.runtimes.rules import check_known, fold_batch_norm, padded, whole_parts

STEPS = (64, 32, 16, 8, 4, 2)
OWN_STEP = {"fp32": 4, "tf32": 4, "fp16": 8}


class GpuLowering:
    """`Lowering` of every GPU runtime: channels are filled up to a multiple of `step`."""

    layouts: tuple[str, ...] = (PLAIN,)
    period = 1
    points = 4  # as many as tables of kernels have elsewhere; not tried on a device yet

    def __init__(self, runtime: str, step: int) -> None:
        self.runtime = runtime
        self.step = step

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        check_known(spec, self.runtime)
        return Lowered((padded(whole_parts(fold_batch_norm(spec)), self.step),))

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        raise InvariantError(f"{self.runtime} is lowered in one layout and reorders nothing")


def lowering_of(device: Device) -> GpuLowering:
    return GpuLowering(device.runtime, device.channel_step)


def stair_step(ms_by_channels: Mapping[int, float], *, tolerance: float = 0.03) -> int:
    """Return the step of a staircase: the largest whose counts all take the same, and 1 if there is none.

    Args:
        ms_by_channels: milliseconds at every count of a range that is twice 64 or more, other things equal.
        tolerance: how far counts of one stair may be apart, as a share of their mean.

    Raises:
        ValueError: the last count takes no longer than the first, so there are no stairs to look at.
    """
    counts = np.array(sorted(ms_by_channels))
    ms = np.array([ms_by_channels[count] for count in counts])
    if ms[-1] <= ms[0] * (1 + 2 * tolerance):
        raise ValueError(
            f"{counts[-1]} channels take {ms[-1]:.4g} ms and {counts[0]} take {ms[0]:.4g}: without a rise "
            "there are no stairs; measure a larger operator"
        )
    for step in STEPS:
        stairs = np.split(ms, np.flatnonzero(np.diff(-(-counts // step))) + 1)
        if all(np.ptp(stair) <= 2 * tolerance * stair.mean() for stair in stairs):
            return step
    return 1


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with every float32 number as float16, inputs and outputs too.

    TensorRT 11 runs the types that a network is written in and has no flag to choose others, so a network
    that is to be measured in fp16 is written in it.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    # The factors of a resize are single whatever it resizes.
    factors = {node.input[2] for node in graph.node if node.op_type == "Resize" and len(node.input) > 2}
    for tensor in graph.initializer:
        if tensor.name not in factors:
            _halve(tensor)
    for node in graph.node:
        if node.output[0] in factors:
            continue
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            if attribute.HasField("t"):
                _halve(attribute.t)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return half


def _halve(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        largest = np.finfo(np.float16).max
        values = np.clip(numpy_helper.to_array(tensor), -largest, largest).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
