"""A user's model made into a bundle, on the user's side, where the user's code may run."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from hwprofiles.errors import RequestError, UnsupportedOpError, one_line
from trials.bundle import DROPPED_ARGUMENTS, Bundle, not_finite
from trials.graph import Arg, Batch, Dtype, Graph, Input, Node, Tensor, TensorSpec, Value
from trials.groups import trace
from trials.limit import LIMIT_S, time_limit
from trials.oprules import RULES, rule_of

TOLERANCE = 1e-4
"""By how much an exported model may differ from the user's, relative to its largest output."""


def export_model(model: nn.Module, inputs: Sequence[Input]) -> Bundle:
    """Turn a model into a bundle with `torch.export`. Its mode and tensors stay as they are.

    It is exported in training mode, so that dropout and batch norm keep both of their behaviours, and then
    compared with the model in eval mode, on random inputs.

    Raises:
        UnsupportedOpError: an op without a rule.
        RequestError: the model does not run on such inputs or cannot be exported with a dynamic batch, the
            reason is quoted; it returns something else than tensors that it computes; it holds infinite
            numbers; the bundle computes something else than the model does in eval mode; or it takes more
            than `LIMIT_S`.
    """
    with time_limit(LIMIT_S, f"exporting {type(model).__name__}"):
        return _export(model, inputs)


def _export(model: nn.Module, inputs: Sequence[Input]) -> Bundle:
    generator = torch.Generator().manual_seed(0)
    examples = tuple(_example(item, generator) for item in inputs)
    name = type(model).__name__
    with _left_alone(model), warnings.catch_warnings(action="ignore"):
        model.eval()
        wanted, again = _outputs(model, examples), _outputs(model, examples)
        model.train()
        program = _exported(model, examples)
    bundle = _Exporter(program, inputs).bundle()
    trace(bundle.graph)
    if odd := not_finite(bundle.tensors):
        raise RequestError(
            f"{name} holds NaN or infinite numbers in {odd!r}; train it again, or mask with -1e9 instead"
        )
    if not _alike(again, wanted):
        raise RequestError(
            f"{name} gives other outputs at each call in eval mode, so a random op in it stays on, such as "
            "F.dropout without training=self.training; pass that, or use nn.Dropout"
        )
    if not _alike(tree_leaves(bundle.run(*examples)), wanted):
        raise RequestError(
            f"{name} as exported computes something else than {name} in eval mode; its forward most likely "
            "branches on self.training: leave what differs between the modes to nn.Dropout and batch norms"
        )
    return bundle


def _exported(model: nn.Module, examples: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """The model as a program of ATen ops, axis 0 of each input free."""
    batch = torch.export.Dim("batch", min=1, max=2**16)
    try:
        # As the model names them: `*x` is one argument that takes several inputs.
        arguments = inspect.signature(model.forward).bind(*examples).arguments
        return torch.export.export(
            model, tuple(examples), dynamic_shapes=tree_map(lambda _: {0: batch}, dict(arguments))
        )
    except Exception as error:  # whatever the user's code or the exporter raises is the user's to see
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(
            f"torch.export cannot export {type(model).__name__} with a dynamic batch: {first[:300]}"
        ) from error


def _example(item: Input, generator: torch.Generator) -> torch.Tensor:
    """A batch of two: floats from 0 to 1, as pixels are, or integers below the input's `high`."""
    shape, dtype = (2, *item.shape), getattr(torch, item.dtype)
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator).to(dtype)
    return torch.randint(item.high, shape, generator=generator).to(dtype)


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """Let the model run and change its mode; modes, buffers and torch's random state come back."""
    modes = {module: module.training for module in model.modules()}
    buffers = {
        (module, name): (buffer, buffer.clone())
        for module in modes
        for name, buffer in module.named_buffers(recurse=False)
    }
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for (module, name), (buffer, value) in buffers.items():
            module._buffers[name] = buffer.copy_(value)


def _outputs(model: nn.Module, examples: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors that the user's model returns, in the order in which torch.export lists them.

    Raises:
        RequestError: the model does not run on such inputs, or returns something else beside tensors.
    """
    name = type(model).__name__
    try:
        found = tree_leaves(model(*examples))
    except Exception as error:  # the user's code may raise anything
        given = " and ".join(str(list(example.shape)) for example in examples)
        raise RequestError(
            f"{name} does not run on inputs of shape {given}, a batch of 2 in front of the shape that it was "
            f"given: {one_line(str(error))[:300] or type(error).__name__}"
        ) from error
    odd = [leaf for leaf in found if not isinstance(leaf, torch.Tensor)]
    if odd or not found:
        raise RequestError(
            f"{name} returns {str(odd)[1:-1][:60] or 'nothing'}; a model must return tensors alone"
        )
    return [leaf.detach() for leaf in found]


def _alike(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
    """Whether the same tensors, up to rounding: `TOLERANCE` of the largest finite number of each."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in wanted]:
        return False
    return all(
        torch.allclose(
            one.double(),
            other.double(),
            rtol=0.0,
            atol=TOLERANCE * float(other.double().nan_to_num(0.0, 0.0, 0.0).abs().max()),
            equal_nan=True,
        )
        for one, other in zip(found, wanted, strict=True)
    )


class _Exporter:
    """Rewrites an exported program as a graph of ours: no symbols, no in-place ops, no dead nodes."""

    def __init__(self, program: torch.export.ExportedProgram, inputs: Sequence[Input]) -> None:
        self.program, self.inputs = program, inputs
        signature = program.graph_signature
        self.tensors = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.same, self.memory = _origins(program.graph)
        self.names: dict[str, str] = {}
        self.current: dict[str, str] = {}
        self.dead: set[str] = set()

    def bundle(self) -> Bundle:
        signature = self.program.graph_signature
        for name, item in zip(signature.user_inputs, self.inputs, strict=True):
            self.names[str(name)] = item.name
        nodes = [self._node(node) for node in self.program.graph.nodes if node.op == "call_function"]
        self._check_returned(signature.user_outputs)
        outputs = tuple(Value(self._name(str(name))) for name in signature.user_outputs)
        live = _live([node for node in nodes if node is not None], outputs)
        used = {name for node in live for name in node.tensors}
        batch_norms = {name.rpartition(".")[0] for name in used if name.endswith("running_mean")}
        state = {**self.program.state_dict, **self.program.constants}
        kept = {
            name: value.detach().clone()
            for name, value in state.items()
            if isinstance(value, torch.Tensor)
            and (
                name in used
                or (name.endswith("num_batches_tracked") and name.rpartition(".")[0] in batch_norms)
            )
        }
        parameters = set(signature.parameters)
        specs = {
            name: TensorSpec(
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                trainable=name in parameters and state[name].requires_grad,
            )
            for name, tensor in kept.items()
        }
        return Bundle(
            Graph(inputs=tuple(self.inputs), nodes=tuple(live), outputs=outputs, tensors=specs), kept
        )

    def _check_returned(self, returned: Sequence[object]) -> None:
        odd = [name for name in returned if not isinstance(name, str) or name in self.tensors]
        if odd:
            what = self.tensors.get(str(odd[0]), odd[0])
            raise RequestError(
                f"the model returns {what!r} as it is; it must return only what it computes from its inputs"
            )

    def _name(self, name: str) -> str:
        while name in self.current:
            name = self.current[name]
        return self.names.get(name, name)

    def _node(self, node: torch.fx.Node) -> Node | None:
        if self._batches(node) is not None:
            return None
        target = node.target
        if getattr(target, "__name__", "") == "getitem":
            source, index = node.args
            assert isinstance(source, torch.fx.Node)
            return Node(
                node.name, "getitem", {"self": self._encode(source, node), "index": self._encode(index, node)}
            )
        if not isinstance(target, torch._ops.OpOverload):
            if not node.users:
                return None
            raise UnsupportedOpError(
                f"the model uses {target} at {node.name!r}, which is not a plain tensor operation"
            )
        op = str(target)
        schema = target._schema.arguments
        bound = dict(zip((argument.name for argument in schema), node.args, strict=False)) | dict(node.kwargs)
        name, _, overload = op.removeprefix("aten.").partition(".")
        mutated = node.args[0] if name.endswith("_") else None
        if mutated is not None:
            assert isinstance(mutated, torch.fx.Node)
            if mutated.name in self.tensors:
                if self.tensors[mutated.name].endswith("num_batches_tracked"):
                    return None
                raise UnsupportedOpError(
                    f"the model changes its buffer {self.tensors[mutated.name]!r} in place, which a bundle "
                    "cannot express"
                )
            self._check_alias(mutated, node)
            op = f"aten.{name.removesuffix('_')}.{overload}"
        if op not in RULES and not node.users and mutated is None:
            return None
        rule_of(op)
        args = {
            argument.name: self._encode(
                bound[argument.name] if argument.name in bound else argument.default_value, node
            )
            for argument in schema
            if argument.name not in DROPPED_ARGUMENTS
        }
        if isinstance(mutated, torch.fx.Node):
            self.current[self._name(mutated.name)] = node.name
        return Node(node.name, op, args)

    def _check_alias(self, mutated: torch.fx.Node, node: torch.fx.Node) -> None:
        """An in-place op changes all that shares its argument's memory: refused where that is read again."""
        for other, memory in self.memory.items():
            shared = memory is self.memory[mutated] and self.same[other] is not self.same[mutated]
            if shared and other < node and any(user > node for user in other.users):
                raise UnsupportedOpError(
                    f"the model changes {mutated.name!r} in place ({node.target}) while {other.name!r}, "
                    "which shares its memory, is in use; write that step out of place"
                )

    def _batches(self, node: torch.fx.Node) -> int | None:
        """How many times the batch size a symbolic integer is; None for a node that is a tensor."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return self._times(value, node)
        return 0 if isinstance(value, int) else None

    def _times(self, value: torch.SymInt, node: torch.fx.Node) -> int:
        expression = value.node.expr
        symbols = expression.free_symbols
        if len(symbols) == 1:
            times = expression / next(iter(symbols))
            if times.is_Integer and times > 0:
                return int(times)
        raise UnsupportedOpError(
            f"the model computes the size {expression} at {node.name!r}; allowed: a multiple of the batch"
        )

    def _encode(self, arg: Any, node: torch.fx.Node) -> Arg:
        match arg:
            case torch.fx.Node():
                if arg.name in self.tensors:
                    return Tensor(self.tensors[arg.name])
                value = arg.meta.get("val")
                if isinstance(value, torch.SymInt):
                    return Batch(self._times(value, arg))
                return Value(self._name(arg.name))
            case torch.SymInt():
                return Batch(self._times(arg, node))
            case list() | tuple():
                return tuple(self._encode(item, node) for item in arg)
            case torch.dtype():
                return Dtype(str(arg).removeprefix("torch."))
            case None | bool() | int() | str():
                return arg
            case float() if not math.isnan(arg):
                return arg
        raise UnsupportedOpError(
            f"the model passes {arg!r} to {node.target} at {node.name!r}, which a bundle cannot hold"
        )


def _origins(graph: torch.fx.Graph) -> tuple[dict[torch.fx.Node, torch.fx.Node], ...]:
    """For every node: which one made its tensor, and which one its memory.

    An in-place op hands on the tensor that it changed, a view hands on its memory.
    """
    same: dict[torch.fx.Node, torch.fx.Node] = {}
    memory: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in graph.nodes:
        changes = _passes_on(node, write=True)
        views = _passes_on(node, write=False) or getattr(node.target, "__name__", "") == "getitem"
        same[node] = same[node.all_input_nodes[0]] if changes else node
        memory[node] = memory[node.all_input_nodes[0]] if changes or views else node
    return same, memory


def _passes_on(node: torch.fx.Node, *, write: bool) -> bool:
    """Whether an op returns an argument that it writes, or a view of one that it does not."""
    return isinstance(node.target, torch._ops.OpOverload) and any(
        argument.alias_info is not None and argument.alias_info.is_write == write
        for argument in node.target._schema.arguments
    )


def _live(nodes: list[Node], outputs: Sequence[Value]) -> list[Node]:
    """The nodes that the outputs need, in order."""
    needed = {value.name for value in outputs}
    live: list[Node] = []
    for node in reversed(nodes):
        if node.name in needed:
            live.append(node)
            needed.update(node.values)
    return live[::-1]
