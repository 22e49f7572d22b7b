"""Which heads and places of attention go together, and which stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bundles import coupled, export_images, frozen, shapes, sizes
from trials.groups import analyse
from trials.proof import prove


@pytest.mark.parametrize(
    ("model", "heads", "owned"),
    [
        ("vit", "blocks.0.attn.qkv", {"": 3 * 8, ".width": 3 * 4}),
        ("vit_mha", "blocks.1.attn.mha.in_proj_weight", {"": 3 * 8, ".width": 3 * 4}),
        ("bert", "layers.0.query", {"": 8, ".width": 4}),
        ("bert", "layers.1.value", {".width": 4}),
    ],
)
def test_attention_is_pruned_by_heads_and_by_their_width(
    model: str, heads: str, owned: dict[str, int]
) -> None:
    """One projection, which a view makes into queries, keys and values, gives all of them one width."""
    found = shapes(coupled(model))
    kinds = {"": ("heads", 4), ".width": ("head width", 8)}
    wanted = {heads + which: (*kinds[which], width) for which, width in owned.items()}
    assert {name: shape for name, shape in found.items() if name.startswith(heads)} == wanted


def test_queries_lose_the_places_that_keys_lose_and_values_their_own() -> None:
    members = {
        name: coupled("bert").group(name).members for name in ("layers.0.query.width", "layers.0.value.width")
    }
    assert [{member.removeprefix("layers.0.") for member in found} for found in members.values()] == [
        {"query.weight:0", "query.bias:0", "key.weight:0", "key.bias:0"},
        {"value.weight:0", "value.bias:0", "attention_output.weight:1"},
    ]


class Heads(nn.Module):
    """Queries of 4 heads and keys and values of fewer, all 4 wide, of 6 tokens."""

    def __init__(self, kv_heads: int, mix: Callable[[Heads, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(5, 4 * heads) for heads in (4, kv_heads, kv_heads))
        self.out = nn.Linear(16, 3)
        self.register_buffer("turns", torch.rand(6, 4))
        self.register_buffer("rates", torch.rand(2))
        self.gain = nn.Parameter(torch.rand(4) + 0.5)
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        out: Tensor = self.out(self.mix(self, *parts).transpose(1, 2).flatten(2))
        return out


def attend(m: Heads, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)


def turned(m: Heads, x: Tensor) -> Tensor:
    return x * m.turns.cos() + torch.cat([-x[..., 2:], x[..., :2]], -1) * m.turns.sin()


def normed(m: Heads, x: Tensor) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * m.gain


def computed_turns(m: Heads, x: Tensor) -> Tensor:
    """Rotary positions from one stored rate for each pair of places, as Llama computes them."""
    rates = m.rates[None, :, None].expand(x.shape[0], -1, 1)
    turns = (rates @ torch.arange(6).to(x.dtype)[None, None, :]).transpose(1, 2)
    turns = torch.cat([turns, turns], -1)[:, None]
    return x * turns.cos() + torch.cat([-x[..., 2:], x[..., :2]], -1) * turns.sin()


Mix = Callable[[Heads, Tensor, Tensor, Tensor], Tensor]
mixes = pytest.mark.parametrize(
    ("mix", "places"),
    [
        (attend, 4),
        (lambda m, q, k, v: attend(m, q, *(x.repeat_interleave(2, 1) for x in (k, v))), 4),
        (
            lambda m, q, k, v: attend(
                m, q, *(x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], 4, 6, 4) for x in (k, v))
            ),
            4,
        ),
        (lambda m, q, k, v: attend(m, turned(m, q), turned(m, k), v), 2),
        (lambda m, q, k, v: attend(m, computed_turns(m, q), computed_turns(m, k), v), 2),
        (lambda m, q, k, v: attend(m, normed(m, q), F.rms_norm(k, (4,), m.gain), v), 0),
    ],
    ids=["in the op", "repeated", "expanded", "rotary", "computed rotary", "normed queries and keys"],
)


@mixes
def test_a_head_of_keys_goes_with_all_queries_that_it_serves(mix: Mix, places: int) -> None:
    coupling = analyse(export_images(Heads(2, mix), 6, 5).graph)
    assert shapes(coupling)["query"] == ("heads", 2, 8)


@mixes
def test_places_of_a_width_go_in_the_pairs_that_positions_turn(mix: Mix, places: int) -> None:
    """Values have four places, and so have queries and keys; the norm of those keeps all of them."""
    bundle = export_images(Heads(2, mix), 6, 5)
    coupling = analyse(bundle.graph)
    widths = {name: found for name, found in shapes(coupling).items() if "width" in name}
    queries = {"query.width": ("head width", places, 16 // places)} if places else {}
    assert widths == {**queries, "value.width": ("head width", 4, 2)}
    assert prove(coupling, bundle.tensors).frozen == coupling.frozen


def test_places_that_a_norm_takes_its_statistics_over_stay_by_name() -> None:
    def mix(m: Heads, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(m, normed(m, query), F.rms_norm(key, (4,), m.gain), value)

    reasons = frozen(analyse(export_images(Heads(2, mix), 6, 5).graph))
    assert "mean over them" in reasons["query.width"]
    assert "query" not in reasons


def test_queries_that_share_one_head_of_keys_go_one_by_one() -> None:
    coupling = analyse(export_images(Heads(1, attend), 6, 5).graph)
    assert shapes(coupling)["query"] == ("heads", 4, 4)
    assert "share them" in frozen(coupling)["key"]
    assert [sizes(coupling)[f"{layer}.width"] for layer in ("query", "value")] == [4, 4]
