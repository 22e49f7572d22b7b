"""Queries and keys that lose places: scores stay as near as any fewer places can bring them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bundles import coupled, export_images, exported
from tests.models import example_input
from tests.trials.repair.conftest import Repair, Tensors, normal, seeded
from trials.bundle import Bundle
from trials.graph import Graph
from trials.groups import Coupling, Kept, analyse
from trials.network import build
from trials.prune import prune
from trials.repair import Calibration, fast, importance, sequential
from trials.repair.calibration import walk
from trials.repair.scores import Side, find_scores, turned
from trials.units import HEADS, WIDTH

transformers = pytest.mark.parametrize("name", ["vit", "vit_mha", "bert"])
HEADS_OF, PLACES, TOKENS = 3, 8, 6
WIDE = HEADS_OF * PLACES


def of_kind(coupling: Coupling, kind: str, count: int) -> Kept:
    """The last `count` units of each group of a kind, so that order shows."""
    return {g.name: np.arange(g.size - count, g.size) for g in coupling.groups if g.kind == kind}


class Attend(nn.Module):
    """Attention over 6 tokens, 3 heads of width 8; `between` may do more to queries than to move them."""

    def __init__(self, between: Callable[[Attend, Tensor], Tensor]) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDE, WIDE) for _ in range(4))
        self.gain = nn.Parameter(torch.rand(PLACES) + 0.5)
        self.head = nn.Linear(WIDE, 3)
        self.between, self.beside = between, torch.zeros(())

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS_OF, PLACES)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.split(made(x)) for made in (self.query, self.key, self.value))
        scores = self.between(self, query) @ key.transpose(-1, -2) / 3
        mixed = scores.softmax(-1) @ value
        result: Tensor = self.head(self.out(mixed.transpose(1, 2).flatten(2)) + self.beside)
        return result


def also_read(model: Attend, query: Tensor) -> Tensor:
    model.beside = query.abs().mean((1, 3))[..., None]
    return query


@cache
def attend(between: Callable[[Attend, Tensor], Tensor] = lambda model, query: query) -> Bundle:
    return seeded(lambda: Attend(between), TOKENS, WIDE)


@torch.no_grad()
def queries_and_keys(graph: Graph, tensors: Tensors, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(heads, inputs x tokens, width) each, as the first product of a network reads them."""
    for node, values in walk(build(graph, tensors).eval(), [(inputs,)]):
        if node.op == "aten.matmul.default":
            query, key = (values[name][0] for name in node.values)
            return query.transpose(0, 1).flatten(1, 2), key.mT.transpose(0, 1).flatten(1, 2)
    raise AssertionError("nothing is multiplied")


@pytest.mark.parametrize("repair", [fast, sequential])
@pytest.mark.parametrize("heads", [HEADS_OF, 2])
@pytest.mark.parametrize("places", [4, 1])
def test_scores_miss_no_more_than_the_smallest_singular_values_of_each_head(
    places: int, heads: int, repair: Repair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Eckart and Young say of all matrices of a rank, over the scores of all tokens with all others."""
    monkeypatch.setattr("trials.repair.scores.RIDGE", 1e-9)
    bundle, inputs = attend(), normal(60, TOKENS, WIDE) @ normal(WIDE, WIDE, seed=1)
    coupling = analyse(bundle.graph)
    kept = {**of_kind(coupling, WIDTH, places), **of_kind(coupling, HEADS, heads)}
    dense, made = (
        torch.matmul(query.double(), key.double().mT)[-heads:]
        for query, key in (
            queries_and_keys(bundle.graph, bundle.tensors, inputs),
            queries_and_keys(*repair(Calibration(coupling, bundle.tensors, [inputs]), kept), inputs),
        )
    )
    missed = (dense - made).square().sum((1, 2))
    smallest = torch.linalg.svdvals(dense)[:, places:PLACES].square().sum(1)
    torch.testing.assert_close(missed, smallest, rtol=1e-3, atol=0.0)


@transformers
def test_turning_alone_changes_nothing_that_a_model_computes(name: str) -> None:
    coupling, tensors = coupled(name), exported(name).tensors
    calibration = Calibration(coupling, tensors, [example_input(name, 64)])
    assert len(calibration.scores) == 2
    changed = turned(coupling, tensors, of_kind(coupling, WIDTH, 3), calibration.turns)
    own = {t for scores in calibration.scores for side in (scores.query, scores.key) for t in side.tensors}
    found = {key for key, tensor in changed.items() if not torch.equal(tensor, tensors[key])}
    assert {key for key in own if key.endswith("weight")} <= found <= own
    x = example_input(name, 8, seed=1)
    with torch.no_grad():
        outputs = [build(coupling.graph, used).eval()(x) for used in (tensors, changed)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)


@transformers
@pytest.mark.parametrize("repair", [fast, sequential])
def test_queries_that_lose_half_their_width_are_missed_far_less_than_when_they_are_cut(
    name: str, repair: Repair
) -> None:
    coupling, tensors = coupled(name), exported(name).tensors
    kept = of_kind(coupling, WIDTH, 4)
    calibration = Calibration(coupling, tensors, [example_input(name, 128)])
    x = example_input(name, 16, seed=1)
    with torch.no_grad():
        dense, cut, repaired = (
            build(*made).eval()(x)
            for made in (
                (coupling.graph, tensors),
                prune(coupling, tensors, kept),
                repair(calibration, kept),
            )
        )
    assert (repaired - dense).square().mean() < 0.3 * (cut - dense).square().mean()


def test_queries_of_whole_heads_that_go_are_not_turned() -> None:
    bundle = attend()
    coupling = analyse(bundle.graph)
    calibration = Calibration(coupling, bundle.tensors, [normal(20, TOKENS, WIDE)])
    changed = turned(coupling, bundle.tensors, of_kind(coupling, HEADS, 1), calibration.turns)
    assert all(torch.equal(changed[name], tensor) for name, tensor in bundle.tensors.items())


@pytest.mark.parametrize(
    "between",
    [
        lambda model, query: query * model.gain,
        lambda model, query: F.rms_norm(query, (PLACES,)),
        lambda model, query: query.relu(),
        lambda model, query: query + torch.cat([-query[..., 4:], query[..., :4]], -1),  # as rotary positions
        also_read,
    ],
    ids=["gain", "norm", "activation", "rotary", "read twice"],
)
def test_queries_are_left_alone_where_turning_them_would_change_the_model(
    between: Callable[[Attend, Tensor], Tensor],
) -> None:
    assert find_scores(analyse(attend().graph))
    assert not find_scores(analyse(attend(between).graph))


def test_a_layer_that_reads_units_is_refitted_and_not_turned() -> None:
    class Behind(nn.Module):
        """Queries and keys that are made of units which may go."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attend = nn.Linear(5, WIDE), Attend(lambda model, query: query)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.attend(self.stem(x))
            return result

    assert not find_scores(analyse(export_images(Behind().eval(), TOKENS, 5).graph))


def test_which_rows_of_a_fused_projection_are_queries_is_known() -> None:
    scores = find_scores(coupled("vit"))
    rows = np.arange(32).reshape(4, 8)
    assert [side.tensors for side in (scores[0].query, scores[0].key)] == [
        ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias")
    ] * 2

    def check(side: Side, first: int) -> None:
        np.testing.assert_array_equal(side.rows, rows + first)

    for each in scores:
        check(each.query, 0)
        check(each.key, 32)


def test_places_that_values_share_with_queries_go_by_the_error_of_what_reads_the_values() -> None:
    """Queries have no say, as none of their places is worth more than another once they are turned."""
    coupling, tensors = coupled("vit"), dict(exported("vit").tensors)
    group = next(g for g in coupling.groups if g.name == "blocks.0.attn.qkv.width")
    columns = torch.arange(32).reshape(4, 8)[:, [1, 6]].flatten()
    tensors["blocks.0.attn.proj.weight"] = tensors["blocks.0.attn.proj.weight"].index_fill(1, columns, 0.0)
    calibration = Calibration(coupling, tensors, [example_input("vit", 64)])
    found = importance(calibration)[group.name]
    assert set(np.argsort(found)[:2]) == {1, 6}
