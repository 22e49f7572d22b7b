"""ONNX Runtime on this machine's CPU: which kernels it makes of an operator, and each kernel run alone.

At its highest optimisation level ONNX Runtime folds batch norm into the convolution before it, runs a
following sum and activation in the same kernel, and keeps activations in blocks of 8 or 16 channels (NCHWc).
The rules, read from optimised graphs of ONNX Runtime 1.31 and held by tests that read them again:

    conv2d, below one block of input channels      conv2d_from_nchw       output channels padded to blocks
    conv2d, input channels a multiple of 4         conv2d_nchwc           input and output padded to blocks
    conv2d, any other input channels               conv2d_nchw            nothing padded, and slower
    grouped conv2d, whole blocks in every group    conv2d_nchwc           else conv2d_nchw
    depthwise_conv2d, a multiple of 4              depthwise_conv2d_nchwc padded, else depthwise_conv2d_nchw
    max_pool2d and avg_pool2d, whole blocks        …_nchwc
    batch_norm behind a blocked kernel             depthwise_conv2d_nchwc of 1x1
    sums and the functions in `_BLOCKED`           on blocks where all that they read lies in blocks
    concatenation                                  on blocks where all that it reads lies in whole blocks
    everything else                                as it is

Whoever wants plain memory behind a blocked kernel, or the other way round, pays for a `reorder`: one width
off the grid costs more than its own layer. A sum is part of a blocked convolution only where the other
summand lies in blocks, too; an activation behind it only if it is in `_FUSED_WITH_SUM`.

An elementwise operator that has no line in `_POINTWISE` is timed as an addition, which reads two tensors and
writes one; a `copy` as one copy of its result.
"""

from __future__ import annotations

import math
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.device import Device
from hwprofiles.errors import RequestError
from hwprofiles.files import FORMAT
from hwprofiles.ops import OpGraph, OpSpec, Size
from hwprofiles.runtimes.onnx_inputs import network_inputs, read_network
from hwprofiles.runtimes.protocol import PLAIN, Lowered
from hwprofiles.runtimes.rules import check_known, fold_batch_norm, up_to, whole_heads

_NCHWC = "com.microsoft.nchwc"
_OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid(_NCHWC, 1)]
_IR_VERSION = 10
_ALIGNED = 4  # the NCHWc convolution reads input channels in fours

# What a convolution kernel can apply to its own output: ONNX activation and its parameters.
_ACTIVATIONS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "relu": ("Relu", ()),
    "relu6": ("Clip", (0.0, 6.0)),
    "hardtanh": ("Clip", (0.0, 6.0)),
    "sigmoid": ("Sigmoid", ()),
    "tanh": ("Tanh", ()),
    "leaky_relu": ("LeakyRelu", (0.01,)),
    "hardsigmoid": ("HardSigmoid", (1 / 6, 0.5)),
    "hardswish": ("HardSwish", ()),
}
# One ONNX operator each, of one input unless it is named in _BINARY.
_POINTWISE = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "leaky_relu": "LeakyRelu",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "gelu": "Gelu",
    "elu": "Elu",
    "softplus": "Softplus",
    "mish": "Mish",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "maximum": "Max",
    "minimum": "Min",
}
_BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min"}
_FUSED_WITH_SUM = {"relu", "sigmoid", "tanh", "hardsigmoid", "hardswish"}
_BLOCKED = {*_FUSED_WITH_SUM, "add", "silu", "gelu"}
"""What leaves blocked tensors as they lie; `mul` is not among them, as most often it is a gate's."""
# Layouts: blocks of channels, the last of them filled up with zeros or not.
_PADDED, _WHOLE = "padded blocks", "whole blocks"


class OnnxRuntimeCpu:
    """`Runtime` of ONNX Runtime's CPU provider in fp32, with denormals as zero."""

    @cached_property
    def block(self) -> int:
        """Channels in a block on this CPU (16 with AVX-512, 8 with AVX2); 1 where layouts are not blocked.

        Found by letting ONNX Runtime optimise a convolution of 4 filters and counting what it made of them.
        """
        sketch = _Sketch()
        sketch.node("Conv", sketch.input(1, 4, 4, 4), sketch.weight(4, 4, 1, 1), kernel_shape=(1, 1))
        graph = optimised_graph(sketch.model())
        filters = {tensor.name: tensor.dims[0] for tensor in graph.initializer}
        blocked = [node for node in graph.node if node.domain == _NCHWC and node.op_type == "Conv"]
        return filters[blocked[0].input[1]] if blocked else 1

    def describe(self, *, name: str, batch: int, threads: int) -> Device:
        return Device(
            name=name,
            runtime="onnxruntime",
            board=_cpu_name(),
            batch=batch,
            threads=threads,
            channel_step=self.block,
            cache_mb=_cache_mb(),
            versions={"onnxruntime": ort.__version__, "profile": str(FORMAT)},
        )

    layouts = (PLAIN, _PADDED, _WHOLE)

    def lower(self, spec: OpSpec, layout: str) -> Lowered:
        check_known(spec, "onnxruntime")
        spec = fold_batch_norm(spec)
        channels = spec.out_channels
        match spec.kind:
            case "conv2d" | "depthwise_conv2d":
                return self._convolution(spec, layout)
            case "max_pool2d" | "avg_pool2d" if self._lies(channels) == _WHOLE:
                return Lowered((_kernel(spec, "nchwc", channels, channels),), PLAIN, _WHOLE, _WHOLE)
            case "batch_norm" if layout != PLAIN:
                kernel = _kernel(_as_convolution(spec), "nchwc", self._pad(channels), self._pad(channels))
                return Lowered((kernel,), PLAIN, layout, self._lies(channels))
            case "elementwise" if layout != PLAIN and _BLOCKED.issuperset(spec.fused):
                padded = self._pad(channels)
                return Lowered((spec.with_channels(padded, padded),), PLAIN, layout, layout)
            case "copy" if layout == _WHOLE and spec.fused == ("cat",):
                return Lowered((spec,), PLAIN, _WHOLE, _WHOLE)
        return Lowered((whole_heads(spec),))

    def reorder(self, channels: int, size: Size, layout: str) -> OpSpec:
        kind = "reorder_output" if layout == PLAIN else "reorder_input"
        if layout != PLAIN:
            channels = up_to(channels, _ALIGNED)  # whoever reads blocks has no other counts
        return OpSpec(kind=kind, in_channels=channels, out_channels=channels, in_size=size, out_size=size)

    def _convolution(self, spec: OpSpec, layout: str) -> Lowered:
        inputs, outputs = spec.in_channels, spec.out_channels
        read, how = self._blocked(spec)
        if not how:
            return Lowered((_kernel(spec, "nchw", inputs, outputs),))
        inside, behind = _split_epilogue(spec.fused, adds=layout != PLAIN)
        lies, size = self._lies(outputs), spec.result_size
        kernel = replace(spec, fused=inside)
        kernels = [
            _kernel(kernel, how, inputs if how == "from_nchw" else self._pad(inputs), self._pad(outputs))
        ]
        for name in behind:
            if lies != PLAIN and (name not in _BLOCKED or name == "add"):
                kernels.append(self.reorder(outputs, size, PLAIN))
                lies = PLAIN
            count = outputs if lies == PLAIN else self._pad(outputs)
            kernels.append(
                OpSpec(
                    kind="elementwise",
                    in_channels=count,
                    out_channels=count,
                    in_size=size,
                    out_size=size,
                    fused=(name,),
                )
            )
        return Lowered(tuple(kernels), read, PLAIN if "add" in behind else layout, lies)

    def _blocked(self, spec: OpSpec) -> tuple[str, str]:
        """The layout that a convolution reads, and its blocked kernel; "" if it has none for its channels."""
        inputs, outputs = spec.in_channels, spec.out_channels
        if self.block == 1:
            return PLAIN, ""
        if spec.kind == "depthwise_conv2d":
            return (_WHOLE, "nchwc") if outputs % _ALIGNED == 0 else (PLAIN, "")
        if spec.groups > 1:
            whole = inputs // spec.groups % self.block == 0 and outputs // spec.groups % self.block == 0
            return (_WHOLE, "nchwc") if whole else (PLAIN, "")
        if inputs < self.block:
            return PLAIN, "from_nchw"
        return (_WHOLE, "nchwc") if inputs % _ALIGNED == 0 else (PLAIN, "")

    def _lies(self, channels: int) -> str:
        return PLAIN if self.block == 1 else _PADDED if channels % self.block else _WHOLE

    def _pad(self, channels: int) -> int:
        return up_to(channels, self.block)

    def prepare_kernel(self, kernel: OpSpec, device: Device) -> Callable[[], None]:
        if kernel.kind.endswith(("_nchwc", "_from_nchw")) or kernel.kind.startswith("reorder"):
            # The graph is already what the optimiser would make of it; left to it, it would add reorders.
            level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            sketch = _draw_blocked(kernel, device.batch, self._pad(kernel.in_channels))
        else:
            # One level below the highest fuses everything but leaves the layout alone.
            level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            sketch = _draw_plain(kernel, device.batch)
        session = _session(sketch.model().SerializeToString(), device.threads, level)
        return _bound(session, sketch.inputs)

    def prepare_network(self, onnx_path: Path, graph: OpGraph, device: Device) -> Callable[[], None]:
        session = _load(onnx_path, device.threads)
        return _bound(session, network_inputs(read_network(onnx_path), str(onnx_path), device.batch))


def open_runtime(precision: str) -> OnnxRuntimeCpu:
    return OnnxRuntimeCpu()


def run_onnx(onnx_path: Path, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a network once, optimised as far as it is when it is measured; returns its outputs in order.

    Raises:
        RequestError: the file does not load, or its inputs are not those of `feeds`.
    """
    session = _load(onnx_path, threads=1)
    try:
        return list(session.run(None, dict(feeds)))
    except Exception as error:  # as in _load
        raise RequestError(f"onnxruntime cannot run {onnx_path}: {error}; export it again") from error


def layer_model(spec: OpSpec, batch: int) -> onnx.ModelProto:
    """Return one operator as a network of its own, as an exporter would write it."""
    return _draw_plain(spec, batch).model()


def optimised_graph(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the graph that ONNX Runtime runs for `model` on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3  # it warns that such a file suits only this CPU, which is the point
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path).graph


class _Sketch:
    """A small ONNX model under construction; the last node's output is the model's."""

    def __init__(self) -> None:
        self.inputs: dict[str, NDArray[Any]] = {}
        self._weights: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._random = np.random.default_rng(0)

    def input(self, *shape: int) -> str:
        name = f"input{len(self.inputs)}"
        self.inputs[name] = self._random.standard_normal(shape, dtype=np.float32)
        return name

    def weight(self, *shape: int) -> str:
        """Positive values that keep sums near 1, so that no kernel meets infinities or denormals."""
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(self._random.uniform(0.5, 1.5, shape).astype(np.float32) / fan_in)

    def constant(self, values: NDArray[Any]) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        output = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], domain=domain, **attributes))
        return output

    def model(self) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in self.inputs.items()
        ]
        output = helper.make_tensor_value_info(self._nodes[-1].output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "operator", inputs, [output], self._weights)
        return helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)


def _draw_blocked(spec: OpSpec, batch: int, padded: int) -> _Sketch:
    """A kernel on blocked activations. Its channels are padded already, unless it is one that pads."""
    sketch = _Sketch()
    if spec.kind == "reorder_output":
        blocks = sketch.input(batch, padded, *spec.in_size)
        sketch.node("ReorderOutput", blocks, domain=_NCHWC, channels=spec.out_channels)
        return sketch
    x = sketch.input(*_input_shape(spec, batch))
    if spec.kind == "reorder_input":
        sketch.node("ReorderInput", x, domain=_NCHWC)
    elif "pool2d" in spec.kind:
        sketch.node(_pool(spec), x, domain=_NCHWC, **_window(spec))
    else:
        groups = spec.groups or spec.in_channels
        weight = sketch.weight(spec.out_channels, spec.in_channels // groups, *spec.kernel)
        inputs = [x, weight, sketch.weight(spec.out_channels)]
        attributes: dict[str, Any] = {**_window(spec), "dilations": spec.dilation, "group": groups}
        for name in spec.fused:
            if name == "add":
                inputs.append(sketch.input(*_output_shape(spec, batch)))
            else:
                attributes["activation"], parameters = _ACTIVATIONS[name]
                if parameters:
                    attributes["activation_params"] = parameters
        sketch.node("Conv", *inputs, domain=_NCHWC, **attributes)
    return sketch


def _draw_plain(spec: OpSpec, batch: int) -> _Sketch:
    """An operator as an exported network has it, for ONNX Runtime to fuse."""
    sketch = _Sketch()
    kind, inputs, outputs = spec.kind, spec.in_channels, spec.out_channels
    value = sketch.input(*_input_shape(spec, batch))
    fused = spec.fused
    if "conv2d" in kind:
        groups = spec.groups or inputs
        weight = sketch.weight(outputs, inputs // groups, *spec.kernel)
        window = {**_window(spec), "dilations": spec.dilation, "group": groups}
        value = sketch.node("Conv", value, weight, sketch.weight(outputs), **window)
    elif kind == "mean2d":
        value = sketch.node("ReduceMean", value, sketch.constant(np.array([2, 3])), keepdims=1)
    elif "pool2d" in kind:
        value = sketch.node(_pool(spec), value, **_window(spec))
    elif kind == "linear":
        value = _draw_linear(sketch, value, spec)
    elif kind == "matmul":
        value = sketch.node("MatMul", value, sketch.input(batch, inputs, spec.in_size[1], spec.out_size[1]))
        for name in fused:  # by a number, which ONNX Runtime makes part of the product
            value = sketch.node(_POINTWISE[name], value, sketch.constant(np.array(2.0, dtype=np.float32)))
        fused = ()
    elif kind == "attention":
        value = _draw_attention(sketch, value, spec, batch)
    elif kind == "layer_norm":
        value = sketch.node("LayerNormalization", value, sketch.weight(inputs), sketch.weight(inputs))
    elif kind == "batch_norm":
        value = sketch.node("BatchNormalization", value, *(sketch.weight(inputs) for _ in range(4)))
    elif kind == "softmax":
        value = sketch.node("Softmax", value)
    elif kind == "elementwise":
        fused = spec.fused or ("add",)
    elif kind == "copy":
        value, fused = _draw_copy(sketch, value, spec), ()
    else:
        value = sketch.node("Relu", value)
    _draw_epilogue(sketch, value, fused, _output_shape(spec, batch))
    return sketch


def _draw_linear(sketch: _Sketch, value: str, spec: OpSpec) -> str:
    """Of one vector a Gemm; of several, as exporters write it, a product and a sum."""
    weight, bias = sketch.weight(spec.in_channels, spec.out_channels), sketch.weight(spec.out_channels)
    if math.prod(spec.in_size) == 1:
        return sketch.node("Gemm", value, weight, bias)
    return sketch.node("Add", sketch.node("MatMul", value, weight), bias)


def _draw_copy(sketch: _Sketch, value: str, spec: OpSpec) -> str:
    """Of tokens and heads that change places, as attention has it, a transposition; else a plain copy."""
    if spec.fused == ("transpose",) and len(spec.in_size) == 2:
        return sketch.node("Transpose", value, perm=(0, 2, 1, 3))
    return sketch.node("Identity", value)


def _draw_attention(sketch: _Sketch, query: str, spec: OpSpec, batch: int) -> str:
    (width,), (_, keys) = spec.kernel, spec.in_size
    heads = spec.in_channels // width
    scores = sketch.node("MatMul", query, sketch.input(batch, heads, width, keys))
    scaled = sketch.node("Mul", scores, sketch.constant(np.array(width**-0.5, dtype=np.float32)))
    return sketch.node("MatMul", sketch.node("Softmax", scaled), sketch.input(batch, heads, keys, width))


def _draw_epilogue(sketch: _Sketch, value: str, names: Sequence[str], shape: tuple[int, ...]) -> None:
    """Append what follows an operator whose output has `shape`."""
    for name in names:
        if name == "silu":
            value = sketch.node("Mul", value, sketch.node("Sigmoid", value))
        elif name in ("relu6", "hardtanh", "clamp"):
            limits = (sketch.constant(np.array(limit, dtype=np.float32)) for limit in (0.0, 6.0))
            value = sketch.node("Clip", value, *limits)
        elif name == "batch_norm":
            value = sketch.node("BatchNormalization", value, *(sketch.weight(shape[1]) for _ in range(4)))
        elif name == "layer_norm":
            value = sketch.node(
                "LayerNormalization", value, sketch.weight(shape[-1]), sketch.weight(shape[-1])
            )
        else:
            op = _POINTWISE.get(name, "Add")
            value = sketch.node(op, value, *([sketch.input(*shape)] if op in _BINARY else []))


def _input_shape(spec: OpSpec, batch: int) -> tuple[int, ...]:
    """Channels second where there are two spatial axes, and last otherwise."""
    if spec.kind == "linear":
        return _vectors(spec, batch, spec.in_channels)
    if spec.kind == "attention":
        (width,), (queries, _) = spec.kernel, spec.in_size
        return (batch, spec.in_channels // width, queries, width)
    if len(spec.in_size) == 2:
        return (batch, spec.in_channels, *spec.in_size)
    return (batch, *spec.in_size, spec.in_channels)


def _output_shape(spec: OpSpec, batch: int) -> tuple[int, ...]:
    if spec.kind == "linear":
        return _vectors(spec, batch, spec.out_channels)
    if "2d" in spec.kind or spec.kind == "matmul":
        return (batch, spec.out_channels, *spec.out_size)
    return _input_shape(spec, batch)


def _vectors(spec: OpSpec, batch: int, channels: int) -> tuple[int, ...]:
    """The shape of what a linear layer reads or writes: a vector of each sample, or rows of them."""
    rows = math.prod(spec.in_size)
    return (batch, channels) if rows == 1 else (batch, rows, channels)


def _pool(spec: OpSpec) -> str:
    return "MaxPool" if spec.kind.startswith("max") else "AveragePool"


def _window(spec: OpSpec) -> dict[str, Any]:
    return {"kernel_shape": spec.kernel, "strides": spec.stride, "pads": spec.padding}


def _kernel(spec: OpSpec, layout: str, in_channels: int, out_channels: int) -> OpSpec:
    return replace(spec, kind=f"{spec.kind}_{layout}", in_channels=in_channels, out_channels=out_channels)


def _split_epilogue(fused: tuple[str, ...], *, adds: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a blocked convolution does to its own result, and what others do behind it."""
    inside = ("add",) if fused[:1] == ("add",) and adds else ()
    behind = fused[len(inside) :]
    if behind and behind[0] in (_FUSED_WITH_SUM if inside else _ACTIVATIONS):
        return (*inside, behind[0]), behind[1:]
    return inside, behind


def _as_convolution(norm: OpSpec) -> OpSpec:
    """A batch norm as the depthwise convolution of 1x1 that it is."""
    return replace(
        norm,
        kind="depthwise_conv2d",
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0,) * 4,
        dilation=(1, 1),
        groups=0,
    )


def _load(onnx_path: Path, threads: int) -> ort.InferenceSession:
    try:
        return _session(str(onnx_path), threads, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    except Exception as error:  # onnxruntime raises a class of its own for each way to fail
        raise RequestError(
            f"onnxruntime cannot load {onnx_path}: {error}; export the network again"
        ) from error


def _session(model: str | bytes, threads: int, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = level
    # Random weights make denormals that trained ones do not have, and each costs a hundred cycles.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bound(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
    """Bind inputs and outputs to fixed memory, so that a call allocates and copies nothing."""
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
    names = [put.name for put in session.get_outputs()]
    for name, values in zip(names, session.run(names, dict(feeds)), strict=True):
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(np.empty_like(values)))
    return lambda: session.run_with_iobinding(binding)


def _cache_mb() -> float:
    """The last-level cache that this CPU's cores share; 0 where the system does not tell."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    told = [size.read_text().strip() for size in sizes]
    return max(
        (int(size[:-1]) * 1024 / 1e6 for size in told if size[:-1].isdigit() and size[-1] == "K"), default=0.0
    )


def _cpu_name() -> str:
    """The CPU's model name and instruction set, such as "AMD EPYC (x86_64)"."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()
