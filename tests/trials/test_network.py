"""A network keeps the user's names, whatever else goes by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprofiles.runtimes.onnx_cpu import run_onnx
from tests.bundles import export_images
from trials.groups import analyse
from trials.network import Network, build, tensor_at
from trials.onnx_file import write_onnx
from trials.prune import prune


class Scaled(nn.Module):
    """A convolution of one's own, with tensors that a layer of torch has settings or a bias for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.bias = nn.Parameter(torch.randn(8, 1, 1))
        self.stride = nn.Parameter(torch.rand(8, 1, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight) * self.stride + 2 * self.bias


class Hostile(nn.Module):
    """Parameters, buffers and modules that are called as attributes of `Network`, or as nodes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.graph = Scaled()
        self.run = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)])
        self.register_parameter(name, nn.Parameter(torch.rand(8)))
        self.register_buffer(f"{name}s", torch.rand(8))
        self.register_buffer("dropout", torch.rand(8))
        self.drop, self.name = nn.Dropout(0.5), name

    def forward(self, x: Tensor) -> Tensor:
        x = self.graph(x)
        for layer in self.run:
            x = F.relu(layer(x))
        x = x.mean((2, 3)) * self.get_parameter(self.name) + self.get_buffer(f"{self.name}s")
        shifted: Tensor = self.drop(x) + self.get_buffer("dropout")
        return shifted


@pytest.mark.parametrize("name", ["steps", "release", "output", "bind", "x", "relu"])
def test_tensors_and_modules_may_be_called_as_attributes_of_ours(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Hostile(name).eval()
    bundle, x = export_images(model, 3, 12, 12), torch.rand(4, 3, 12, 12)
    network = bundle.network().eval()
    assert dict(network.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert network.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(network(x), model(x))
    network.load_state_dict(dict.fromkeys(network.state_dict(), torch.tensor(0.5)) | model.state_dict())
    network.train()(x).sum().backward()
    assert tensor_at(network, name).grad is not None
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "model.onnx")
    (found,) = run_onnx(tmp_path / "model.onnx", {"x": x.numpy()})
    np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-5)


def test_units_of_a_model_whose_names_are_attributes_of_ours_are_pruned() -> None:
    model = Hostile("steps").eval()
    bundle = export_images(model, 3, 12, 12)
    coupling = analyse(bundle.graph)
    kept = {group.name: np.arange(group.size // 2) for group in coupling.groups}
    assert kept.keys() >= {"graph"}
    network = build(*prune(coupling, bundle.tensors, kept)).eval()
    assert tensor_at(network, "graph.weight").shape[0] == 4
    assert network(torch.rand(2, 3, 12, 12)).shape == (2, 8)


def test_a_layer_with_a_setting_called_as_a_tensor_is_no_module_of_torch_and_others_are() -> None:
    network = export_images(Hostile("steps").eval(), 3, 12, 12).network()
    layers = {step.node.op: step.path for step in network.steps if step.path}
    assert layers == {"aten.conv2d.default": "run.0", "aten.batch_norm.default": "run.1"}
    assert isinstance(network, Network)
