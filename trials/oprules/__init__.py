"""One rule per allowed op: how units travel through it, how its literals change, which operator it is.

An op that is not in `RULES` is refused at export and again when a bundle is opened. A rule answers:

- `trace`: the labels (and with them the shape) of the result; which tensor axes belong to which units.
- `rigid` and `resize`: what must stay, and the same node after units are gone: literals such as view sizes,
  pads and slice bounds.
- `operator`: what the hardware runs, as an `OpSpec`; None where it runs nothing (a view).

To add an op: write its rule beside its like, register it in `RULES`, add a line to the table in
tests/trials/test_oprules.py.
"""

from __future__ import annotations

import numpy as np

from hwprofiles.errors import UnsupportedOpError
from trials.oprules import moves as move
from trials.oprules.attention import Attention, Einsum, Matmul, Product
from trials.oprules.contractions import Convolution, Embedding, Linear, TransposedConvolution
from trials.oprules.images import (
    AdaptiveMaxPool,
    AdaptivePool,
    ChannelShuffle,
    PixelShuffle,
    PixelUnshuffle,
    Pool,
    Resize2d,
)
from trials.oprules.movement import Fresh, Index, Item, Move, Pad, Pick, Range, Reshape, Slice, Split, Squeeze
from trials.oprules.norms import BatchNorm, GroupNorm, InstanceNorm, Statistics, Together, normalised
from trials.oprules.pointwise import Elementwise, Filled, Follow, Free, Gated, PRelu, Reduce, VectorNorm
from trials.oprules.rule import Call, Length, Mask, Rule, Sizes, TensorAxis, Traced, moving_axes

__all__ = [
    "RULES", "Attention", "Call", "Length", "Mask", "Product", "Rule", "Sizes", "TensorAxis", "Traced",
    "moving_axes", "rule_of",
]  # fmt: skip

_POINTWISE = (
    "relu.default relu6.default hardtanh.default hardswish.default hardsigmoid.default silu.default "
    "gelu.default sigmoid.default tanh.default leaky_relu.default elu.default softplus.default mish.default "
    "clamp.default clamp_min.default exp.default log.default sqrt.default rsqrt.default neg.default "
    "abs.default sin.default cos.default pow.Tensor_Scalar pow.Scalar add.Tensor add.Scalar sub.Tensor "
    "sub.Scalar rsub.Scalar mul.Tensor mul.Scalar div.Tensor div.Scalar div.Tensor_mode maximum.default "
    "minimum.default eq.Scalar ne.Scalar gt.Scalar lt.Scalar ge.Scalar eq.Tensor le.Tensor "
    "masked_fill.Scalar where.self where.ScalarOther bitwise_not.default bitwise_and.Tensor "
    "logical_not.default"
)
_FREE = "dropout.default feature_dropout.default clone.default contiguous.default to.dtype alias.default"
_FILLED = "zeros_like.default ones_like.default full_like.default"

RULES: dict[str, Rule] = {
    **{f"aten.{name}": Elementwise() for name in _POINTWISE.split()},
    **{f"aten.{name}": Free() for name in _FREE.split()},
    **{f"aten.{name}": Filled() for name in _FILLED.split()},
    "aten.conv1d.default": Convolution(1),
    "aten.conv1d.padding": Convolution(1),
    "aten.conv2d.default": Convolution(2),
    "aten.conv2d.padding": Convolution(2),
    "aten.conv_transpose1d.default": TransposedConvolution(1),
    "aten.conv_transpose2d.input": TransposedConvolution(2),
    "aten.linear.default": Linear(),
    "aten.embedding.default": Embedding(),
    "aten.matmul.default": Matmul("self", "other"),
    "aten.bmm.default": Matmul("self", "mat2"),
    "aten.einsum.default": Einsum(),
    "aten.scaled_dot_product_attention.default": Attention(),
    "aten.batch_norm.default": BatchNorm(),
    "aten.layer_norm.default": Together("layer_norm", "input", normalised),
    "aten.rms_norm.default": Together("rms_norm", "input", normalised),
    "aten.group_norm.default": GroupNorm(),
    "aten.instance_norm.default": InstanceNorm(),
    "aten.softmax.int": Statistics("softmax", "self", lambda node, rank: [node["dim"]]),
    "aten.glu.default": Gated(),
    "aten.prelu.default": PRelu(),
    "aten.mean.dim": Reduce("mean"),
    "aten.sum.dim_IntList": Reduce("sum"),
    "aten.linalg_vector_norm.default": VectorNorm("norm"),
    "aten.expand_as.default": Follow(),
    "aten.max_pool1d.default": Pool("max", 1),
    "aten.avg_pool1d.default": Pool("avg", 1),
    "aten.max_pool2d.default": Pool("max", 2),
    "aten.avg_pool2d.default": Pool("avg", 2),
    "aten.adaptive_avg_pool1d.default": AdaptivePool("avg", 1),
    "aten.adaptive_avg_pool2d.default": AdaptivePool("avg", 2),
    "aten.adaptive_max_pool2d.default": AdaptiveMaxPool("max", 2),
    "aten.upsample_nearest2d.vec": Resize2d("nearest"),
    "aten.upsample_bilinear2d.vec": Resize2d("bilinear"),
    "aten.pixel_shuffle.default": PixelShuffle(),
    "aten.pixel_unshuffle.default": PixelUnshuffle(),
    "aten.channel_shuffle.default": ChannelShuffle(),
    "aten.view.default": Reshape(move.reshape, "size"),
    "aten.reshape.default": Reshape(move.reshape, "shape"),
    "aten.unflatten.int": Reshape(move.unflatten, "sizes"),
    "aten.expand.default": Reshape(move.expand, "size", costs="expand"),
    "aten.flatten.using_ints": Move(move.flatten),
    "aten.permute.default": Move(np.transpose, costs="transpose"),
    "aten.transpose.int": Move(np.swapaxes, costs="transpose"),
    "aten.squeeze.dim": Squeeze(move.squeeze),
    "aten.squeeze.dims": Squeeze(move.squeeze),
    "aten.unsqueeze.default": Move(np.expand_dims),
    "aten.repeat.default": Move(move.repeat, costs="repeat"),
    "aten.repeat_interleave.self_int": Move(move.repeat_interleave, costs="repeat"),
    "aten.cat.default": Move(move.concatenate, costs="cat"),
    "aten.stack.default": Move(move.stack, costs="cat"),
    "aten.slice.Tensor": Slice(move.slice_, costs="slice"),
    "aten.select.int": Pick(move.select, costs="slice"),
    "aten.unbind.int": Pick(move.unbind, costs="slice"),
    "aten.roll.default": Pick(move.roll, costs="roll"),
    "aten.diff.default": Pick(move.diff, costs="diff"),
    "aten.chunk.default": Split(move.chunk, costs="slice"),
    "aten.split.Tensor": Split(move.split, costs="slice"),
    "aten.split_with_sizes.default": Split(move.split, costs="slice"),
    "aten.pad.default": Pad(),
    "aten.index.Tensor": Index(),
    "aten.cumsum.default": Together("cumsum", "self", lambda node, rank: [node["dim"]]),
    "aten.ones.default": Fresh(),
    "aten.new_ones.default": Fresh(),
    "aten.arange.default": Range(),
    "aten.arange.start": Range(),
    "getitem": Item(),
}


def rule_of(op: str) -> Rule:
    """The rule of an op.

    Raises:
        UnsupportedOpError: the op is off the list.
    """
    try:
        return RULES[op]
    except KeyError:
        # No guess: the op with the nearest name computes something else.
        raise UnsupportedOpError(
            f"the model uses the op {op!r}, which prunefront has no rule for; compute the same with ops of "
            "RULES in trials/oprules, or add a rule there, as CONTRIBUTING.md explains under 'An op'"
        ) from None
