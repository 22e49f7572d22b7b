"""Every rule against PyTorch itself: one line per op, each a small network around it.

A network is `front`, the line's function, and a linear layer over whatever comes out. Its labels must have
PyTorch's shapes at every node, and its groups must pass the proof: masked and pruned compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.errors import UnsupportedOpError
from tests.bundles import export_images
from tests.trials.test_onnx_file import assert_same_outputs
from trials.bundle import Bundle
from trials.candidate import Candidate
from trials.graph import Batch, Node
from trials.groups import analyse, even_kept
from trials.onnx_file import write_onnx
from trials.oprules import RULES, rule_of
from trials.oprules.__main__ import page
from trials.oprules.movement import Move
from trials.oprules.moves import squeeze
from trials.proof import TOLERANCE, largest_difference, prove
from trials.prune import prune
from trials.tracing import trace

Body = Callable[["Line", Tensor], Tensor]


class Line(nn.Module):
    """front → body → linear; the front makes 8 channels of an image, or 8 features of 6 tokens."""

    def __init__(self, body: Body, *, tokens: bool) -> None:
        super().__init__()
        self.front: nn.Module = nn.Linear(5, 8) if tokens else nn.Conv2d(3, 8, 3, padding=1)
        self.second: nn.Module = nn.Linear(5, 8) if tokens else nn.Conv2d(3, 8, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(8) + 0.5)
        self.per_channel = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.body, self.x = body, torch.zeros(0)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
        self.same = nn.Conv2d(8, 6, 3, padding="same", dilation=2)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, padding=(1, 0), output_padding=1)
        self.depthwise_up = nn.ConvTranspose2d(8, 16, 3, 2, padding=1, output_padding=1, groups=8)
        self.line, self.line_same = (
            nn.Conv1d(8, 6, 3, 2, padding=1),
            nn.Conv1d(8, 8, 3, padding="same", groups=8),
        )
        self.line_up = nn.ConvTranspose1d(8, 6, 3, 2, padding=1, output_padding=1)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2)
        self.grouped_up = nn.ConvTranspose2d(6, 4, 2, groups=2, dilation=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.norm1d = nn.BatchNorm1d(8)
        self.layer_norm = nn.LayerNorm(8)
        self.group_norm = nn.GroupNorm(2, 8)
        self.instance_norm = nn.InstanceNorm2d(8, affine=True)
        self.prelu = nn.PReLU(8)
        self.embedding = nn.Embedding(4, 8)
        self.tail = nn.LazyLinear(3)
        with torch.no_grad():
            self.eval()(torch.zeros((2, *(TOKENS if tokens else IMAGE))))

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        out: Tensor = self.tail(self.body(self, self.front(x)).flatten(1))
        return out


IMAGE, TOKENS = (3, 8, 8), (6, 5)


def pointwise(name: str) -> Body:
    return lambda m, x: getattr(torch.ops.aten, name).default(x)


def heads(x: Tensor) -> Tensor:
    """(batch, tokens, 8) → (batch, 2 heads, tokens, 4)."""
    return x.unflatten(-1, (2, 4)).transpose(1, 2)


def positive(x: Tensor) -> Tensor:
    return F.relu(x) + 0.1


IMAGES: dict[str, Body] = {
    **{
        f"aten.{name}.default": pointwise(name)
        for name in (
            "relu relu6 hardtanh hardswish hardsigmoid silu gelu sigmoid tanh leaky_relu elu softplus mish "
            "exp neg abs sin cos"
        ).split()
    },
    "aten.log.default": lambda m, x: positive(x).log(),
    "aten.sqrt.default": lambda m, x: positive(x).sqrt(),
    "aten.rsqrt.default": lambda m, x: positive(x).rsqrt(),
    "aten.clamp.default": lambda m, x: x.clamp(-0.5, 0.5),
    "aten.pow.Tensor_Scalar": lambda m, x: x**2,
    "aten.add.Tensor": lambda m, x: x + m.second(m.x),
    "aten.sub.Tensor": lambda m, x: x - m.second(m.x),
    "aten.mul.Tensor": lambda m, x: x * m.per_channel * m.second(m.x).mean((2, 3), keepdim=True),
    "aten.div.Tensor": lambda m, x: x / positive(m.second(m.x)),
    "aten.add.Scalar": lambda m, x: torch.ops.aten.add.Scalar(x, 1.0),
    "aten.sub.Scalar": lambda m, x: torch.ops.aten.sub.Scalar(x, 1.0),
    "aten.mul.Scalar": lambda m, x: torch.ops.aten.mul.Scalar(x, 2.0),
    "aten.div.Scalar": lambda m, x: torch.ops.aten.div.Scalar(x, 2.0),
    "aten.rsub.Scalar": lambda m, x: torch.ops.aten.rsub.Scalar(x, 1.0),
    "aten.maximum.default": lambda m, x: torch.maximum(x, m.second(m.x)),
    "aten.minimum.default": lambda m, x: torch.minimum(x, m.second(m.x)),
    "aten.eq.Scalar": lambda m, x: x * (F.relu(x) == 0),
    "aten.ne.Scalar": lambda m, x: x * (F.relu(x) != 0),
    "aten.gt.Scalar": lambda m, x: x * (x > 0),
    "aten.lt.Scalar": lambda m, x: x * (x < 0),
    "aten.ge.Scalar": lambda m, x: x * (F.relu(x) >= 0.5),
    "aten.eq.Tensor": lambda m, x: x * (F.relu(x) == F.relu(m.second(m.x))),
    "aten.le.Tensor": lambda m, x: x * (x <= m.second(m.x)),
    "aten.bitwise_and.Tensor": lambda m, x: x * ((x > -1) & (x < 1)),
    "aten.pow.Scalar": lambda m, x: 2**x,
    "aten.div.Tensor_mode": lambda m, x: x * torch.div(x, 0.3, rounding_mode="floor"),
    "aten.index.Tensor": lambda m, x: x[:, :, torch.tensor([0, 2]), torch.tensor([[1], [3]])],
    "aten.cumsum.default": lambda m, x: x.cumsum(2),
    "aten.ones.default": lambda m, x: x + torch.ones(x.shape[0], 1, 8, 8),
    "aten.new_ones.default": lambda m, x: x + x.new_ones(x.shape[0], 1, 1, 8),
    "aten.masked_fill.Scalar": lambda m, x: x.masked_fill(x > 0.5, 0.5),
    "aten.where.self": lambda m, x: torch.where(x > 0, x, m.second(m.x)),
    "aten.where.ScalarOther": lambda m, x: torch.where(x > 0, x, 0.5),
    "aten.bitwise_not.default": lambda m, x: x * torch.ops.aten.bitwise_not.default(x > 0),
    "aten.logical_not.default": lambda m, x: x * torch.logical_not(x > 0),
    "aten.dropout.default": lambda m, x: F.dropout(x, 0.5, m.training),
    "aten.feature_dropout.default": lambda m, x: F.dropout2d(x, 0.5, m.training),
    "aten.clone.default": lambda m, x: x.clone() + 1,
    "aten.contiguous.default": lambda m, x: x.transpose(2, 3).contiguous(),
    "aten.to.dtype": lambda m, x: torch.ops.aten.to.device(x.to(torch.float64), "cpu", torch.float32),
    "aten.alias.default": lambda m, x: torch.ops.aten.alias.default(x) + 1,
    "aten.zeros_like.default": lambda m, x: x + torch.zeros_like(x),
    "aten.ones_like.default": lambda m, x: x + torch.ones_like(x),
    "aten.full_like.default": lambda m, x: x + torch.full_like(x, 2.0),
    "aten.conv2d.default": lambda m, x: m.depthwise(x),
    "aten.conv2d.default in groups": lambda m, x: m.grouped(x),
    "aten.conv2d.padding": lambda m, x: m.same(x),
    "aten.conv1d.default": lambda m, x: m.line(x.flatten(2)),
    "aten.conv1d.padding": lambda m, x: m.norm1d(m.line_same(x.flatten(2))),
    "aten.conv_transpose1d.default": lambda m, x: m.line_up(x.flatten(2)),
    "aten.conv_transpose2d.input by depth": lambda m, x: m.depthwise_up(x),
    "aten.conv_transpose2d.input": lambda m, x: m.grouped_up(m.up(x)),
    "aten.upsample_nearest2d.vec": lambda m, x: F.interpolate(x, scale_factor=(1.5, 2)),
    "aten.upsample_bilinear2d.vec": lambda m, x: F.interpolate(x, (12, 16), mode="bilinear"),
    "aten.batch_norm.default": lambda m, x: m.norm(x),
    "aten.group_norm.default": lambda m, x: m.group_norm(x),
    "aten.instance_norm.default": lambda m, x: m.instance_norm(x),
    "aten.prelu.default": lambda m, x: m.prelu(x),
    "aten.glu.default": lambda m, x: F.glu(x, 1),
    "aten.pixel_shuffle.default": lambda m, x: F.pixel_shuffle(x, 2),
    "aten.pixel_unshuffle.default": lambda m, x: F.pixel_unshuffle(x, 2),
    "aten.channel_shuffle.default": lambda m, x: torch.channel_shuffle(x, 4),
    "aten.mean.dim": lambda m, x: x.mean((2, 3)),
    "aten.sum.dim_IntList": lambda m, x: x.sum((-1,), keepdim=True),
    "aten.linalg_vector_norm.default": lambda m, x: F.normalize(x.flatten(2), dim=2),
    "aten.expand_as.default": lambda m, x: m.second(m.x).mean(1, keepdim=True).expand_as(x) * x,
    "aten.clamp_min.default": lambda m, x: x.clamp_min(-0.5),
    "aten.max_pool2d.default": lambda m, x: F.max_pool2d(x, 3, 2, padding=1, dilation=1, ceil_mode=True),
    "aten.avg_pool2d.default": lambda m, x: F.avg_pool2d(x, (3, 2), padding=(1, 0)),
    "aten.max_pool1d.default": lambda m, x: F.max_pool1d(x.flatten(2), 5, 3, padding=2, ceil_mode=True),
    "aten.avg_pool1d.default": lambda m, x: F.avg_pool1d(x.flatten(2), 3, padding=1),
    "aten.adaptive_avg_pool1d.default": lambda m, x: F.adaptive_avg_pool1d(x.flatten(2), 5),
    "aten.adaptive_avg_pool2d.default": lambda m, x: F.adaptive_avg_pool2d(x, (3, None)),
    "aten.adaptive_max_pool2d.default": lambda m, x: F.adaptive_max_pool2d(x, 3),
    "aten.view.default": lambda m, x: x.view(x.shape[0], 2, 4, 64).relu(),
    "aten.reshape.default": lambda m, x: x.reshape(x.shape[0], -1, 64),
    "aten.flatten.using_ints": lambda m, x: x.flatten(2),
    "aten.unflatten.int": lambda m, x: x.unflatten(1, (4, 2)),
    "aten.permute.default": lambda m, x: x.permute(0, 2, 3, 1),
    "aten.transpose.int": lambda m, x: x.transpose(1, -1),
    "aten.squeeze.dim": lambda m, x: x.mean(2, keepdim=True).squeeze(2).squeeze(1).transpose(1, 2),
    "aten.squeeze.dims": lambda m, x: x.mean((2, 3), keepdim=True).squeeze((-1, 2, 1)),
    "aten.unsqueeze.default": lambda m, x: x.unsqueeze(-1),
    "aten.expand.default": lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, 8, 4, 4),
    "aten.repeat.default": lambda m, x: x.repeat(1, 2, 1, 3),
    "aten.repeat_interleave.self_int": lambda m, x: x.repeat_interleave(2, 1),
    "aten.roll.default": lambda m, x: x.roll((1, -2), (2, 3)),
    "aten.diff.default": lambda m, x: x.diff(2, 2, prepend=m.second(m.x), append=x[:, :, :1]),
    "aten.cat.default": lambda m, x: torch.cat([x, m.second(m.x), x], 1),
    "aten.stack.default": lambda m, x: torch.stack([x, m.second(m.x)], -1),
    "aten.slice.Tensor": lambda m, x: x[:, 2:6, ::2, 1:],
    "aten.select.int": lambda m, x: x[:, :, 3],
    "aten.unbind.int": lambda m, x: x.unbind(2)[0] + x.unbind(2)[1],
    "aten.chunk.default": lambda m, x: x.chunk(3, 1)[0] * 2,
    "aten.split.Tensor": lambda m, x: x.split(3, 1)[2] * 2,
    "aten.split_with_sizes.default": lambda m, x: x.split([1, 5, 2], 1)[1] * 2,
    "getitem": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "aten.pad.default": lambda m, x: F.pad(x, (1, 0, 2, 1, 2, 1)),
    "aten.arange.default": lambda m, x: x * torch.arange(8),
    "aten.arange.start": lambda m, x: x * torch.arange(1, 9),
}

SEQUENCES: dict[str, Body] = {
    "aten.linear.default": lambda m, x: m.second(m.x) * m.gain,
    "aten.embedding.default": lambda m, x: x + m.embedding(torch.zeros_like(m.x[:, :, 0]).to(torch.int64)),
    "aten.matmul.default": lambda m, x: heads(x) @ heads(m.second(m.x)).transpose(-1, -2),
    "aten.bmm.default": lambda m, x: torch.bmm(x, m.second(m.x).transpose(1, 2)),
    "aten.einsum.default": lambda m, x: torch.einsum("bqhd,bhkd->bhqk", heads(x).transpose(1, 2), heads(x)),
    "aten.scaled_dot_product_attention.default": lambda m, x: F.scaled_dot_product_attention(
        heads(x), heads(m.second(m.x)), heads(x + 1)
    ).transpose(1, 2),
    "aten.layer_norm.default": lambda m, x: m.layer_norm(x),
    "aten.rms_norm.default": lambda m, x: F.rms_norm(heads(x), (4,)),
    "aten.softmax.int": lambda m, x: x.softmax(1),
}

LINES = [(op, body, False) for op, body in IMAGES.items()] + [
    (op, body, True) for op, body in SEQUENCES.items()
]
every_line = pytest.mark.parametrize(("op", "body", "tokens"), LINES, ids=[line[0] for line in LINES])


@cache
def line(body: Body, tokens: bool) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return export_images(Line(body, tokens=tokens), *(TOKENS if tokens else IMAGE))


def test_the_table_has_a_line_for_every_op() -> None:
    assert {line[0].partition(" ")[0] for line in LINES} == set(RULES)


@every_line
def test_labels_have_the_shapes_that_pytorch_computes(op: str, body: Body, tokens: bool) -> None:
    bundle = line(body, tokens)
    assert op.partition(" ")[0] in {node.op for node in bundle.graph.nodes}
    _, traced, _ = trace(bundle.graph)
    network = bundle.network().eval()
    values = {"x": torch.randn(1, *(TOKENS if tokens else IMAGE))}
    for step in network.steps:
        values[step.name] = step(network, values, 1)
        found, wanted = traced[step.name], values[step.name]
        if isinstance(found, tuple):
            assert [part.shape for part in found] == [tuple(part.shape) for part in wanted]
        else:
            assert found.shape == tuple(wanted.shape)


@every_line
def test_pruned_networks_compute_what_masked_ones_do(op: str, body: Body, tokens: bool) -> None:
    bundle = line(body, tokens)
    coupling = analyse(bundle.graph)
    assert prove(coupling, bundle.tensors).frozen == coupling.frozen


WITHOUT_GROUPS = {"aten.layer_norm.default"}
"""Ops that mix all units of the front; in every other line there is something to prune and to prove."""


@every_line
def test_only_ops_that_mix_all_units_leave_nothing_to_prune(op: str, body: Body, tokens: bool) -> None:
    assert bool(analyse(line(body, tokens).graph).groups) == (op not in WITHOUT_GROUPS)


def pruned(op: str, changed: str, kept: dict[str, list[int]]) -> Node:
    """What becomes of the first node `changed` in the line of an op, with these units of its groups kept."""
    bundle = line(IMAGES[op], False)
    coupling = analyse(bundle.graph)
    graph, _ = prune(coupling, bundle.tensors, {name: np.array(units) for name, units in kept.items()})
    return graph.nodes[[node.op for node in coupling.graph.nodes].index(changed)]


@pytest.mark.parametrize(
    ("op", "kept", "argument", "literal"),
    [
        ("aten.view.default", {"front": [0, 3]}, "size", (Batch(1), 2, 2, 64)),
        ("aten.unflatten.int", {"front": [1, 2, 3]}, "sizes", (3, 2)),
        ("aten.expand.default", {"front": [0, 1, 7]}, "size", (-1, 3, 4, 4)),
        ("aten.reshape.default", {"front": [0, 1, 7]}, "shape", (Batch(1), -1, 64)),
        ("aten.pad.default", {"front": [0, 1, 7]}, "pad", (1, 0, 2, 1, 2, 1)),
        ("aten.repeat.default", {"front": [5]}, "repeats", (1, 2, 1, 3)),
    ],
)
def test_literals_follow_the_units_that_stay(
    op: str, kept: dict[str, list[int]], argument: str, literal: object
) -> None:
    node = pruned(op, op, kept)
    assert (node.op, node[argument]) == (op, literal)


@pytest.mark.parametrize(
    ("op", "ops", "dims"),
    [
        ("aten.squeeze.dim", ["aten.squeeze.dims", "aten.alias.default"], [(2,)]),
        ("aten.squeeze.dims", ["aten.squeeze.dims"], [(2, 3)]),
    ],
)
def test_an_axis_that_is_left_with_one_unit_is_not_squeezed_away(
    op: str, ops: list[str], dims: list[tuple[int, ...]], tmp_path: Path
) -> None:
    bundle = line(IMAGES[op], False)
    coupling = analyse(bundle.graph)
    one = {"front": np.array([3])}
    assert largest_difference(coupling, bundle.tensors, one, seed=0) <= TOLERANCE
    graph, tensors = prune(coupling, bundle.tensors, one)
    squeezes = [node for node in graph.nodes if node.op in ops]
    assert [node.op for node in squeezes] == ops
    assert [node["dim"] for node in squeezes if "dim" in node.args] == dims
    write_onnx(graph, tensors, tmp_path / "one.onnx")


def test_a_rule_that_is_wrong_for_one_unit_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = line(IMAGES["aten.squeeze.dim"], False)
    monkeypatch.setitem(RULES, "aten.squeeze.dim", Move(squeeze))
    assert [group.name for group in analyse(bundle.graph).groups] == ["front"]
    assert not prove(analyse(bundle.graph), bundle.tensors).groups


def test_a_depthwise_convolution_has_as_many_groups_as_units_stay() -> None:
    bundle = line(IMAGES["aten.conv2d.default"], False)
    graph, _ = prune(analyse(bundle.graph), bundle.tensors, {"front": np.array([0, 1, 7])})
    assert [node["groups"] for node in graph.nodes if node.op == "aten.conv2d.default"] == [1, 3]


def test_a_slice_of_units_moves_both_of_its_ends() -> None:
    node = pruned("aten.slice.Tensor", "aten.slice.Tensor", {"front#2": [1, 3]})
    assert (node["start"], node["end"]) == (2, 4)


@pytest.mark.parametrize(
    ("op", "split", "kept", "sizes"),
    [
        ("aten.chunk.default", "aten.chunk.default", {"front": [0, 2]}, (2, 3, 2)),
        ("aten.split.Tensor", "aten.split.Tensor", {"front#3": [1]}, (3, 3, 1)),
        ("aten.split_with_sizes.default", "aten.split_with_sizes.default", {"front#2": [0, 1, 4]}, (1, 3, 2)),
        ("getitem", "aten.chunk.default", {"front": [3], "front#2": [0, 1]}, (1, 2)),
    ],
)
def test_parts_of_a_split_shrink_each_by_itself(
    op: str, split: str, kept: dict[str, list[int]], sizes: tuple[int, ...]
) -> None:
    node = pruned(op, split, kept)
    assert (node.op, node["split_sizes"]) == ("aten.split_with_sizes.default", sizes)


def test_an_op_off_the_list_is_refused_with_what_to_do_and_without_a_guess() -> None:
    with pytest.raises(UnsupportedOpError, match=r"aten\.conv3d\.default.*add a rule there") as refused:
        rule_of("aten.conv3d.default")
    assert "conv2d" not in str(refused.value)


NOT_IN_ONNX = {"aten.adaptive_max_pool2d.default"}
"""Ops that the exporter cannot write."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "body", "tokens"),
    [line for line in LINES if line[0] not in NOT_IN_ONNX],
    ids=[line[0] for line in LINES if line[0] not in NOT_IN_ONNX],
)
def test_pruned_networks_compute_the_same_in_onnx(op: str, body: Body, tokens: bool, tmp_path: Path) -> None:
    bundle = line(body, tokens)
    coupling = analyse(bundle.graph)
    kept = even_kept(coupling, Candidate(tuple(-(-group.size // 2) for group in coupling.groups)))
    graph, tensors = prune(coupling, bundle.tensors, kept)
    write_onnx(graph, tensors, tmp_path / "half.onnx")
    for batch in (1, 3):
        assert_same_outputs(tmp_path / "half.onnx", graph, tensors, batch)


def test_the_page_of_ops_is_up_to_date() -> None:
    assert (Path(__file__).parents[2] / "docs/ops.md").read_text() == page()
