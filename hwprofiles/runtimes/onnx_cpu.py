"""ONNX Runtime on this machine's CPU: which kernel it picks for an operator, and that kernel run alone.

At its highest optimisation level ONNX Runtime keeps activations in blocks of 8 or 16 channels (NCHWc), folds
batch norm into the convolution before it, and runs a following sum and activation in the same kernel. The
rule, read from optimised graphs of ONNX Runtime 1.31 and held by a test that reads them again:

    conv2d, below one block of input channels      conv2d_from_nchw       output channels padded to blocks
    conv2d, input channels a multiple of 4         conv2d_nchwc           input and output padded to blocks
    conv2d, any other input channels               conv2d_nchw            nothing padded, and slower
    grouped conv2d, whole blocks in every group    conv2d_nchwc           else conv2d_nchw
    depthwise_conv2d, a multiple of 4              depthwise_conv2d_nchwc padded, else depthwise_conv2d_nchw
    pools, whole blocks                            …_nchwc                else …_nchw
    everything else                                as it is

Reordering a tensor between the two layouts is not part of any operator: whether it happens depends on the
neighbours. Calibration on whole networks carries what little of it there is among aligned widths.

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
from hwprofiles.errors import RequestError, UnsupportedOpError, nearest
from hwprofiles.files import FORMAT
from hwprofiles.ops import OpSpec

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
_KINDS = (
    "conv2d",
    "depthwise_conv2d",
    "max_pool2d",
    "avg_pool2d",
    "linear",
    "matmul",
    "attention",
    "layer_norm",
    "softmax",
    "batch_norm",
    "elementwise",
    "copy",
    "call",
)
_LOWERED = {f"{kind}_{layout}" for kind in _KINDS[:4] for layout in ("nchwc", "nchw")} | {"conv2d_from_nchw"}


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
            versions={"onnxruntime": ort.__version__, "profile": str(FORMAT)},
        )

    def canon(self, spec: OpSpec) -> OpSpec:
        if spec.kind in _LOWERED:
            return spec
        if spec.kind not in _KINDS:
            raise UnsupportedOpError(f"onnxruntime has no rule for {spec}; {nearest(spec.kind, _KINDS)}")
        if _folds_batch_norm(spec):
            spec = replace(spec, fused=spec.fused[1:])
        if spec.kind == "conv2d":
            return self._conv2d(spec)
        if spec.kind in ("linear", "matmul", "call"):
            return spec
        channels = spec.out_channels
        if spec.kind == "attention":  # only whole heads exist
            channels = -(-channels // spec.kernel[0]) * spec.kernel[0]
        if spec.kind == "depthwise_conv2d" and self.block > 1 and channels % _ALIGNED == 0:
            return _lowered(spec, "nchwc", self._pad(channels), self._pad(channels))
        if spec.kind in ("max_pool2d", "avg_pool2d") and self.block > 1 and channels % self.block == 0:
            return _lowered(spec, "nchwc", channels, channels)
        if spec.kind in ("depthwise_conv2d", "max_pool2d", "avg_pool2d"):
            return _lowered(spec, "nchw", channels, channels)
        return spec.with_channels(channels, channels)

    def _conv2d(self, spec: OpSpec) -> OpSpec:
        inputs, outputs = spec.in_channels, spec.out_channels
        if self.block == 1:
            return _lowered(spec, "nchw", inputs, outputs)
        if spec.groups > 1:
            whole = inputs // spec.groups % self.block == 0 and outputs // spec.groups % self.block == 0
            return _lowered(spec, "nchwc" if whole else "nchw", inputs, outputs)
        if inputs < self.block:
            return _lowered(spec, "from_nchw", inputs, self._pad(outputs))
        if inputs % _ALIGNED == 0:
            return _lowered(spec, "nchwc", self._pad(inputs), self._pad(outputs))
        return _lowered(spec, "nchw", inputs, outputs)

    def _pad(self, channels: int) -> int:
        return -(-channels // self.block) * self.block

    def prepare_operator(self, spec: OpSpec, device: Device) -> Callable[[], None]:
        spec = self.canon(spec)
        sketch = _Sketch()
        if spec.kind.endswith(("_nchwc", "_from_nchw")):
            # The graph is already what the optimiser would make of it; left to it, it would add reorders.
            level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            _draw_blocked(sketch, spec, device.batch)
        else:
            # One level below the highest fuses everything but leaves the layout alone.
            level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            _draw_plain(sketch, spec, device.batch)
        session = _session(sketch.model().SerializeToString(), device.threads, level)
        return _bound(session, sketch.inputs)

    def prepare_network(self, onnx_path: Path, device: Device) -> Callable[[], None]:
        session = _load(onnx_path, device.threads)
        return _bound(
            session, {put.name: _declared(put, device.batch, onnx_path) for put in session.get_inputs()}
        )


def open_runtime() -> OnnxRuntimeCpu:
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


def _draw_blocked(sketch: _Sketch, spec: OpSpec, batch: int) -> None:
    """A kernel on blocked activations; its channels are padded already."""
    x = sketch.input(*_input_shape(spec, batch))
    rest = list(spec.fused)
    if "pool2d" in spec.kind:
        value = sketch.node(_pool(spec), x, domain=_NCHWC, **_window(spec))
    else:
        groups = spec.groups or spec.in_channels
        weight = sketch.weight(spec.out_channels, spec.in_channels // groups, *spec.kernel)
        inputs = [x, weight, sketch.weight(spec.out_channels)]
        attributes: dict[str, Any] = {**_window(spec), "dilations": spec.dilation, "group": groups}
        if rest[:1] == ["add"]:
            inputs.append(sketch.input(*_output_shape(spec, batch)))
            rest.pop(0)
        if rest and rest[0] in _ACTIVATIONS:
            attributes["activation"], parameters = _ACTIVATIONS[rest.pop(0)]
            if parameters:
                attributes["activation_params"] = parameters
        value = sketch.node("Conv", *inputs, domain=_NCHWC, **attributes)
    _draw_epilogue(sketch, value, rest, _output_shape(spec, batch))


def _draw_plain(sketch: _Sketch, spec: OpSpec, batch: int) -> None:
    """An operator as an exported network has it, for ONNX Runtime to fuse."""
    kind, inputs, outputs = spec.kind, spec.in_channels, spec.out_channels
    value = sketch.input(*_input_shape(spec, batch))
    fused = spec.fused
    if "conv2d" in kind:
        groups = spec.groups or inputs
        weight = sketch.weight(outputs, inputs // groups, *spec.kernel)
        window = {**_window(spec), "dilations": spec.dilation, "group": groups}
        value = sketch.node("Conv", value, weight, sketch.weight(outputs), **window)
    elif "pool2d" in kind:
        value = sketch.node(_pool(spec), value, **_window(spec))
    elif kind == "linear":
        value = sketch.node("Gemm", value, sketch.weight(inputs, outputs), sketch.weight(outputs))
    elif kind == "matmul":
        value = sketch.node("MatMul", value, sketch.input(batch, inputs, spec.in_size[1], spec.out_size[1]))
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
        value, fused = sketch.node("Identity", value), ()
    else:
        value = sketch.node("Relu", value)
    _draw_epilogue(sketch, value, fused, _output_shape(spec, batch))


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
        else:
            op = _POINTWISE.get(name, "Add")
            value = sketch.node(op, value, *([sketch.input(*shape)] if op in _BINARY else []))


def _input_shape(spec: OpSpec, batch: int) -> tuple[int, ...]:
    """Channels second where there are two spatial axes, and last otherwise."""
    if spec.kind == "linear":
        return (batch * math.prod(spec.in_size), spec.in_channels)
    if spec.kind == "attention":
        (width,), (queries, _) = spec.kernel, spec.in_size
        return (batch, spec.in_channels // width, queries, width)
    if len(spec.in_size) == 2:
        return (batch, spec.in_channels, *spec.in_size)
    return (batch, *spec.in_size, spec.in_channels)


def _output_shape(spec: OpSpec, batch: int) -> tuple[int, ...]:
    if spec.kind == "linear":
        return (batch * math.prod(spec.in_size), spec.out_channels)
    if "2d" in spec.kind or spec.kind == "matmul":
        return (batch, spec.out_channels, *spec.out_size)
    return _input_shape(spec, batch)


def _pool(spec: OpSpec) -> str:
    if spec.kind.startswith("max"):
        return "MaxPool"
    return "GlobalAveragePool" if _is_global(spec) else "AveragePool"


def _is_global(spec: OpSpec) -> bool:
    return spec.kind.startswith("avg_pool2d") and spec.out_size == (1, 1)


def _window(spec: OpSpec) -> dict[str, Any]:
    if _is_global(spec):
        return {}
    return {"kernel_shape": spec.kernel, "strides": spec.stride, "pads": spec.padding}


def _lowered(spec: OpSpec, layout: str, in_channels: int, out_channels: int) -> OpSpec:
    return replace(spec, kind=f"{spec.kind}_{layout}", in_channels=in_channels, out_channels=out_channels)


def _folds_batch_norm(spec: OpSpec) -> bool:
    """Whether a batch norm right behind the operator disappears into its weights."""
    return spec.kind in ("conv2d", "depthwise_conv2d", "linear") and spec.fused[:1] == ("batch_norm",)


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


def _declared(put: ort.NodeArg, batch: int, onnx_path: Path) -> NDArray[Any]:
    """Random values of an input's declared shape; integers are 0 or 1, which any vocabulary has."""
    first, *others = put.shape
    if not all(isinstance(size, int) for size in others):
        raise RequestError(
            f"input {put.name!r} of {onnx_path} has shape {put.shape}; only the first axis, the batch, may "
            "be open: export it with fixed sizes"
        )
    shape = (first if isinstance(first, int) else batch, *others)
    generator = np.random.default_rng(0)
    if put.type == "tensor(float)":
        return generator.standard_normal(shape, dtype=np.float32)
    if put.type in ("tensor(int64)", "tensor(int32)", "tensor(bool)"):
        return generator.integers(0, 2, shape).astype(put.type.removeprefix("tensor(").removesuffix(")"))
    raise RequestError(
        f"input {put.name!r} of {onnx_path} is a {put.type}; allowed: float, int64, int32, bool"
    )


def _cpu_name() -> str:
    """The CPU's model name and instruction set, such as "AMD EPYC (x86_64)"."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()
