from __future__ import annotations

from dataclasses import replace

import pytest

from hwprofiles import OpSpec

CONV = OpSpec(
    kind="conv2d",
    in_channels=64,
    out_channels=128,
    in_size=(56, 28),
    out_size=(56, 28),
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1, 1, 1),
    dilation=(1, 1),
)


# Three heads, 16 wide, of 5 queries and 7 keys: in one operator, and in its two products.
ATTENTION = OpSpec(kind="attention", in_channels=32, out_channels=3, in_size=(5, 7))
SCORES = OpSpec(kind="matmul", in_channels=16, out_channels=3, in_size=(5,), out_size=(5, 7))
MIXING = OpSpec(kind="matmul", in_channels=16, out_channels=3, in_size=(5, 7), out_size=(5,))


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (CONV, "conv2d 3x3 64->128 @56x28"),
        (replace(CONV, stride=(2, 2)), "conv2d 3x3/2 64->128 @56x28"),
        (replace(CONV, stride=(2, 1)), "conv2d 3x3/2x1 64->128 @56x28"),
        (replace(CONV, dilation=(2, 2)), "conv2d 3x3 dilation 2 64->128 @56x28"),
        (replace(CONV, groups=4), "conv2d 3x3 64->128 groups 4 @56x28"),
        (replace(CONV, fused=("batch_norm", "relu")), "conv2d 3x3 64->128 @56x28+batch_norm+relu"),
        (
            OpSpec(kind="resize2d", in_channels=8, out_channels=8, in_size=(4, 4), out_size=(6, 8)),
            "resize2d 8->8 @4x4 to 6x8",
        ),
        (OpSpec(kind="call", in_channels=0, out_channels=0), "call 0->0"),
        (OpSpec(kind="linear", in_channels=8, out_channels=4, in_size=(1,)), "linear 8->4 @1"),
        (ATTENTION, "attention 32->3 @5x7"),
        (SCORES, "matmul 16->3 @5 to 5x7"),
        (MIXING, "matmul 16->3 @5x7 to 5"),
    ],
)
def test_an_operator_prints_what_tells_it_from_others(spec: OpSpec, shown: str) -> None:
    assert str(spec) == shown


def test_attention_multiplies_as_often_as_its_products() -> None:
    once = 3 * 5 * 7 * 16
    assert (SCORES.macs, MIXING.macs, ATTENTION.macs) == (once, once, 2 * once)
    assert (SCORES.lengths, MIXING.lengths) == ((5, 16, 7), (5, 7, 16))


@pytest.mark.parametrize(("spec", "size"), [(SCORES, (5, 7)), (MIXING, (5, 16)), (ATTENTION, (5, 16))])
def test_a_product_writes_a_matrix_of_each_head(spec: OpSpec, size: tuple[int, int]) -> None:
    assert spec.result_size == size
