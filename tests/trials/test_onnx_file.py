"""An ONNX file computes what its network computes, at any batch. Pruned ones: tests/search/test_export.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from hwprofiles.errors import RequestError
from hwprofiles.runtimes.onnx_cpu import run_onnx
from tests.bundles import export_images, exported
from tests.models import MODELS
from trials import onnx_file
from trials.bundle import Bundle
from trials.export import export_model
from trials.graph import Graph, Input
from trials.network import build
from trials.onnx_file import fold_batch_norms, write_onnx
from trials.proof import example_inputs, outputs


@torch.no_grad()
def assert_same_outputs(path: Path, graph: Graph, tensors: Mapping[str, Tensor], batch: int) -> None:
    inputs = example_inputs(graph, batch, seed=batch)
    found = run_onnx(path, {item.name: x.numpy() for item, x in zip(graph.inputs, inputs, strict=True)})
    wanted = outputs(build(graph, tensors).eval()(*inputs))
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other.numpy()).max() <= 1e-5 * float(other.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_every_example_model_computes_the_same_at_any_batch(name: str, tmp_path: Path) -> None:
    graph, tensors = exported(name).graph, exported(name).tensors
    write_onnx(graph, tensors, tmp_path / "model.onnx")
    for batch in (1, 3):
        assert_same_outputs(tmp_path / "model.onnx", graph, tensors, batch)


def test_inputs_keep_their_names_and_outputs_their_order(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(4, 6), nn.Linear(5, 6)

        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.one(left) - self.other(right)
            return hidden, hidden.sum(1)

    bundle = export_model(Pair(), [Input(name="left", shape=(4,)), Input(name="right", shape=(5,))])
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "pair.onnx")
    assert_same_outputs(tmp_path / "pair.onnx", bundle.graph, bundle.tensors, batch=4)


def test_ops_are_decomposed_only_where_the_exporter_cannot_write_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decompose(*arguments: object) -> None:
        raise RuntimeError("decomposed")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", decompose)
    for name in ("mobilenet_v2", "vit"):
        write_onnx(exported(name).graph, exported(name).tensors, tmp_path / "model.onnx")
    with pytest.raises(RequestError, match=r"cannot be written as ONNX: decomposed$"):
        write_onnx(exported("densenet").graph, exported("densenet").tensors, tmp_path / "model.onnx")


def test_a_map_resized_to_a_whole_multiple_of_its_size_is_resized_by_that_and_any_other_to_its_size(
    tmp_path: Path,
) -> None:
    class Resized(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            twice = functional.interpolate(x, (8, 12), mode="bilinear")
            return twice, functional.interpolate(twice, (24, 12)), functional.interpolate(x, (6, 5))

    bundle = export_model(Resized(), [Input(name="x", shape=(2, 4, 4))])
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "resized.onnx")
    assert_same_outputs(tmp_path / "resized.onnx", bundle.graph, bundle.tensors, batch=3)
    model = onnx.load(tmp_path / "resized.onnx")
    known = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    factors = [known.get(node.input[2]) for node in model.graph.node if node.op_type == "Resize"]
    assert factors == [[1, 1, 2, 3], [1, 1, 3, 1], None]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx_file._registry.cache_clear()
    bundle = export_images(nn.Conv2d(1, 2, 1), 1, 2, 2)
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_write_that_is_cut_short_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(program: torch.onnx.ONNXProgram, destination: Path) -> None:
        destination.write_bytes(b"half a model")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", half)
    (tmp_path / "model.onnx").write_bytes(b"an older model")
    bundle = export_images(nn.Conv2d(1, 2, 1), 1, 2, 2)
    with pytest.raises(KeyboardInterrupt):
        write_onnx(bundle.graph, bundle.tensors, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"an older model"


def test_a_network_that_onnx_cannot_express_is_refused_with_the_reason(tmp_path: Path) -> None:
    bundle = export_images(nn.Conv2d(1, 2, 1), 1, 2, 2)
    wrong = {**bundle.tensors, "weight": torch.zeros(2, 3, 1, 1)}
    with pytest.raises(RequestError, match=r"cannot be written as ONNX: .*channels"):
        write_onnx(bundle.graph, wrong, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class TestFoldingBatchNorms:
    def norms_left(self, bundle: Bundle) -> int:
        """Fold, and check that the network computes the same."""
        graph, tensors = fold_batch_norms(bundle.graph, bundle.tensors)
        inputs = example_inputs(graph, 2, seed=0)
        found, wanted = build(graph, tensors).eval()(*inputs), bundle.network().eval()(*inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert set(graph.tensors) == set(tensors)
        return sum(node.op == "aten.batch_norm.default" for node in graph.nodes)

    @pytest.mark.parametrize(
        ("name", "left"),
        [("resnet_projection", 0), ("mobilenet_v2", 0), ("vgg_flatten", 0), ("densenet", 8), ("vit", 0)],
    )
    def test_every_norm_right_behind_a_convolution_goes(self, name: str, left: int) -> None:
        assert self.norms_left(exported(name)) == left

    def test_a_norm_stays_where_others_read_the_convolution(self) -> None:
        class Shared(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

            def forward(self, x: Tensor) -> Tensor:
                out = self.conv(x)
                return out + self.norm(out)

        assert self.norms_left(export_images(Shared(), 3, 4, 4)) == 1

    def test_norms_stay_where_convolutions_share_weights(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 3, 1)
                self.one, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

            def forward(self, x: Tensor) -> Tensor:
                return self.other(self.conv(self.one(self.conv(x))))

        assert self.norms_left(export_images(Twice(), 3, 4, 4)) == 2

    def test_a_users_own_tensor_is_never_taken_for_the_new_bias(self) -> None:
        class Biased(nn.Conv2d):
            def __init__(self) -> None:
                super().__init__(3, 4, 1)
                self.norm = nn.BatchNorm2d(4)

            def forward(self, x: Tensor) -> Tensor:
                out = self.norm(self._conv_forward(x, self.weight, None))
                return out + self.bias.view(1, 4, 1, 1)

        assert self.norms_left(export_images(Biased(), 3, 4, 4)) == 1
