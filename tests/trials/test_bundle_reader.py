"""A reader believes nothing that a bundle says: every lie is a BundleError, and none of them costs much."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable, ValuesView
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hwprofiles.errors import BundleError, RequestError, UnsupportedOpError
from tests.bundles import exported
from trials.bundle import read_bundle
from trials.graph import MAX_ELEMENTS, MAX_NODES, Arg, Graph, Input, Node, Tensor, TensorSpec, Value
from trials.network import build

GRAPH, WEIGHTS, MANIFEST = "graph.json", "weights.safetensors", "manifest.json"


Json = Any


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good bundle of a small network, to be damaged."""
    exported("vgg_flatten").write(tmp_path / "model")
    return tmp_path / "model"


def sign(folder: Path) -> None:
    """Make the manifest describe the files as they are: whoever lies may sign the lie."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"] = {name: sha256((folder / name).read_bytes()).hexdigest() for name in (GRAPH, WEIGHTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def write_graph(folder: Path, text: str) -> None:
    (folder / GRAPH).write_text(text)
    sign(folder)


def edit(folder: Path, change: Callable[[Json], None]) -> None:
    graph = json.loads((folder / GRAPH).read_text())
    change(graph)
    write_graph(folder, json.dumps(graph))


def node(graph: Json, op: str) -> Json:
    """The first node of an op."""
    return next(node for node in graph["nodes"] if node["op"] == op)


def test_a_file_changed_after_export_is_refused(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"weights.safetensors is not the file .* \(sha256\)"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, MANIFEST])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(folder)


def test_another_format_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"format": 2}')
    with pytest.raises(BundleError, match="not a bundle of format 1"):
        read_bundle(folder)


def test_an_existing_folder_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(RequestError, match="exists already"):
        exported("vgg_flatten").write(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    sign(folder)
    with pytest.raises(BundleError, match="not a safetensors file"):
        read_bundle(folder)


class Loaded:
    """What a pickle would run on loading."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Loaded, "ran", True))


@pytest.mark.parametrize("writer", [pickle.dumps, lambda value: _saved(value)], ids=["pickle", "torch.save"])
def test_a_renamed_pickle_is_refused_and_never_loaded(folder: Path, writer: Callable[[Any], bytes]) -> None:
    (folder / WEIGHTS).write_bytes(writer(Loaded()))
    sign(folder)
    with pytest.raises(BundleError, match="not a safetensors file"):
        read_bundle(folder)
    assert not Loaded.ran


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("classifier.0.weight"),
        lambda tensors: tensors.update(extra=torch.zeros(1)),
        lambda tensors: tensors.update({"features.0.bias": torch.zeros(13)}),
        lambda tensors: tensors.update({"features.0.bias": torch.zeros(12, dtype=torch.float64)}),
    ],
    ids=["one missing", "one too many", "another shape", "another dtype"],
)
def test_weights_that_disagree_with_the_graph_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    tensors = dict(exported("vgg_flatten").tensors)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(BundleError, match="graph"):
        read_bundle(folder)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(folder: Path, number: float) -> None:
    tensors = dict(exported("vgg_flatten").tensors)
    tensors["features.0.bias"] = torch.full_like(tensors["features.0.bias"], number)
    save_file(tensors, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(BundleError, match=r"NaN or infinite numbers in 'features.0.bias'"):
        read_bundle(folder)


CONV = "aten.conv2d.default"


POOL = "aten.max_pool2d.default"


VIEW = "aten.view.default"


LINEAR = "aten.linear.default"


NORM = "aten.batch_norm.default"


FLATTEN = "aten.flatten.using_ints"


def _duplicate(graph: Json) -> None:
    graph["nodes"][1]["name"] = graph["nodes"][0]["name"]


def _cycle(graph: Json) -> None:
    graph["nodes"][0]["args"]["input"] = {"value": graph["nodes"][-1]["name"]}


def _append(graph: Json, op: str, **args: Json) -> None:
    """Add a node that reads the network's first feature map and returns its own result."""
    first = {"value": graph["nodes"][0]["name"]}
    graph["nodes"].insert(1, {"name": "extra", "op": op, "args": {"self": first, **args}})
    graph["outputs"].append("extra")


REFUSED: dict[str, tuple[Callable[[Json], Any], str]] = {
    "an op off the list": (lambda g: node(g, VIEW).update(op="aten.sort.default"), "aten.sort.default"),
    "Python's os": (lambda g: node(g, VIEW).update(op="os.system"), "os.system"),
    "two nodes of one name": (_duplicate, "twice"),
    "a node that reads a later one": (_cycle, "before it exists"),
    "an unknown tensor": (lambda g: g["tensors"].pop("features.0.bias"), "unknown tensor"),
    "an unknown output": (lambda g: g["outputs"].append("nowhere"), "nowhere"),
    "no outputs": (lambda g: g["outputs"].clear(), "needs inputs and outputs"),
    "two inputs of one name": (lambda g: g["inputs"].append(g["inputs"][0]), "each input of its own name"),
    "an unknown argument": (lambda g: node(g, CONV)["args"].update(evil=1), "evil"),
    "a missing argument": (lambda g: node(g, CONV)["args"].pop("stride"), "stride"),
    "an argument of another type": (lambda g: node(g, "aten.dropout.default")["args"].update(p="x"), "'p'"),
    "no arguments at all": (lambda g: node(g, CONV).pop("args"), "KeyError"),
    "a node that is a number": (lambda g: g["nodes"].append(3), "not one of ours"),
    "a huge input": (lambda g: g["inputs"][0].update(shape=[3, 2**20, 2**20]), "elements"),
    "a shape that is no list": (
        lambda g: g["tensors"]["features.0.bias"].update(shape={}),
        "are dict, not a list",
    ),
    "an empty input": (lambda g: g["inputs"][0].update(shape=[3, 0, 16]), "sizes from 1"),
    "a huge tensor": (
        lambda g: g["tensors"]["features.0.bias"].update(shape=[2**31 + 1]),
        f"from 1 to {MAX_ELEMENTS}",
    ),
    "a tensor of nine axes": (lambda g: g["tensors"]["features.0.bias"].update(shape=[1] * 9), "at most 8"),
    "a huge padding": (lambda g: node(g, CONV)["args"].update(padding=[2**19, 2**19]), "elements"),
    "an overflowing padding": (lambda g: node(g, CONV)["args"].update(padding=[2**40, 0]), "integers from 0"),
    "no stride": (lambda g: node(g, POOL)["args"].update(stride=[0, 0]), "integers from 1"),
    "a window larger than the input": (lambda g: node(g, POOL)["args"].update(kernel_size=[99, 99]), "pool"),
    "another number of features": (
        lambda g: node(g, VIEW)["args"].update(size=[{"batch": 1}, 383]),
        "view",
    ),
    "channels that do not fit": (lambda g: node(g, CONV)["args"].update(groups=2), "channels"),
    "a huge expansion": (
        lambda g: _append(g, "aten.expand.default", size=[2**20, 12, 2**10, 16, 16], implicit=False),
        "extra",
    ),
    "a huge repetition": (
        lambda g: _append(g, "aten.repeat.default", repeats=[1, 2**30, 1, 1]),
        "too large",
    ),
    "a million parts": (lambda g: _append(g, "aten.unbind.int", dim=3) or _widen(g), "at most 4096"),
    "a huge pad": (
        lambda g: (
            _append(g, "aten.pad.default", pad=[0, 0, 0, 0, 0, 2**19], mode="constant", value=None)
            or _widen(g)
        ),
        "elements",
    ),
}


REFUSED |= {
    "a convolution's bias of four axes": (
        lambda g: node(g, CONV)["args"].update(bias={"tensor": "features.0.weight"}),
        "one number for each channel",
    ),
    "a linear layer's bias of two axes": (
        lambda g: node(g, LINEAR)["args"].update(bias={"tensor": "classifier.0.weight"}),
        "one number for each channel or feature",
    ),
    "a running mean of four axes": (
        lambda g: node(g, NORM)["args"].update(running_mean={"tensor": "features.3.weight"}),
        "one number for each channel",
    ),
    "a running mean of another length": (
        lambda g: node(g, NORM)["args"].update(running_mean={"tensor": "features.0.bias"}),
        "12 positions on axis 0",
    ),
    "no running mean": (
        lambda g: node(g, NORM)["args"].update(running_mean=None),
        "keeps no running statistics",
    ),
    "flattening from an axis that is not there": (
        lambda g: _append(g, FLATTEN, start_dim=5, end_dim=5),
        "out of bounds",
    ),
    "flattening backwards": (lambda g: _append(g, FLATTEN, start_dim=2, end_dim=1), "from axis 2 to 1"),
    "the mean over an axis that is not there": (
        lambda g: _append(g, "aten.mean.dim", dim=[4], keepdim=False, dtype=None),
        "out of bounds",
    ),
    "a list as output": (lambda g: _append(g, "aten.chunk.default", chunks=2, dim=1), "returns the list"),
}


def _widen(graph: Json) -> None:
    graph["inputs"][0]["shape"] = [3, 16, 8192]


@pytest.mark.parametrize("lie", REFUSED)
def test_a_graph_that_lies_is_refused(folder: Path, lie: str) -> None:
    change, words = REFUSED[lie]
    edit(folder, change)
    with pytest.raises((BundleError, UnsupportedOpError), match=words):
        read_bundle(folder)


def _flatten_batch(graph: Json) -> None:
    """Make the view in front of the classifier swallow the batch, which shapes at batch 1 do not show."""
    view = node(graph, VIEW)
    view["op"], view["args"] = FLATTEN, {"self": view["args"]["self"], "start_dim": 0, "end_dim": -1}


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph["inputs"][0].update(dtype="int64"),
        lambda graph: graph["inputs"][0].update(dtype="bool"),
        _flatten_batch,
    ],
    ids=["integers into a convolution", "booleans into a convolution", "a batch that is flattened"],
)
def test_a_graph_that_reads_well_and_does_not_run_is_refused_at_its_first_run(
    folder: Path, change: Callable[[Json], Any]
) -> None:
    edit(folder, change)
    bundle = read_bundle(folder)
    with pytest.raises(BundleError, match=r"^the bundle's network does not run: .*; export the model again$"):
        bundle.run(torch.zeros(2, 3, 16, 16).to(getattr(torch, bundle.graph.inputs[0].dtype)))


def test_a_chain_of_norms_is_built_in_steps_that_grow_with_its_length() -> None:
    def arguments_read(length: int) -> int:
        read = 0

        class Counted(dict[str, Arg]):
            def values(self) -> ValuesView[Arg]:
                nonlocal read
                read += 1
                return super().values()

        kinds = ("weight", "bias", "running_mean", "running_var")
        held = {kind: Tensor(f"norm.{kind}") for kind in kinds}
        settings: dict[str, Arg] = {"training": True, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False}
        nodes = tuple(
            Node(f"v{k + 1}", NORM, Counted({"input": Value(f"v{k}"), **held, **settings}))
            for k in range(length)
        )
        tensors = {f"norm.{kind}": TensorSpec(shape=(2,), dtype="float32", trainable=False) for kind in kinds}
        graph = Graph(
            inputs=(Input(name="v0", shape=(2, 4, 4)),),
            nodes=nodes,
            outputs=(Value(f"v{length}"),),
            tensors=tensors,
        )
        build(graph, {name: torch.ones(2) for name in tensors})
        return read

    assert arguments_read(40) == 2 * arguments_read(20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", "not JSON"),
        ("[" * 100_000 + "]" * 100_000, "not JSON"),
        ("[]", "not one of ours"),
        ("9" * 10_000, "not JSON"),
        ('{"inputs": 1}', "not a list"),
    ],
    ids=["half a list", "deep nesting", "a list", "an endless number", "inputs that are a number"],
)
def test_a_graph_file_that_holds_something_else_is_refused(folder: Path, text: str, words: str) -> None:
    write_graph(folder, text)
    with pytest.raises(BundleError, match=words):
        read_bundle(folder)


@pytest.mark.parametrize("literal", ["NaN", "1e999", "[[[[[[1]]]]]]", '{"float": "nan"}', str(2**50)])
def test_literals_that_no_op_needs_are_refused(folder: Path, literal: str) -> None:
    text = (folder / GRAPH).read_text()
    write_graph(folder, text.replace('"momentum":0.1', f'"momentum":{literal}'))
    with pytest.raises(BundleError, match=r"literal|nests"):
        read_bundle(folder)


def test_a_million_nodes_are_refused_by_their_number(folder: Path) -> None:
    edit(folder, lambda graph: graph["nodes"].extend([None] * 1_000_000))
    with pytest.raises(BundleError, match=f"at most {MAX_NODES}"):
        read_bundle(folder)


def test_a_tensor_may_not_hide_what_a_module_needs(folder: Path) -> None:
    text = (folder / GRAPH).read_text().replace("features.0.", "forward.0.")
    tensors = {
        name.replace("features.0.", "forward.0."): tensor
        for name, tensor in exported("vgg_flatten").tensors.items()
    }
    save_file(tensors, folder / WEIGHTS)
    write_graph(folder, text)
    with pytest.raises(BundleError, match="hides an attribute"):
        read_bundle(folder).network()
