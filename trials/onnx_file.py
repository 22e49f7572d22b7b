"""A graph and its tensors as an ONNX file with a free batch, through torch's own exporter."""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_weights

from hwprofiles.errors import RequestError
from trials.folding import NORM_TENSORS, TRANSPOSED, bias_name, by_division, by_factors, foldable
from trials.graph import Graph, Node, Tensor, TensorSpec
from trials.network import Network, build
from trials.proof import example_inputs

if TYPE_CHECKING:
    import onnx_ir
    from torch.onnx._internal.exporter import _registration

OPSET = 20


def write_onnx(graph: Graph, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write the network in eval mode; inputs keep their names, and axis 0 of each is called "batch".

    Whatever stood at `path` is replaced once the new file is whole. Weights too large for one ONNX file
    (2 GB) go beside it, into `path` + ".data".

    Raises:
        RequestError: the exporter cannot express the network; its reason is quoted.
    """
    graph, tensors = fold_batch_norms(by_division(by_factors(graph)), tensors)
    graph = replace(graph, nodes=tuple(map(_mean_of_all, graph.nodes)))
    try:
        with _undisturbed():
            program = _translate(graph, tensors)
    except Exception as error:  # the exporter has a class for each of its steps, and lets others through
        cause: BaseException = error
        while cause.__cause__:  # around it come advice to the exporter's authors, and colours for a terminal
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise RequestError(f"the network cannot be written as ONNX: {reason[:300]}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        program.save(Path(folder) / path.name)
        for part in sorted(Path(folder).iterdir(), reverse=True):  # the data before the file that names it
            part.replace(path.parent / part.name)


def fold_batch_norms(
    graph: Graph, tensors: Mapping[str, torch.Tensor]
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Put every batch norm that follows a convolution into its weights: the same network in eval mode.

    The exporter folds them too, but only after it has traced each of them several times, which is a third of
    its work. Tensors that nothing reads any more are left out.
    """
    nodes, folded = {node.name: node for node in graph.nodes}, dict(tensors)
    for norm, convolution in foldable(graph):
        weight, bias = convolution["weight"].name, bias_name(convolution)
        old_bias = None if convolution["bias"] is None else tensors[bias]
        mean, variance, scale, shift = (tensors[norm[argument].name] for argument in NORM_TENSORS)
        fused = fuse_conv_bn_weights(
            tensors[weight],
            old_bias,
            mean,
            variance,
            norm["eps"],
            scale,
            shift,
            transpose=convolution.op == TRANSPOSED,
        )
        folded[weight], folded[bias] = (tensor.detach() for tensor in fused)
        # The convolution takes the norm's place and name, so that nothing behind it changes.
        del nodes[convolution.name]
        nodes[norm.name] = Node(norm.name, convolution.op, {**convolution.args, "bias": Tensor(bias)})
    read = dict.fromkeys(name for node in nodes.values() for name in node.tensors)
    folded = {name: folded[name] for name in read}
    specs = {
        name: TensorSpec(
            shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."), trainable=False
        )
        for name, tensor in folded.items()
    }
    return replace(graph, nodes=tuple(nodes.values()), tensors=specs), folded


def _mean_of_all(node: Node) -> Node:
    """An average over the whole image as a mean, which the exporter writes without decomposing anything."""
    if node.op == "aten.adaptive_avg_pool2d.default" and tuple(node["output_size"]) == (1, 1):
        args = {"self": node["self"], "dim": (-1, -2), "keepdim": True, "dtype": None}
        return Node(node.name, "aten.mean.dim", args)
    return node


def _translate(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> torch.onnx.ONNXProgram:
    """What `torch.onnx.export` does, but for its registry, of which it makes another in each call."""
    from torch.onnx._internal.exporter import _core  # slow to import, and not needed where nothing is written

    network, inputs = _Bare(build(graph, tensors).eval()), example_inputs(graph, 2, seed=0)
    free = {0: torch.export.Dim("batch", min=1, max=2**16)}
    exported = torch.export.export(network, inputs, dynamic_shapes=((free,) * len(inputs),))
    if all(_is_written(node.target) for node in exported.graph.nodes if node.op == "call_function"):
        # To decompose ops traces the network twice more, over half of all work, and none needs it.
        exported.run_decompositions = lambda table: exported
    program = _core.export(
        exported,
        (),
        registry=_registry(),
        input_names=[item.name for item in graph.inputs],
        opset_version=OPSET,
        verbose=False,
    )
    program._rename_dynamic_axes((({0: "batch"},) * len(inputs),))
    _name_as_the_user_does(program.model.graph)
    _drop_remarks(program.model)
    return program


def _name_as_the_user_does(graph: onnx_ir.Graph) -> None:
    """Take the level of `_Bare` off the names of tensors, but where something else is called so."""
    computed = (value for node in graph for value in node.outputs)
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values(), *computed)}
    for tensor in tuple(graph.initializers.values()):
        name = (tensor.name or "").removeprefix("model.")
        if name not in taken:
            tensor.name = name


def _drop_remarks(model: onnx_ir.Model) -> None:
    """Take off what the exporter remarks on every node: a kilobyte each, with paths of this machine."""
    computed = (value for node in model.graph for value in node.outputs)
    values = (*model.graph.inputs, *model.graph.initializers.values(), *computed)
    for each in (model, model.graph, *model.graph, *values):
        each.metadata_props.clear()


class _Bare(nn.Module):
    """A network one level down and without attributes of ours.

    At the top torch's exporter has attributes of its own, and would take either for what the user calls so.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = nn.Module()
        # The very same, so that what the exporter puts in place of tensors is what the network runs on.
        self.model._parameters, self.model._buffers = network._parameters, network._buffers
        self.model._modules = network._modules
        self.forward = network.forward


def _is_written(target: object) -> bool:
    """Whether the exporter writes an op as it stands, instead of what it decomposes into."""
    # What else there is, Python computes: items of a list, and sizes. No op of ours changes its arguments.
    return not isinstance(target, torch._ops.OpOverload) or _registry().is_registered(target)


@cache
def _registry() -> _registration.ONNXRegistry:
    """How each ATen op is written in ONNX: 500 functions, a third of a second to collect."""
    from torch.onnx._internal.exporter import _registration

    _registration.logger.disabled = True  # it reports every optional package that is not installed
    try:
        return _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    finally:
        _registration.logger.disabled = False


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No gradients, no warnings about torch's own code, no garbage collection.

    An export makes a million objects that are all alive at once; looking through them for garbage again and
    again takes a fifth of its time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collecting:
            gc.enable()
