"""A graph and its tensors as a trainable `nn.Module`: real layers under the user's names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hwprofiles.errors import BundleError
from trials.graph import Arg, Batch, Dtype, Graph, Node, Tensor, Value
from trials.layers import Ranks, layer_of, ranks_of
from trials.oprules import rule_of

TRAINING_FLAGS = {"training", "train"}
_PLAIN = nn.Module()
"""Has what every module has, so that no tensor can be called so."""

Values = dict[str, Any]
"""Name → what an input or a step gave, of the values that are still to be read."""
Names = Mapping[str, frozenset[str]]
"""Path of a module → what the user calls the tensors and modules in it."""


class Network(nn.Module):
    """Runs a graph. Convolutions, linear layers, norms, embeddings and dropouts are modules of their own.

    Inputs and outputs are the model's, in order; one output comes bare, several as a tuple. State dict keys
    are the user's own, also where an attribute here goes by the same name: tensors and modules are then
    registered, but are no attributes.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph
        self.release = last_uses(graph)
        """For each step, the values that nothing reads after it."""
        self.steps: list[Step] = []
        self.by_name: dict[str, Step] = {}
        ranks, names = ranks_of(graph), _names_within(graph.tensors)
        for node in graph.nodes:
            self.by_name[node.name] = step = Step(self, node, tensors, ranks, names)
            self.steps.append(step)
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

    def __init__(
        self, root: Network, node: Node, tensors: Mapping[str, torch.Tensor], ranks: Ranks, names: Names
    ) -> None:
        self.node, self.name = node, node.name
        rule_of(node.op)
        main = next(iter(node.values), "")
        made = layer_of(node, tensors, ranks) if main else None
        self.flag = next((name for name in node.args if name in TRAINING_FLAGS), "")
        self.path = _adopt(root, node, made, names) if made is not None else ""
        if self.path:
            self.source = main
            return
        self.call = _function(node.op)

    def __call__(self, root: Network, values: dict[str, Any], batch: int) -> Any:
        if self.path:
            return module_at(root, self.path)(values[self.source])
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
                return tensor_at(root, name)
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


def module_at(root: nn.Module, path: str) -> nn.Module:
    """The module registered at a dotted path; unlike `get_submodule` whatever attributes hide it."""
    module = root
    for name in path.split(".") if path else ():
        child = module._modules[name]
        assert child is not None
        module = child
    return module


def tensor_at(root: nn.Module, path: str) -> torch.Tensor:
    """The parameter or buffer registered at a dotted path, or what whoever parametrised it put there."""
    parent, _, name = path.rpartition(".")
    module = module_at(root, parent)
    for held in (module._parameters, module._buffers):
        found = held.get(name)
        if found is not None:
            return found
    computed: torch.Tensor = getattr(module, name)
    return computed


def _names_within(tensors: Iterable[str]) -> Names:
    found = defaultdict(set)
    for name in tensors:
        while name:
            path, _, last = name.rpartition(".")
            found[path].add(last)
            name = path
    return {path: frozenset(names) for path, names in found.items()}


def _adopt(root: Network, node: Node, module: nn.Module, names: Names) -> str:
    """Put a module where its tensors' names say.

    Returns:
        Where it is; "" if its tensors name no place, another module stands there, or something else that the
        user keeps there goes by the name of one of its attributes.
    """
    held = {arg.name: name for name, arg in node.args.items() if isinstance(arg, Tensor)}
    if not held:
        taken = node.name in names.get("", ()) or hasattr(root, node.name)
        if taken or not node.name.isidentifier():
            return ""
        root.add_module(node.name, module)
        return node.name
    path = next(iter(held)).rpartition(".")[0]
    if not path or any(tensor != f"{path}.{attribute}" for tensor, attribute in held.items()):
        return ""
    if any(hasattr(module, name) for name in names[path] - {*held.values(), "num_batches_tracked"}):
        return ""
    if not _absent(root, path):
        standing = module_at(root, path)
        same = type(standing) is type(module) and standing.extra_repr() == module.extra_repr()
        return path if same else ""
    parent, name = _parent(root, path)
    parent._modules[name] = module
    return path


def _hold(root: nn.Module, name: str, tensor: torch.Tensor, *, trainable: bool) -> None:
    parent, attribute = _parent(root, name)
    if trainable or attribute in parent._parameters:
        parent._parameters[attribute] = nn.Parameter(tensor, requires_grad=trainable)
    else:
        parent._buffers[attribute] = tensor


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds the last part of a dotted path, made on the way where it is missing.

    Raises:
        BundleError: torch allows no module or tensor of such a name.
    """
    *parts, name = path.split(".")
    if any(not part or hasattr(_PLAIN, part) for part in (*parts, name)):
        raise BundleError(f"the bundle names a tensor {path!r}, which hides an attribute of its module")
    module = root
    for part in parts:
        if part not in module._modules:
            module._modules[part] = nn.Module()
        module = module_at(module, part)
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
