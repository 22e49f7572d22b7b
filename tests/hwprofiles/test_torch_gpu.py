"""torch on the CPU by the calls that it takes on a GPU, and its rules against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hwprofiles import open_runtime
from hwprofiles.errors import RequestError, UnsupportedOpError
from hwprofiles.runtimes.onnx_cpu import run_onnx
from hwprofiles.runtimes.onnx_inputs import network_inputs
from hwprofiles.runtimes.torch_gpu import TorchGpu
from hwprofiles.runtimes.torch_network import TorchNetwork
from tests.bundles import exported
from tests.contracts.runtime import RuntimeContract, save_identity
from tests.models import MODELS
from trials.onnx_file import write_onnx


class TestSameCallsOnTheCpu(RuntimeContract):
    def make(self) -> TorchGpu:
        return TorchGpu("fp32", "cpu")


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vit_mha"])
def test_a_network_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    bundle = exported(name)
    write_onnx(bundle.graph, bundle.tensors, tmp_path / "network.onnx")
    model = onnx.load(tmp_path / "network.onnx")
    feeds = network_inputs(model, name, batch=3)
    network = TorchNetwork(model, feeds, torch.device("cpu"))
    network.run()
    for found, wanted in zip(network.outputs, run_onnx(tmp_path / "network.onnx", feeds), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4 * np.abs(wanted).max())


def test_an_operator_without_a_rule_is_refused_by_name(tmp_path: Path) -> None:
    save_identity(tmp_path / "network.onnx", ["batch", 3])
    model = onnx.load(tmp_path / "network.onnx")
    model.graph.node[0].op_type = "Sine"
    with pytest.raises(UnsupportedOpError, match="no rule for the ONNX operator Sine"):
        TorchNetwork(model, network_inputs(model, "network", 1), torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_torch_without_a_gpu_is_refused_with_its_version() -> None:
    with pytest.raises(RequestError, match=r"torch 2\..* finds no GPU; install a torch built for CUDA"):
        open_runtime("torch")
