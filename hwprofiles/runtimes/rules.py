"""Rules of lowering that several runtimes share; each says in its own file which of them it follows."""

from __future__ import annotations

from dataclasses import replace

from hwprofiles.errors import UnsupportedOpError, nearest
from hwprofiles.ops import OpSpec, Size

KINDS = (
    "conv2d",
    "depthwise_conv2d",
    "conv_transpose2d",
    "depthwise_conv_transpose2d",
    "resize2d",
    "max_pool2d",
    "avg_pool2d",
    "mean2d",
    "linear",
    "matmul",
    "attention",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "instance_norm",
    "cumsum",
    "softmax",
    "batch_norm",
    "elementwise",
    "copy",
    "call",
)
_LAYERS = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear")


def check_known(spec: OpSpec, runtime: str) -> None:
    """
    Raises:
        UnsupportedOpError: the operator is of no kind that there is a rule for.
    """
    if spec.kind not in KINDS:
        raise UnsupportedOpError(f"{runtime} has no rule for {spec}; {nearest(spec.kind, KINDS)}")


def fold_batch_norm(spec: OpSpec) -> OpSpec:
    """The same without a batch norm right behind it, which disappears into a layer's weights."""
    foldable = spec.kind in _LAYERS and spec.fused[:1] == ("batch_norm",)
    return replace(spec, fused=spec.fused[1:]) if foldable else spec


def whole_parts(spec: OpSpec) -> OpSpec:
    """A group norm of whole parts, as no others exist; any other operator as it is."""
    if spec.kind != "group_norm":
        return spec
    channels = up_to(spec.in_channels, spec.kernel[0])
    return spec.with_channels(channels, channels)


def padded(spec: OpSpec, step: int) -> OpSpec:
    """A layer with its channels filled up to a multiple of `step`; any other operator as it is.

    So is a grouped convolution, whose groups would have to be filled up one by one.
    """
    if spec.kind in _LAYERS and spec.groups <= 1:
        return spec.with_channels(up_to(spec.in_channels, step), up_to(spec.out_channels, step))
    return spec


def whole_factors(spec: OpSpec) -> Size:
    """By how much a resize enlarges along each axis, where those are whole numbers; else ()."""
    sizes = list(zip(spec.in_size, spec.out_size, strict=True))
    return () if any(after % before for before, after in sizes) else tuple(b // a for a, b in sizes)


def up_to(count: int, step: int) -> int:
    """The least multiple of `step` that is not below `count`."""
    return -(-count // step) * step
