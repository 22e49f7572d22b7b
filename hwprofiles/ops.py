"""OpSpec: a layer as hardware sees it, the key that models and profiles share. OpGraph: a network of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

Size = tuple[int, ...]

INPUT = -1
"""Where an operator reads the network's own input; see `OpGraph.sources`."""
ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "tanh", "leaky_relu",
    "elu", "mish", "clamp",
}  # fmt: skip
"""As a model's graph calls them."""
PRODUCTS = ("attention", "matmul")
"""Operators that multiply two values; their channels in are not those out of what they read."""
MAX_SIZE = 2**30
"""Of channels, and of positions along an axis."""
_MIXING = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
_CONVOLVING = (*_MIXING, *(f"depthwise_{kind}" for kind in _MIXING))
_CONTRACTIONS = {*_CONVOLVING, "linear"}
_RESIZING = ("conv_transpose", "depthwise_conv_transpose", "resize2d", "matmul")
_SIZES = ("in_size", "out_size", "kernel", "stride", "padding", "dilation")
_WINDOW = {"in_size": 2, "out_size": 2, "kernel": 2, "stride": 2, "padding": 4}
_AXES = {
    **{kind: {**_WINDOW, "dilation": 2} for kind in _CONVOLVING if "2d" in kind},
    **{
        kind: {**{size: count // 2 for size, count in _WINDOW.items()}, "dilation": 1}
        for kind in _CONVOLVING
        if "1d" in kind
    },
    "resize2d": {"in_size": 2, "out_size": 2},
    "max_pool2d": _WINDOW,
    "avg_pool2d": _WINDOW,
    "mean2d": _WINDOW,
    "linear": {"in_size": 1},
    "attention": {"in_size": 2},
    "group_norm": {"kernel": 1},
}
"""How many numbers each size of an operator has, by kind; other kinds have as many axes as their tensors."""
_MAX_AXES = 8


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class OpSpec:
    """One operator of one network, without its weights and without its batch (that belongs to the device).

    Only `in_channels` and `out_channels` differ between candidates of one model; everything else is the
    operator's `family`. The kinds and what the fields mean for them:

    - `conv2d`, `depthwise_conv2d` (in = out channels; `groups` is 0 because it follows the channels):
      `in_size` (height, width) before padding; `padding` (top, left, bottom, right).
    - `conv_transpose2d`: `padding` is what its result lacks around; what `out_size` has beyond that, at its
      bottom and right, is `output_padding`; and `depthwise_conv_transpose2d`.
    - `conv1d` and its like: the same over one axis; no runtime has a rule for them yet.
    - `linear`: `in_size` = (rows,), how many vectors one sample multiplies.
    - `attention`: scaled dot product; input channels = what a query and a value of a head are wide together,
      output channels = heads, `in_size` = (queries, keys).
    - `matmul`: output channels = how many matrices, such as heads; input channels = the inner length, where
      `in_size` is (rows,) and `out_size` (rows, columns), or the columns, where they are (rows, inner) and
      (rows,).
    - `resize2d`: `fused` = ("nearest",) or ("bilinear",).
    - `layer_norm`, `rms_norm`, `cumsum`: over the channels; where over something else, `kernel` = (how many
      numbers,).
    - `group_norm`: `kernel` = (channels of one part,).
    - `max_pool2d`, `avg_pool2d`, `mean2d` (mean or sum over all of `in_size`), `softmax`, `instance_norm`,
      `batch_norm` (one that no convolution absorbs), `elementwise` and `copy` (data movement); `fused` of the
      last two names what they do, such as ("add",) or ("pad",).

    `fused` is the epilogue in the model's own order, such as ("batch_norm", "add", "relu"): what follows the
    operator, is used nowhere else, and a backend may run in the same kernel.
    """

    kind: str
    in_channels: int
    out_channels: int
    in_size: Size = ()
    out_size: Size = ()
    kernel: Size = ()
    stride: Size = ()
    padding: Size = ()
    dilation: Size = ()
    groups: int = 1
    fused: tuple[str, ...] = ()

    @property
    def family(self) -> Self:
        """This operator with its channel counts blanked: what pruning cannot change."""
        return replace(self, in_channels=0, out_channels=0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample; what only moves or adds numbers has none."""
        positions, taps = math.prod(self.out_size), math.prod(self.kernel)
        match self.kind:
            case kind if kind in _CONVOLVING:
                if "transpose" in kind:  # each input position is multiplied with every tap
                    positions = math.prod(self.in_size)
                return (
                    positions
                    * taps
                    * self.in_channels
                    * self.out_channels
                    // (self.groups or self.in_channels)
                )
            case "linear":
                return math.prod(self.in_size) * self.in_channels * self.out_channels
            case "attention":
                return math.prod(self.in_size) * self.in_channels * self.out_channels
            case "matmul":
                return math.prod(self.lengths) * self.out_channels
        return 0

    @property
    def square(self) -> bool:
        """Whether it has as many output as input channels in every candidate."""
        return self.kind not in (*_MIXING, "linear", *PRODUCTS)

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Of a `matmul`: rows, inner length and columns."""
        if len(self.in_size) == 1:
            return self.out_size[0], self.in_channels, self.out_size[1]
        return self.in_size[0], self.in_size[1], self.in_channels

    @property
    def head_widths(self) -> tuple[int, int]:
        """Of an `attention`: the widths of a query and of a value, taken to be alike."""
        return -(-self.in_channels // 2), max(1, self.in_channels // 2)

    @property
    def result_size(self) -> Size:
        """Of what it writes, without the channels."""
        if self.kind.startswith("attention"):
            return self.in_size[0], self.head_widths[1]
        if self.kind.startswith("matmul"):
            return self.lengths[::2]
        return self.out_size or self.in_size

    @property
    def weights(self) -> int:
        """How many weights it, or a kernel of it, reads; biases and norms do not count."""
        if "conv" in self.kind:
            return (
                math.prod(self.kernel)
                * self.in_channels
                * self.out_channels
                // (self.groups or self.in_channels)
            )
        return self.in_channels * self.out_channels if self.kind.startswith("linear") else 0

    def check(self) -> None:
        """
        Raises:
            ValueError: no network has such an operator; says what of it cannot be.
        """
        axes = _AXES.get(self.kind, {})
        for name in _SIZES:
            size, lowest = getattr(self, name), 0 if name == "padding" else 1
            if len(size) != axes.get(name, len(size)) or len(size) > _MAX_AXES:
                wanted = axes.get(name, f"at most {_MAX_AXES}")
                raise ValueError(f"{name} of a {self.kind[:40]!r} has {len(size)} numbers; wanted {wanted}")
            if not all(lowest <= number <= MAX_SIZE for number in size):
                raise ValueError(f"{name} has a number below {lowest}, or one above {MAX_SIZE}")
        # Profiles from before products had two channel counts hold two numbers in both sizes of a matmul.
        lengths = sorted((len(self.in_size), len(self.out_size)))
        if self.kind == "matmul" and lengths not in ([1, 2], [2, 2]):
            raise ValueError("a matmul has one number in in_size and two in out_size, or the reverse")
        channels = self.in_channels, self.out_channels
        if not 1 <= min(channels) <= max(channels) <= MAX_SIZE:
            raise ValueError(f"it has less than 1 channel, or more than {MAX_SIZE}")
        lowest = 1 if self.kind in _MIXING else 0
        if self.groups < lowest or any(self.groups and count % self.groups for count in channels):
            raise ValueError("its channels cannot be divided into its groups")

    def with_channels(self, in_channels: int, out_channels: int) -> Self:
        return replace(self, in_channels=in_channels, out_channels=out_channels)

    def __str__(self) -> str:
        """Such as "conv2d 3x3/2 64->128 groups 4 @56x56+relu"; steps and groups of 1 are left out."""
        parts = [
            self.kind,
            "x".join(map(str, self.kernel)) + _unless_one("/", self.stride),
            _unless_one("dilation ", self.dilation),
            f"{self.in_channels}->{self.out_channels}",
            f"groups {self.groups}" if self.groups > 1 else "",
            ("@" if self.in_size else "") + "x".join(map(str, self.in_size)),
            "to " + "x".join(map(str, self.out_size)) if self.kind.startswith(_RESIZING) else "",
        ]
        return " ".join(filter(None, parts)) + "".join(f"+{name}" for name in self.fused)


def _unless_one(label: str, steps: Size) -> str:
    """Steps along each axis, as one number where they are equal, or "" where all are 1."""
    shown = steps[:1] if len(set(steps)) == 1 else steps
    return "" if set(steps) <= {1} else label + "x".join(map(str, shown))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpGraph:
    """A network as hardware sees it: operators in running order, and who reads whose results.

    `sources`: for each operator the positions of those whose results it reads, its own input first and what
    it adds to its own result behind; `INPUT` is the network's input. `outputs`: whose results leave it.
    """

    operators: tuple[OpSpec, ...]
    sources: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: an operator reads one that is not before it, or there are not as many `sources`.
        """
        count = len(self.operators)
        earlier = all(INPUT <= s < position for position, item in enumerate(self.sources) for s in item)
        if not earlier or len(self.sources) != count or not all(INPUT <= o < count for o in self.outputs):
            raise ValueError("its operators do not read one another in order")

    def joined(self, position: int) -> tuple[int, ...]:
        """The sources that an operator takes as they lie: what a layer adds, all that any other reads."""
        first = 1 if self.operators[position].kind in _CONTRACTIONS else 0
        return self.sources[position][first:]

    def own(self, position: int) -> tuple[int, ...]:
        """The source, if any, that a layer multiplies with its weights."""
        return self.sources[position][:1] if self.operators[position].kind in _CONTRACTIONS else ()

    @property
    def outline(self) -> Self:
        """This network with its channel counts blanked: equal for all candidates of one model."""
        return replace(self, operators=tuple(spec.family for spec in self.operators))

    def with_channels(self, in_channels: Sequence[int], out_channels: Sequence[int]) -> Self:
        """The same network with other channel counts, one of each per operator."""
        pairs = zip(self.operators, in_channels, out_channels, strict=True)
        return replace(self, operators=tuple(spec.with_channels(*channels) for spec, *channels in pairs))
