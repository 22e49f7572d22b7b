"""A bundle computes what the model computed, and is read back as it was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bundles import ConvolutionThen, export_images, exported, input_of
from tests.models import MODELS, build, example_input
from trials.bundle import read_bundle
from trials.export import export_model
from trials.graph import Input


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's output and the gradient of its squared sum by every parameter that has one."""
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return out.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: nn.Module, network: nn.Module, x: Tensor) -> None:
    """Outputs, gradients and what batch norms learnt on the way are equal; dropouts drop the same numbers."""
    torch.manual_seed(1)
    wanted, wanted_gradients = gradients(model, x)
    torch.manual_seed(1)
    found, found_gradients = gradients(network, x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(found_gradients, wanted_gradients, rtol=1e-5, atol=1e-5)
    buffers = dict(network.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_bundle_computes_the_outputs_gradients_and_statistics_of_its_model(
    name: str, training: bool
) -> None:
    model = build(name).train(training)
    network = exported(name).network().train(training)
    assert_same(model, network, example_input(name, batch=4))


@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_takes_the_state_dict_of_its_model(name: str) -> None:
    state = build(name, seed=1).state_dict()
    network = exported(name).network().eval()
    constants = {key for key, _ in build(name).named_buffers()} - set(state)
    assert set(network.state_dict()) - constants == set(state)
    network.load_state_dict(state, strict=False)
    x = example_input(name)
    torch.testing.assert_close(network(x), build(name, seed=1)(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_what_was_written_is_read_back(name: str, tmp_path: Path) -> None:
    bundle = exported(name)
    bundle.write(tmp_path / "model.bundle")
    found = read_bundle(tmp_path / "model.bundle")
    assert found.graph == bundle.graph
    assert found.sha256 == bundle.sha256
    assert len({file.stat().st_mode for file in (tmp_path / "model.bundle").iterdir()}) == 1
    x = example_input(name)
    assert torch.equal(found.network().eval()(x), bundle.network().eval()(x))


def test_layers_are_real_modules_under_the_users_names() -> None:
    network = exported("mobilenet_v2").network()
    assert isinstance(network.get_submodule("features.4.conv.3"), nn.Conv2d)
    assert isinstance(network.get_submodule("features.4.conv.4"), nn.BatchNorm2d)
    assert isinstance(network.get_submodule("classifier.1"), nn.Linear)
    assert sum(isinstance(module, nn.Dropout) for module in network.modules()) == 1


def test_two_networks_of_one_bundle_share_no_tensor() -> None:
    one, other = exported("vgg_flatten").network(), exported("vgg_flatten").network()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert all(bool(parameter.any()) for parameter in other.parameters())


def test_export_leaves_the_mode_and_the_tensors_of_the_model_alone() -> None:
    model = build("resnet_pad")
    model.layer1.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_model(model, [input_of("resnet_pad")])
    assert not model.training
    assert model.layer1.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_frozen_parameters_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].weight.requires_grad_(False)
    network = export_images(model, 4).network()
    assert not network.get_parameter("0.weight").requires_grad
    assert network.get_parameter("0.bias").requires_grad


def test_a_model_that_is_frozen_as_a_whole_can_be_trained() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).requires_grad_(False)
    bundle = export_images(model, 4)
    assert all(parameter.requires_grad for parameter in bundle.network().parameters())
    assert not bundle.graph.tensors["1.running_mean"].trainable


def chained(x: Tensor) -> Tensor:
    x.add_(1.0).mul_(2.0)
    return F.relu_(x) + x


def reused(x: Tensor) -> Tensor:
    y = x.sigmoid()
    x.clamp_(min=0.0)
    return x + y


def flattened(x: Tensor) -> Tensor:
    out = F.relu(x.flatten(1), inplace=True)
    return out.unflatten(1, (4, 16)).mul_(2.0)


@pytest.mark.parametrize("body", [chained, reused, flattened])
def test_in_place_operations_become_plain_ones(body: Callable[[Tensor], Tensor]) -> None:
    model = ConvolutionThen(body)
    network = export_images(model, 3, 4, 4).network()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=1e-5)


def test_what_only_training_does_is_left_out_where_it_cannot_be_exported() -> None:
    class RandomDepth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

        def forward(self, x: Tensor) -> Tensor:
            depth = torch.rand(x.shape[0], 1).round() if self.training else 1.0
            return x + self.layer(x) * depth

    bundle = export_images(RandomDepth(), 4)
    assert "aten.dropout.default" in [node.op for node in bundle.graph.nodes]
    x = torch.ones(64, 4)
    assert not torch.equal(bundle.network().train()(x), bundle.network().eval()(x))


def test_what_buffers_alone_make_is_computed_once_even_by_ops_without_a_rule() -> None:
    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.tensor([3.0, 1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            order = self.table.argsort()
            return x * self.table.gather(0, order)

    bundle = export_images(Tabled(), 3)
    assert [node.op for node in bundle.graph.nodes] == ["aten.mul.Tensor"]
    assert bundle.tensors["constants.gather"].tolist() == [1.0, 2.0, 3.0]


def test_what_runs_without_gradients_is_part_of_a_bundle_like_everything_else() -> None:
    class Scaled(nn.Module):
        """Reads two values that it makes without gradients."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                mean, size = x.mean(1, keepdim=True), x.abs()
            result: Tensor = self.linear(x * size + mean)
            return result

    model = Scaled().eval()
    x = torch.randn(4, 6)
    torch.testing.assert_close(export_images(model, 6).run(x), model(x))


def test_a_model_that_returns_what_it_computes_without_gradients_is_exported() -> None:
    class Frozen(nn.Module):
        """Its whole forward is decorated, as for use alone; one result is an input of what comes after."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(6, 3), nn.Linear(3, 2)

        @torch.no_grad()
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.linear(x).relu()
            return self.head(hidden), hidden

    model = Frozen().eval()
    x = torch.randn(4, 6)
    torch.testing.assert_close(export_images(model, 6).run(x), model(x))


def test_a_list_of_nothing_that_others_are_concatenated_to_is_left_out() -> None:
    class Cached(nn.Module):
        """As decoders of transformers keep keys and values: they begin with an empty list."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.linear(torch.cat([torch.tensor([]), x], -1))
            return result

    model = Cached().eval()
    bundle, x = export_images(model, 6), torch.randn(4, 6)
    torch.testing.assert_close(bundle.run(x), model(x))


def test_inputs_may_come_by_position_alone() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 6)

        def forward(self, *x: Tensor) -> Tensor:
            out: Tensor = self.linear(x[0]) + self.linear(x[1])
            return out

    model = Sum()
    bundle = export_model(model, [Input(name="left", shape=(4,)), Input(name="right", shape=(4,))])
    left, right = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(bundle.network()(left, right), model(left, right), rtol=0, atol=1e-5)


def test_the_batch_of_a_bundle_is_free() -> None:
    network = exported("vit").network().eval()
    x = example_input("vit", batch=5)
    torch.testing.assert_close(network(x)[3:4], network(x[3:4]), rtol=0, atol=1e-5)


def test_two_inputs_and_two_outputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.shared(a) * self.shared(b)
            return self.head(hidden), hidden.sum(1)

    model = Pair()
    network = export_model(model, [Input(name="a", shape=(4,)), Input(name="b", shape=(4,))]).network()
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    for found, wanted in zip(network(a, b), model(a, b), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    with pytest.raises(TypeError, match="takes 2 inputs, got 1"):
        network(a)
