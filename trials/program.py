"""A program that `torch.export` made, rewritten as a bundle: a graph of ours and the tensors that it uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hwprofiles.errors import RequestError, UnsupportedOpError
from trials.bundle import DROPPED_ARGUMENTS, Bundle
from trials.graph import Arg, Batch, Dtype, Graph, Input, Node, Tensor, TensorSpec, Value
from trials.oprules import RULES, rule_of

_SAME = {
    "aten.__and__.Tensor": "aten.bitwise_and.Tensor",
    "aten.to.device": "aten.to.dtype",
    "aten.to.dtype_layout": "aten.to.dtype",
    "aten.lift_fresh_copy.default": "aten.clone.default",
    "aten.detach.default": "aten.alias.default",
    "aten.detach_.default": "aten.alias.default",
}
"""Ops by another name; where values lie is the runtime's."""


def rewritten(program: torch.export.ExportedProgram, inputs: Sequence[Input]) -> Bundle:
    """
    Raises:
        UnsupportedOpError: an op without a rule, or a use of one that a bundle cannot express.
        RequestError: it returns something that it does not compute.
    """
    return _Rewriter(program, inputs, _inline(program.graph_module)).bundle()


class _Rewriter:
    """Rewrites an exported program as a graph of ours: no symbols, no in-place ops, no dead nodes."""

    def __init__(
        self, program: torch.export.ExportedProgram, inputs: Sequence[Input], inlined: Mapping[str, str]
    ) -> None:
        self.program, self.inputs = program, inputs
        signature = program.graph_signature
        self.tensors = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.returned = [
            inlined.get(name, name) if isinstance(name, str) else name for name in signature.user_outputs
        ]
        self.same, self.memory = _origins(program.graph)
        self.state = {**program.state_dict, **program.constants}
        self.names: dict[str, str] = {}
        self.current: dict[str, str] = {}

    def bundle(self) -> Bundle:
        signature = self.program.graph_signature
        for name, item in zip(signature.user_inputs, self.inputs, strict=True):
            self.names[str(name)] = item.name
        nodes = [self._node(node) for node in self.program.graph.nodes if node.op == "call_function"]
        self._check_returned()
        outputs = tuple(Value(self._name(str(name))) for name in self.returned)
        live = _live([node for node in nodes if node is not None], outputs)
        used = {name for node in live for name in node.tensors}
        batch_norms = {name.rpartition(".")[0] for name in used if name.endswith("running_mean")}
        state = self.state
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
        # A model that is frozen as a whole was frozen for use: nothing is meant by that.
        trained = {name for name in parameters if state[name].requires_grad} or parameters
        specs = {
            name: TensorSpec(
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                trainable=name in trained,
            )
            for name, tensor in kept.items()
        }
        return Bundle(
            Graph(inputs=tuple(self.inputs), nodes=tuple(live), outputs=outputs, tensors=specs), kept
        )

    def _check_returned(self) -> None:
        odd = [name for name in self.returned if not isinstance(name, str) or name in self.tensors]
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
        op = _SAME.get(str(target), str(target))
        schema, wanted = target._schema.arguments, _overload(op)._schema.arguments
        names = (argument.name for argument in schema)
        bound: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
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
        if op not in RULES and mutated is None and (not node.users or self._hold_constant(node)):
            return None
        rule_of(op)
        if op == "aten.index.Tensor" and torch.bool in self._dtypes(node.args[1]):
            raise UnsupportedOpError(
                f"the model picks by a mask at {node.name!r}, so that sizes depend on its input; pick by "
                "indices, or multiply by the mask"
            )
        if op == "aten.cat.default":
            # As torch has it, a list of nothing has no axes to fit: what caches of decoders start from.
            bound["tensors"] = [part for part in bound["tensors"] if part.meta["val"].shape != (0,)]
        args = {
            argument.name: self._encode(
                bound[argument.name] if argument.name in bound else argument.default_value, node
            )
            for argument in wanted
            if argument.name not in DROPPED_ARGUMENTS
        }
        if isinstance(mutated, torch.fx.Node):
            self.current[self._name(mutated.name)] = node.name
        return Node(node.name, op, args)

    @staticmethod
    def _dtypes(nodes: Any) -> set[torch.dtype]:
        return {node.meta["val"].dtype for node in nodes if node is not None}

    def _hold_constant(self, node: torch.fx.Node) -> bool:
        """Compute a node without a rule, if it needs no more than buffers, and hold its result as another."""
        try:
            found = self._computed(node)
        except LookupError:
            return False
        if isinstance(found, torch.Tensor):
            self.tensors[node.name] = f"constants.{node.name}"
            self.state[self.tensors[node.name]] = found
        return node.name in self.tensors

    @torch.no_grad()
    def _computed(self, node: torch.fx.Node) -> Any:
        """
        Raises:
            LookupError: it depends on an input, the batch, a parameter, or chance.
        """
        name = self.tensors.get(node.name, "")
        if name and name not in self.program.graph_signature.parameters:
            return self.state[name]
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
            raise LookupError(node.name)
        if any(argument.alias_info and argument.alias_info.is_write for argument in target._schema.arguments):
            raise LookupError(node.name)
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), self._computed)
        return target(*args, **kwargs)

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


def _inline(module: torch.fx.GraphModule) -> dict[str, str]:
    """Put what runs under `torch.no_grad` beside everything else: a graph of ours knows no gradients.

    Returns:
        What its results are called there, by what the program calls them, which returns them by that.
    """
    called: dict[str, str] = {}
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.higher_order.wrap_with_set_grad_enabled:
            continue
        _, inner, *args = node.args
        body = getattr(module, inner.target)
        _inline(body)
        places = (each for each in body.graph.nodes if each.op == "placeholder")
        with module.graph.inserting_before(node):
            results = module.graph.graph_copy(body.graph, dict(zip(places, args, strict=True)))
        assert isinstance(results, tuple)
        for item in list(node.users):
            called[item.name] = results[item.args[1]].name
            item.replace_all_uses_with(results[item.args[1]])
            module.graph.erase_node(item)
        module.graph.erase_node(node)
    return called


def _overload(op: str) -> torch._ops.OpOverload:
    """The op of a name such as "aten.conv2d.default"."""
    space, name, overload = op.split(".")
    found: torch._ops.OpOverload = getattr(getattr(getattr(torch.ops, space), name), overload)
    return found


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
