"""A graph and its tensors as a trainable `nn.Module`: real layers under the user's names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from hwprofiles.errors import BundleError
from trials.graph import Arg, Batch, Dtype, Graph, Node, Tensor, Value
from trials.oprules import rule_of

TRAINING_FLAGS = {"training", "train"}

Values = dict[str, Any]
"""Name → what an input or a step gave, of the values that are still to be read."""
Ranks = Mapping[str, int]
"""Number of axes of each value as far as the names of ops tell; 0 where that would take a trace."""


class Network(nn.Module):
    """Runs a graph. Convolutions, linear layers, norms, embeddings and dropouts are modules of their own.

    Inputs and outputs are the model's, in order; one output comes bare, several as a tuple. State dict keys
    are the user's own.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph
        ranks = _ranks(graph)
        self.steps = [Step(self, node, tensors, ranks) for node in graph.nodes]
        self.release = last_uses(graph)
        """For each step, the values that nothing reads after it."""
        for name, spec in graph.tensors.items():
            _hold(self, name, tensors[name], trainable=spec.trainable)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        values = self.bind(inputs, **named)
        # Not len: an export to ONNX would take that for a constant.
        self.run(values, next(iter(values.values())).shape[0])
        return self.outputs(values)

    def bind(self, inputs: Sequence[torch.Tensor], **named: torch.Tensor) -> Values:
        """Inputs in order, or by name, as the values that the first step finds."""
        inputs = (
            *inputs,
            *(named.pop(item.name) for item in self.graph.inputs[len(inputs) :] if item.name in named),
        )
        if named:
            raise TypeError(
                f"the model has no inputs {sorted(named)}; it has {[i.name for i in self.graph.inputs]}"
            )
        if len(inputs) != len(self.graph.inputs):
            raise TypeError(f"the model takes {len(self.graph.inputs)} inputs, got {len(inputs)}")
        return {item.name: x for item, x in zip(self.graph.inputs, inputs, strict=True)}

    def run(
        self,
        values: Values,
        batch: int,
        *,
        first: int = 0,
        past: int | None = None,
        keep: Collection[str] = (),
    ) -> None:
        """Run the steps [first, past) on the values alive before them, which become those alive after.

        Values in `keep` stay alive to the end.
        """
        for step, dead in zip(self.steps[first:past], self.release[first:past], strict=True):
            values[step.name] = step(self, values, batch)
            for name in dead:
                if name not in keep:
                    del values[name]

    def outputs(self, values: Values) -> Any:
        """What the model returns, of the values alive after its last step."""
        outputs = tuple(values[value.name] for value in self.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def last_uses(graph: Graph) -> list[list[str]]:
    """For each node, the values that nothing reads after it."""
    keep = {value.name for value in graph.outputs}
    last = {name: position for position, node in enumerate(graph.nodes) for name in node.values}
    release: list[list[str]] = [[] for _ in graph.nodes]
    for name, position in last.items():
        if name not in keep:
            release[position].append(name)
    for position, node in enumerate(graph.nodes):
        if node.name not in last and node.name not in keep:
            release[position].append(node.name)
    return release


class Step:
    """One node, ready to run: a module on its input, or an ATen op on its arguments."""

    def __init__(self, root: Network, node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
        self.node, self.name = node, node.name
        rule_of(node.op)
        main = next(iter(node.values), "")
        made = _MODULES[node.op](node, tensors, ranks) if main and node.op in _MODULES else None
        self.flag = next((name for name in node.args if name in TRAINING_FLAGS), "")
        self.path = _adopt(root, node, made) if made is not None else ""
        if self.path:
            self.source = main
            return
        self.call = _function(node.op)

    def __call__(self, root: Network, values: dict[str, Any], batch: int) -> Any:
        if self.path:
            return root.get_submodule(self.path)(values[self.source])
        args = {name: self._resolve(arg, root, values, batch) for name, arg in self.node.args.items()}
        if self.flag:
            args[self.flag] = root.training
        if not root.training and "dropout_p" in args:
            args["dropout_p"] = 0.0
        return self.call(**args)

    def _resolve(self, arg: Arg, root: Network, values: dict[str, Any], batch: int) -> Any:
        match arg:
            case Value(name):
                return values[name]
            case Tensor(name):
                path, _, attribute = name.rpartition(".")
                return getattr(root.get_submodule(path), attribute)
            case Batch(times):
                return batch * times
            case Dtype(name):
                return getattr(torch, name)
            case tuple():
                return [self._resolve(item, root, values, batch) for item in arg]
        return arg


def _function(op: str) -> Callable[..., Any]:
    if op == "getitem":
        return lambda self, index: self[index]
    if op == "aten.view.default":
        # The same numbers, but values may lie channels-last in memory, which a view cannot follow.
        return lambda self, size: self.reshape(size)
    _, name, overload = op.split(".")
    found: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    return found


def _ranks(graph: Graph) -> Ranks:
    ranks = {item.name: 1 + len(item.shape) for item in graph.inputs}
    for node in graph.nodes:
        first = next(iter(node.values), "") if node.op.startswith(_KEEP_RANK) else ""
        ranks[node.name] = 4 if "2d" in node.op else ranks.get(first, 0)
    return ranks


_KEEP_RANK = tuple(f"aten.{op}." for op in ("add", "cat", "mul", "relu", "hardtanh", "batch_norm", "dropout"))


def _layer(cls: Callable[..., nn.Module], widths: Mapping[str, int], **settings: Any) -> nn.Module:
    """A layer whose tensors take no memory and no time to initialise; they are put in place next.

    Constructors cost most of a candidate's time and only widths differ between candidates, so one layer of
    width 1 is made for all of them and copied.
    """
    template = _width_one(cls, tuple(widths), **settings)
    own = {
        name: value.copy() if isinstance(value, dict | set) else value
        for name, value in vars(template).items()
    }
    layer: nn.Module = object.__new__(type(template))
    layer.__dict__ = own | dict(widths)
    return layer


@cache
def _width_one(cls: Callable[..., nn.Module], widths: tuple[str, ...], **settings: Any) -> nn.Module:
    return cls(**dict.fromkeys(widths, 1), **settings, device="meta")


Make = Callable[[Node, Mapping[str, torch.Tensor], Ranks], nn.Module | None]
"""Makes the layer of a node, or None where no module does the same."""


def _conv2d(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    weight = tensors[node["weight"].name]
    return _layer(
        nn.Conv2d,
        {
            "in_channels": weight.shape[1] * node["groups"],
            "out_channels": weight.shape[0],
            "groups": node["groups"],
        },
        kernel_size=tuple(weight.shape[2:]),
        stride=node["stride"],
        padding=node["padding"],
        dilation=node["dilation"],
        bias=node["bias"] is not None,
    )


def _linear(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    weight = tensors[node["weight"].name]
    widths = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    return _layer(nn.Linear, widths, bias=node["bias"] is not None)


def _batch_norm(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    if not all(isinstance(node[name], Tensor) for name in ("weight", "bias", "running_mean", "running_var")):
        return None
    rank = ranks[node["input"].name]
    if rank not in (2, 3, 4):
        return None
    widths = {"num_features": tensors[node["weight"].name].shape[0]}
    cls = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
    return _layer(cls, widths, eps=node["eps"], momentum=node["momentum"])


def _layer_norm(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    if not isinstance(node["weight"], Tensor):
        return None
    bias = isinstance(node["bias"], Tensor)
    return _layer(nn.LayerNorm, {}, normalized_shape=node["normalized_shape"], eps=node["eps"], bias=bias)


def _embedding(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    count, width = tensors[node["weight"].name].shape
    padding = node["padding_idx"] if node["padding_idx"] >= 0 else None
    return _layer(nn.Embedding, {"embedding_dim": width}, num_embeddings=count, padding_idx=padding)


def _dropout(node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> nn.Module | None:
    return nn.Dropout(node["p"])


_MODULES: dict[str, Make] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.embedding.default": _embedding,
    "aten.dropout.default": _dropout,
}


def _adopt(root: Network, node: Node, module: nn.Module) -> str:
    """Put a module where its tensors' names say; returns "" if they name none or another stands there."""
    held = {arg.name: name for name, arg in node.args.items() if isinstance(arg, Tensor)}
    if not held:
        if hasattr(root, node.name) or not node.name.isidentifier():
            return ""
        root.add_module(node.name, module)
        return node.name
    path = next(iter(held)).rpartition(".")[0]
    if not path or any(tensor != f"{path}.{attribute}" for tensor, attribute in held.items()):
        return ""
    if not _absent(root, path):
        standing = root.get_submodule(path)
        same = type(standing) is type(module) and standing.extra_repr() == module.extra_repr()
        return path if same else ""
    parent, name = _parent(root, path)
    parent.add_module(name, module)
    return path


def _hold(root: nn.Module, name: str, tensor: torch.Tensor, *, trainable: bool) -> None:
    parent, attribute = _parent(root, name)
    if trainable:
        parent.register_parameter(attribute, nn.Parameter(tensor))
    elif attribute in parent._parameters:
        parent._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
    else:
        parent.register_buffer(attribute, tensor)


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds the last part of a dotted path, made on the way where it is missing."""
    *parts, name = path.split(".")
    module = root
    for part in parts:
        if part not in module._modules:
            if hasattr(module, part):
                raise BundleError(
                    f"the bundle names a tensor {path!r}, which hides an attribute of its module"
                )
            module.add_module(part, nn.Module())
        child = module._modules[part]
        assert child is not None
        module = child
    return module, name


def _absent(root: nn.Module, path: str) -> bool:
    module: nn.Module = root
    *parts, name = path.split(".")
    for part in parts:
        child = module._modules.get(part)
        if child is None:
            return True
        module = child
    return all(name not in held for held in (module._modules, module._parameters, module._buffers))


def build(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> Network:
    """Make a trainable module of a graph. Tensors are used as they are: copy them first to keep yours.

    Raises:
        UnsupportedOpError: an op off the allow-list.
        BundleError: a layer's literals or a tensor's name are such that no module can hold it.
    """
    try:
        return Network(graph, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise BundleError(f"the graph cannot be built: {type(error).__name__} {error}") from error
