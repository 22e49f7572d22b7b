"""TensorRT 10 and 11: what is asked of them, held against what their bindings know, and what they tell."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hwprofiles import OpSpec
from hwprofiles.errors import RequestError
from hwprofiles.runtimes import PLAIN
from hwprofiles.runtimes.tensorrt_gpu import TensorRt
from tests.contracts.runtime import IDENTITY, RuntimeContract, conv, save_identity, square
from tests.hwprofiles import fake_tensorrt as fake
from tests.hwprofiles.fake_tensorrt import KNOWN, REMOVED_IN_11, FakeGpu

VERSIONS = ("10.13.3.9", "11.4.0.106")


def runtime_of(folder: Path, version: str = VERSIONS[1], precision: str = "fp32") -> TensorRt:
    return TensorRt(precision, fake.fake_tensorrt(version), FakeGpu(), folder)


@pytest.fixture(autouse=True)
def caches(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if request.instance is not None:
        request.instance.folder = tmp_path


class TestTensorRt10(RuntimeContract):
    folder: Path

    def make(self) -> TensorRt:
        return runtime_of(self.folder, VERSIONS[0])


class TestTensorRt11(RuntimeContract):
    folder: Path

    def make(self) -> TensorRt:
        return runtime_of(self.folder, VERSIONS[1], "fp16")


@pytest.mark.parametrize("name", sorted(set(KNOWN) & set(vars(fake))))
def test_the_stand_in_knows_nothing_that_the_bindings_do_not(name: str) -> None:
    made = getattr(fake, name)
    seen = fake.members(made) | {slot for slot in getattr(made, "__slots__", ()) if not slot.startswith("_")}
    assert seen <= set(KNOWN[name])
    for member in seen:
        parameters = KNOWN[name][member]
        if parameters is not None:
            assert tuple(inspect.signature(getattr(made, member)).parameters)[1:] == parameters


@pytest.mark.parametrize("version", VERSIONS)
def test_the_stand_ins_flags_are_those_of_their_version(version: str) -> None:
    module = fake.fake_tensorrt(version)
    removed = REMOVED_IN_11 if version.startswith("11") else {}
    for name, known in KNOWN.items():
        if name.endswith(("Flag", "Verbosity", "Format")):
            flags = {member.name for member in getattr(module, name)}
            assert flags == set(known) - removed.get(name, set())


@pytest.mark.parametrize(("version", "typed"), [(VERSIONS[0], 1 << 1), (VERSIONS[1], 0)])
@pytest.mark.parametrize(
    ("precision", "number", "tf32"),
    [
        ("fp32", TensorProto.FLOAT, False),
        ("tf32", TensorProto.FLOAT, True),
        ("fp16", TensorProto.FLOAT16, False),
    ],
)
def test_an_engine_is_built_in_the_types_and_with_the_flags_of_its_precision(
    version: str, typed: int, precision: str, number: int, tf32: bool, tmp_path: Path
) -> None:
    module, gpu = fake.fake_tensorrt(version), FakeGpu()
    runtime = TensorRt(precision, module, gpu, tmp_path)
    device = runtime.describe(name="here", batch=3, threads=1)
    assert runtime.prepare_kernel(conv(16, 24, fused=("relu",)), device)() == 0.25
    [(network, config)] = module.built
    assert network.flags == typed
    assert {tensor.data_type for tensor in network.model.graph.initializer} == {number}
    assert (int(module.BuilderFlag.TF32) in config._flags) == tf32
    assert config.builder_optimization_level == 3
    assert config.profiling_verbosity == module.ProfilingVerbosity.DETAILED
    assert config._profiles[0]._shapes == {"input0": (3, 16, 6, 6)}
    assert gpu.uploaded[0].dtype == (np.float16 if precision == "fp16" else np.float32)


def test_timings_are_kept_by_board_version_and_precision_and_used_again(tmp_path: Path) -> None:
    for version, precision in ((VERSIONS[0], "fp32"), (VERSIONS[0], "fp32"), (VERSIONS[1], "fp16")):
        runtime = runtime_of(tmp_path, version, precision)
        runtime.prepare_kernel(conv(8, 8), runtime.describe(name="here", batch=1, threads=1))
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert kept == {"Fake-GPU-0-_10.13.3.9_fp32.cache": b"tt", "Fake-GPU-0-_11.4.0.106_fp16.cache": b"t"}


def test_another_gpus_timings_are_refused_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "Fake-GPU-0-_11.4.0.106_fp32.cache").write_bytes(b"another GPU's")
    runtime = runtime_of(tmp_path)
    with pytest.raises(RequestError, match=r"_fp32\.cache is not one of this GPU; delete it"):
        runtime.prepare_kernel(conv(8, 8), runtime.describe(name="here", batch=1, threads=1))


@pytest.mark.parametrize(("op", "reason"), [("Unreadable", "no rule"), ("NoSuchOperator", "its log")])
def test_a_network_that_tensorrt_does_not_take_is_refused_with_the_reason(
    op: str, reason: str, tmp_path: Path
) -> None:
    save_identity(tmp_path / "network.onnx", ["batch", 3])
    model = onnx.load(tmp_path / "network.onnx")
    model.graph.node[0].op_type = op
    onnx.save(model, tmp_path / "network.onnx")
    runtime = runtime_of(tmp_path)
    device = runtime.describe(name="here", batch=1, threads=1)
    with pytest.raises(RequestError, match=rf"network\.onnx.*{reason}"):
        runtime.prepare_network(tmp_path / "network.onnx", IDENTITY, device)


def test_versions_and_ways_to_launch_are_other_devices(tmp_path: Path) -> None:
    by_graph = runtime_of(tmp_path).describe(name="here", batch=1, threads=1)
    gpu = FakeGpu()
    gpu.launch = "stream"
    by_stream = TensorRt("fp32", fake.fake_tensorrt(VERSIONS[1]), gpu, tmp_path).describe(
        name="here", batch=1, threads=1
    )
    older = runtime_of(tmp_path, VERSIONS[0]).describe(name="here", batch=1, threads=1)
    assert len({by_graph.identity, by_stream.identity, older.identity}) == 3


def test_a_version_that_was_never_read_about_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"TensorRT 8\.6\.1 is installed; allowed: 10 and 11"):
        runtime_of(tmp_path, "8.6.1")


def pool(kind: str, kernel: int, stride: int) -> OpSpec:
    """Of a map of 6x6."""
    return replace(
        square(kind, 16),
        in_size=(6, 6),
        out_size=((6 - kernel) // stride + 1,) * 2,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(0,) * 4,
    )


PIXEL = replace(conv(16, 24), in_size=(1, 1), out_size=(1, 1), kernel=(1, 1), padding=(0,) * 4)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (conv(16, 24, fused=("relu6",)), conv(16, 24, fused=("batch_norm", "hardtanh")), True),
        (conv(16, 24, fused=("relu6",)), conv(16, 24, fused=("relu",)), False),
        (pool("mean2d", 6, 6), pool("avg_pool2d", 6, 1), True),
        (pool("mean2d", 6, 6), pool("avg_pool2d", 3, 3), False),
        (PIXEL, OpSpec(kind="linear", in_channels=16, out_channels=24, in_size=(1,)), True),
        (
            replace(PIXEL, groups=2),
            OpSpec(kind="linear", in_channels=16, out_channels=24, in_size=(1,)),
            False,
        ),
    ],
)
def test_operators_that_an_engine_does_not_tell_apart_are_one_kernel(
    one: OpSpec, other: OpSpec, same: bool, tmp_path: Path
) -> None:
    rules = runtime_of(tmp_path)
    assert (rules.lower(one, PLAIN) == rules.lower(other, PLAIN)) == same


# An engine of two convolutions and a copy. Fields as in the engine inspector's JSON of TensorRT 10
# (NVIDIA/TensorRT, tools/experimental/trt-engine-explorer, examples/pytorch/resnet/A100/fp32) and, for
# TensorRT 11, as in "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x"; names and sizes are ours.
def described(version: int) -> str:
    def tensor(name: str, layout: str) -> dict[str, object]:
        split = {"Format": layout, "DataType": "Float"}
        return {"Name": name, "Location": "Device", "Dimensions": [1, 6, 6, 6]} | (
            {"Format/Datatype": layout} if version == 10 else split
        )

    first, second = "Row major linear FP32", "Channel major FP32 format where channel % 4 == 0"
    convolution = {
        "LayerType": "CaskConvolution",
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "PrePadding": [1, 1],
        "PostPadding": [1, 1],
        "Stride": [1, 1],
        "Dilation": [1, 1],
        "OutMaps": 6,
        "Groups": 1,
        "TacticName": "sm80_xmma_fprop",
    }
    inner = {"Inputs": [tensor("x", first)], "Outputs": [tensor("y", second)], "Activation": "RELU"}
    layers = [
        convolution | inner | {"Name": "conv + relu"},
        convolution | inner | {"Name": "conv_1 + relu_1", "Inputs": [tensor("y", second)]},
        {
            "Name": "copy",
            "LayerType": "Reformat",
            "Inputs": [tensor("y", second)],
            "Outputs": [tensor("z", first)],
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
        },
    ]
    ends = {"Bindings": ["x", "z"]} if version == 10 else {"I/O Tensors": [{"Name": "x", "IOMode": "Input"}]}
    return json.dumps({"Layers": layers, **ends})


@pytest.mark.parametrize("version", [10, 11])
def test_the_kernels_of_a_network_are_harvested_from_one_engine(version: int, tmp_path: Path) -> None:
    save_identity(tmp_path / "network.onnx", ["batch", 3])
    module = fake.fake_tensorrt(f"{version}.4.0")
    module.described = described(version)
    module.layers_ms = {"conv + relu": 0.25, "conv_1 + relu_1": 0.375, "copy": 0.0625}
    runtime = TensorRt("fp32", module, FakeGpu(), tmp_path)
    device = runtime.describe(name="here", batch=1, threads=1)
    harvested = runtime.harvest(tmp_path / "network.onnx", device)
    assert list(harvested) == list(runtime.lower(conv(6, 6, fused=("relu",)), PLAIN).kernels)
    assert len(module.built) == 2  # the network, and a call
    (run,) = harvested.values()
    call_ms = 0.25  # by the clock of the stand-in
    assert [run() for _ in range(3)] == [(0.25 + 0.375 + 0.0625) / 2 + call_ms] * 3


def test_one_run_of_a_network_times_each_of_its_kernels_once(tmp_path: Path) -> None:
    save_identity(tmp_path / "network.onnx", ["batch", 3])
    module = fake.fake_tensorrt(VERSIONS[0])
    layers = json.loads(described(10))["Layers"]
    layers[1]["Activation"] = "NONE"
    layers[1]["Name"] = "conv_1"
    module.described = json.dumps({"Layers": layers})
    module.layers_ms = {"conv + relu": 0.25, "conv_1": 0.5}
    runtime = TensorRt("fp32", module, FakeGpu(), tmp_path)
    first, second = runtime.harvest(
        tmp_path / "network.onnx", runtime.describe(name="here", batch=1, threads=1)
    ).values()
    assert (first(), first()) == (0.5, 0.5)
    module.layers_ms = {"conv + relu": 1.0, "conv_1": 2.0}
    assert (second(), second()) == (0.75, 0.75)  # of the runs that the first has asked for
    assert (second(), first()) == (2.25, 1.25)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '{"Layers": ["conv + relu", "copy"]}',
            "nothing of layer 'conv .* with detailed profiling verbosity",
        ),
        ("[]", "does not tell the layers"),
        ('{"Layers": [{"Name": "conv"}]}', "nothing of layer"),
    ],
)
def test_what_is_no_description_of_layers_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    save_identity(tmp_path / "network.onnx", ["batch", 3])
    module = fake.fake_tensorrt(VERSIONS[0])
    module.described = text
    runtime = TensorRt("fp32", module, FakeGpu(), tmp_path)
    with pytest.raises(RequestError, match=reason):
        runtime.harvest(tmp_path / "network.onnx", runtime.describe(name="here", batch=1, threads=1))
