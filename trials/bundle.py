"""A bundle: a model as data. `graph.json` + `weights.safetensors` + `manifest.json`, and no code in it.

`export_model` runs on the user's side, where the user's code may run. Everything else here reads bundles that
anybody may have written: sizes are capped and checksums compared before anything is allocated, and nothing is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from hwprofiles.errors import BundleError, RequestError, UnsupportedOpError, one_line
from trials.graph import Arg, Batch, Dtype, Graph, Input, Node, Tensor, TensorSpec, Value
from trials.groups import trace
from trials.network import Network, build
from trials.oprules import RULES, rule_of

FORMAT = 1
MAX_GRAPH_BYTES = 256 * 2**20
MAX_WEIGHT_BYTES = 16 * 2**30
TOLERANCE = 1e-4
"""By how much an exported model may differ from the user's, relative to its largest output."""
_DROPPED_ARGUMENTS = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy"}
_SAFETENSORS_DTYPES = {
    "F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "Tensor": (Value, Tensor, int, float),
    "int": (int, Batch),
    "number": (int, float),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "ScalarType": (Dtype,),
}
"""What a graph may hold where ATen declares a type; a sum may have a number for its second tensor."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A graph and its tensors, by the user's own names."""

    graph: Graph
    tensors: Mapping[str, torch.Tensor]

    def network(self) -> Network:
        """A trainable module with tensors of its own."""
        return build(self.graph, {name: tensor.clone() for name, tensor in self.tensors.items()})

    @torch.no_grad()
    def run(self, *inputs: torch.Tensor) -> Any:
        """What the network computes in eval mode: its first run, which finds what shapes alone do not tell.

        Raises:
            BundleError: an op cannot run on what it is given, such as integers where it takes floats.
        """
        network = self.network().eval()
        try:
            return network(*inputs)
        except Exception as error:  # a graph may hold anything, and each op has its own way to complain
            raise BundleError(
                f"the bundle's network does not run: {one_line(str(error))[:300]}; export the model again"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the three files; the folder appears whole or not at all.

        Raises:
            RequestError: the folder exists already.
        """
        if folder.exists():
            raise RequestError(f"{folder} exists already; choose another folder or remove it")
        with whole_folder(folder) as partial:
            manifest = {
                "format": FORMAT,
                "sha256": self.write_model(partial, "weights.safetensors"),
                "inputs": self.graph.to_json()["inputs"],
                "versions": {"torch": torch.__version__.partition("+")[0]},
            }
            (partial / "manifest.json").write_text(json.dumps(manifest, indent=2))

    def write_model(self, folder: Path, weights: str) -> dict[str, str]:
        """Write `graph.json` and a safetensors file called `weights`; returns the sha256 of each."""
        graph = json.dumps(self.graph.to_json(), separators=(",", ":"), allow_nan=False)
        (folder / "graph.json").write_text(graph)
        save_file({name: t.contiguous() for name, t in self.tensors.items()}, folder / weights)
        return {name: file_sha256(folder / name) for name in ("graph.json", weights)}

    @property
    def sha256(self) -> str:
        """Of the graph and every tensor: what the search's results depend on."""
        digest = hashlib.sha256(json.dumps(self.graph.to_json(), sort_keys=True).encode())
        for name in sorted(self.tensors):
            digest.update(name.encode())
            digest.update(self.tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle; trusts nothing in it.

    Raises:
        BundleError: a file is missing, too large, of another sha256 or format, or not what the graph says.
        UnsupportedOpError: an op off the allow-list.
    """
    manifest = read_json(folder / "manifest.json", 2**20)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{folder} is not a bundle of format {FORMAT}; export the model again")
    return read_model(folder, "weights.safetensors", manifest.get("sha256"))


def read_model(folder: Path, weights: str, checksums: Any) -> Bundle:
    """Read and check what `Bundle.write_model` wrote; `checksums` may be anything that was in a file.

    Raises:
        BundleError, UnsupportedOpError: as `read_bundle`.
    """
    for name, cap in (("graph.json", MAX_GRAPH_BYTES), (weights, MAX_WEIGHT_BYTES)):
        _check_size(folder / name, cap)
        if not isinstance(checksums, dict) or checksums.get(name) != file_sha256(folder / name):
            raise BundleError(
                f"{folder / name} is not the file its manifest describes (sha256); copy it again"
            )
    graph = Graph.from_json(read_json(folder / "graph.json", MAX_GRAPH_BYTES))
    _check_weights(folder / weights, graph)
    for node in graph.nodes:
        _check_call(node)
    trace(graph)
    tensors = load_file(folder / weights)
    if odd := _not_finite(tensors):
        raise BundleError(
            f"{folder / weights} holds NaN or infinite numbers in {odd!r}; train the model again"
        )
    return Bundle(graph, tensors)


def _not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """The name of the first tensor that holds NaN or an infinite number, or ""."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), "")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill. It takes the place of `folder` when all went well, and is gone if not."""
    partial, replaced = (
        folder.with_name(f".{folder.name}.{what}-{os.getpid()}") for what in ("partial", "replaced")
    )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _check_size(path: Path, cap: int) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing; export the model again")
    if path.stat().st_size > cap:
        raise BundleError(f"{path} has {path.stat().st_size} bytes; at most {cap} are allowed")


def read_json(path: Path, cap: int) -> Any:
    _check_size(path, cap)
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}; export the model again") from None


def _check_weights(path: Path, graph: Graph) -> None:
    """Compare the header of a safetensors file with the graph; reads no tensor."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: tuple(part.get_shape()) for name, part in found.items()}
            dtypes = {name: _SAFETENSORS_DTYPES.get(part.get_dtype(), "?") for name, part in found.items()}
    except Exception as error:  # safetensors raises its own, undocumented class
        raise BundleError(f"{path} is not a safetensors file: {error}; export the model again") from None
    if set(shapes) != set(graph.tensors):
        odd = sorted(set(shapes) ^ set(graph.tensors))
        raise BundleError(f"{path} and its graph disagree on the tensors {odd[:3]}; export the model again")
    for name, spec in graph.tensors.items():
        if (shapes[name], dtypes[name]) != (spec.shape, spec.dtype):
            raise BundleError(
                f"{path} holds {name!r} as {dtypes[name]} {list(shapes[name])}, its graph says {spec.dtype} "
                f"{list(spec.shape)}; export the model again"
            )


def _check_call(node: Node) -> None:
    """Compare a node's arguments with what its op declares: each one there, none besides, of its type."""
    rule_of(node.op)
    if node.op == "getitem":
        wanted = {"self": "Tensor", "index": "int"}
    else:
        wanted = {a.name: str(a.real_type) for a in _arguments(node.op) if a.name not in _DROPPED_ARGUMENTS}
    odd = sorted(set(wanted) ^ set(node.args)) or [
        n for n, arg in node.args.items() if not _fits(wanted[n], arg)
    ]
    if odd:
        raise BundleError(
            f"node {node.name!r} does not call {node.op} as it is declared, see {odd[0][:60]!r}; "
            "export the model again"
        )


def _arguments(op: str) -> list[Any]:
    _, name, overload = op.split(".")
    return list(getattr(getattr(torch.ops.aten, name), overload)._schema.arguments)


def _fits(kind: str, arg: Arg) -> bool:
    """Whether an argument is of a type as ATen writes it, such as "Optional[List[int]]"."""
    outer, _, inner = kind.partition("[")
    if kind == "Optional[Tensor]":
        return arg is None or isinstance(arg, Value | Tensor)
    if outer == "Optional":
        return arg is None or _fits(inner[:-1], arg)
    if outer == "List":
        return isinstance(arg, tuple) and all(_fits(inner[:-1], item) for item in arg)
    return isinstance(arg, _PYTHON_TYPES[kind])


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Export: the user's side.


def export_model(model: nn.Module, inputs: Sequence[Input]) -> Bundle:
    """Turn a model into a bundle with `torch.export`. Its mode and tensors stay as they are.

    It is exported in training mode, so that dropout and batch norm keep both of their behaviours, and then
    compared with the model in eval mode, on random inputs.

    Raises:
        UnsupportedOpError: an op without a rule.
        RequestError: the model does not run on such inputs or cannot be exported with a dynamic batch, the
            reason is quoted; it returns something else than tensors that it computes; it holds infinite
            numbers; or the bundle computes something else than the model does in eval mode.
    """
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
    if odd := _not_finite(bundle.tensors):
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
            if argument.name not in _DROPPED_ARGUMENTS
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
