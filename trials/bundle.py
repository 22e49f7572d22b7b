"""A bundle: a model as data. `graph.json` + `weights.safetensors` + `manifest.json`, and no code in it.

Anybody may have written a bundle that is read here: sizes are capped and checksums compared before anything
is allocated, and nothing is ever unpickled. `trials/export.py` makes one of a user's model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hwprofiles.disk import file_sha256, whole_folder
from hwprofiles.errors import BundleError, RequestError, one_line
from trials.graph import Arg, Batch, Dtype, Graph, Node, Tensor, Value
from trials.network import Network, build
from trials.oprules import rule_of
from trials.tracing import trace

FORMAT = 1
MAX_GRAPH_BYTES = 256 * 2**20
MAX_WEIGHT_BYTES = 16 * 2**30
DROPPED_ARGUMENTS = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy"}
"""What ATen ops declare and a graph leaves out: where and how values lie is the runtime's."""
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
        # safetensors lets nobody but us read what it writes; whoever deploys may be another user.
        (folder / weights).chmod((folder / "graph.json").stat().st_mode & 0o777)
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
    if odd := not_finite(tensors):
        raise BundleError(
            f"{folder / weights} holds NaN or infinite numbers in {odd!r}; train the model again"
        )
    return Bundle(graph, tensors)


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """The name of the first tensor that holds NaN or an infinite number, or ""."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), "")


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
        wanted = {a.name: str(a.real_type) for a in _arguments(node.op) if a.name not in DROPPED_ARGUMENTS}
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
