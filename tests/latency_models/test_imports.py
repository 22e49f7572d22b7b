"""Tables from elsewhere: small ones, written here the way their owners write them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwprofiles import INPUT, Device, OpSpec, read_profile, write_profile
from hwprofiles.errors import ProfileError, RequestError
from latency_models.imports import FORMATS, Imported, import_profile
from tests.contracts.runtime import conv

DEVICE = Device(name="pixel", runtime="tflite", board="a phone", batch=1)
HEADER = "kind,in_channels,out_channels,in_size,kernel,stride,padding,groups,fused,latency_ms"
ROWS = [
    "conv2d,3,32,6x6,3,1,1,,add+relu,0.5",
    "depthwise_conv2d,32,32,6x6,3x3,,1,,,0.25",
    "max_pool2d,32,32,28x28,2,,,,,0.125",
    "mean2d,32,32,14x14,,,,,,0.0625",
    "linear,32,10,1,,,,,,0.03125",
]
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return put


def table(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def times(found: Imported) -> dict[OpSpec, float]:
    return {kernel: rounds.summary().latency_ms for kernel, rounds in found.profile.kernels.items()}


def test_a_table_of_layers_is_a_profile_of_kernels(write: Write, tmp_path: Path) -> None:
    found = import_profile([write("pixel.csv", table(*ROWS))], "csv", DEVICE)
    assert times(found) == {
        conv(3, 32, fused=("add", "relu")): 0.5,
        conv(32, 32, groups=0): 0.25,
        OpSpec(
            kind="max_pool2d",
            in_channels=32,
            out_channels=32,
            in_size=(28, 28),
            out_size=(14, 14),
            kernel=(2, 2),
            stride=(2, 2),
            padding=(0,) * 4,
        ): 0.125,
        OpSpec(
            kind="mean2d",
            in_channels=32,
            out_channels=32,
            in_size=(14, 14),
            out_size=(1, 1),
            kernel=(14, 14),
            stride=(14, 14),
            padding=(0,) * 4,
        ): 0.0625,
        OpSpec(kind="linear", in_channels=32, out_channels=10, in_size=(1,)): 0.03125,
    }
    write_profile(found.profile, tmp_path / "pixel.parquet")
    assert read_profile(tmp_path / "pixel.parquet") == found.profile


def test_an_imported_profile_says_so_and_is_not_calibrated(write: Write) -> None:
    found = import_profile([write("pixel.csv", table(*ROWS))], "csv", DEVICE)
    assert found.profile.device.versions["source"] == "layers in CSV"
    assert found.profile.device.identity != DEVICE.identity
    assert not found.calibrated
    assert {rounds.times_ms.size for rounds in found.profile.kernels.values()} == {1}


@pytest.mark.parametrize(("unit", "told"), [("latency_us", "1500"), ("latency_s", "0.0015")])
def test_other_units_are_named_by_the_column(unit: str, told: str, write: Write) -> None:
    header = f"kind,in_channels,out_channels,in_size,{unit}"
    found = import_profile([write("t.csv", table(f"linear,8,8,1,{told}", header=header))], "csv", DEVICE)
    assert list(times(found).values()) == [pytest.approx(1.5)]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("linear,8,8,1,,,,,,-0.5", "latency '-0.5' is not above 0"),
        ("linear,8,8,1,,,,,,nan", "latency 'nan'"),
        ("linear,8,8,1,,,,,,0", "latency '0'"),
        ("linear,8,8,1,,,,,,inf", "latency 'inf'"),
        ("linear,8,8,1,,,,,,fast", "latency 'fast'"),
        ("linear,8,8,1,,,,,,", "exactly one of latency_ms"),
        ("linear,0,8,1,,,,,,1", "in_channels is '0', not a whole number from 1"),
        ("linear,8,9999999999,1,,,,,,1", "out_channels is '9999999999'"),
        (f"linear,{'9' * 5000},8,1,,,,,,1", "in_channels is '999"),
        ("linear,8.5,8,1,,,,,,1", "in_channels is '8.5'"),
        ("conv2d,8,8,,3,1,1,,,1", "lacks in_size"),
        ("conv2d,8,8,9x9,,1,1,,,1", "kernel is ''"),
        ("conv2d,8,8,9x9x9,3,1,1,,,1", "in_size is '9x9x9', not 2 whole numbers"),
        ("conv2d,8,8,2x2,3,1,0,,,1", r"window of \(3, 3\) does not fit"),
        ("conv2d,8,8,9x9,3,1,1,3,,1", "3 groups do not divide"),
        ("conf2d,8,8,9x9,3,1,1,,,1", "kind 'conf2d'; did you mean 'conv2d'"),
        ("softmax,8,9,4,,,,,,1", "as many channels as it reads"),
        ("linear,32,10,1,,,,,,0.5", "as is .*line 6; leave one"),
        ("linear,8,8,1,,,,,,1,2", "'a column too many' is not known"),
    ],
)
def test_an_impossible_row_is_refused_naming_file_and_line(row: str, complaint: str, write: Write) -> None:
    with pytest.raises(ProfileError, match=rf"pixel\.csv, line 7.* {complaint}"):
        import_profile([write("pixel.csv", table(*ROWS, row))], "csv", DEVICE)


def test_a_mistyped_column_is_refused_with_the_nearest(write: Write) -> None:
    text = table(*ROWS, header=HEADER.replace("padding", "pading"))
    with pytest.raises(ProfileError, match="column 'pading' is not known; did you mean 'padding'"):
        import_profile([write("pixel.csv", text)], "csv", DEVICE)


def test_a_pickle_is_refused_without_being_read(tmp_path: Path) -> None:
    (tmp_path / "lut.pkl").write_bytes(pickle.dumps({"conv1": {"latency": {(3, 8): 0.001}}}))
    for form in FORMATS:
        with pytest.raises(ProfileError, match=r"lut\.pkl is a pickle.*as CSV"):
            import_profile([tmp_path / "lut.pkl"], form, DEVICE)


def test_the_script_in_the_docs_writes_netadapts_tables_as_csv(write: Write, tmp_path: Path) -> None:
    """The keys are those of its constants.py; layers of one shape share one entry."""
    shape = {"is_depthwise": False, "padding": (1, 1), "groups": 1, "kernel_size": (3, 3), "stride": (1, 1)}
    first = {**shape, "layer_type_str": "Conv2d", "input_feature_map_size": [1, 8, 6, 6]}
    first["latency"] = {(8, 8): 0.002, (8, 4): 0.001}
    depthwise = {**first, "is_depthwise": True, "groups": 8, "latency": {(8, 8): 0.0005}}
    last = {**shape, "layer_type_str": "Linear", "input_feature_map_size": [1, 8, 1, 1], "padding": (0, 0)}
    last["latency"] = {(8, 10): 0.0001}
    table = {"conv1": first, "conv2": first, "conv3": depthwise, "fc": last}
    (tmp_path / "lut.pkl").write_bytes(pickle.dumps(table))
    docs = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    script = docs.partition("```python")[2].partition("```")[0]
    command = [sys.executable, "-", str(tmp_path / "lut.pkl")]
    written = subprocess.run(command, input=script, capture_output=True, text=True, check=True).stdout
    assert times(import_profile([write("lut.csv", written)], "csv", DEVICE)) == {
        conv(8, 8): pytest.approx(2.0),
        conv(8, 4): pytest.approx(1.0),
        conv(8, 8, groups=0): pytest.approx(0.5),
        OpSpec(kind="linear", in_channels=8, out_channels=10, in_size=(1,)): pytest.approx(0.1),
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", ["", "\0", "[", "{}", "[]", "[1]", "7", '{"a": 1}', "a: [b", "- - -"])
def test_a_file_that_is_no_table_is_refused(form: str, text: str, write: Write) -> None:
    with pytest.raises(ProfileError):
        import_profile([write("table", text)], form, DEVICE)


def test_a_missing_file_and_an_unknown_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.csv cannot be read: No such file"):
        import_profile([tmp_path / "none.csv"], "csv", DEVICE)
    with pytest.raises(RequestError, match=r"form 'yml'.*did you mean 'yaml'"):
        import_profile([], "yml", DEVICE)


KEYED = """
Conv-input:224x224x3-output:112x112x32: {mean: 4.0, count: 50}
Conv_1-input:7x7x320-output:7x7x1280: {mean: 3.0}
AvgPool2D-input:7x7x1280-output:1x1x1280: {mean: 0.5}
Logits-input:1x1x1280-output:1000: {mean: 1.0}
expanded_conv-input:56x56x24-output:28x28x40-expand:3-kernel:7-stride:2-idskip:0: {mean: 9.0}
Logits-input:7x7x1280-output:1000: {mean: 2.0}
"""


def test_a_table_by_key_keeps_its_single_layers_and_names_the_blocks(write: Write) -> None:
    found = import_profile([write("note10.yaml", KEYED)], "yaml", DEVICE)
    assert [(spec.kind, spec.in_channels, spec.out_channels, ms) for spec, ms in times(found).items()] == [
        ("conv2d", 3, 32, 4.0),
        ("conv2d", 320, 1280, 3.0),
        ("mean2d", 1280, 1280, 0.5),
        ("linear", 1280, 1000, 1.0),
    ]
    first = next(iter(found.profile.kernels))
    assert (first.kernel, first.stride, first.out_size) == ((3, 3), (2, 2), (112, 112))
    block, head = found.left_out
    assert "note10.yaml, entry 'expanded_conv-input:56x56x24" in block
    assert "entry 'Logits-input:7x7x1280-output:1000' is a block of several layers" in head


def test_a_list_in_yaml_has_the_columns_of_a_table(write: Write) -> None:
    text = "- {kind: linear, in_channels: 8, out_channels: 4, in_size: 1, latency_us: 250}\n"
    (spec,) = times(import_profile([write("t.yaml", text)], "yaml", DEVICE))
    assert spec == OpSpec(kind="linear", in_channels=8, out_channels=4, in_size=(1,))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (KEYED + "Logits-input:1x1x1280-output:1000: {mean: 1.0}", "is there twice, in lines 5 and 8"),
        ("Conv_1-input:7x7x3-output:7x7x8: {mean: -3.0}", r"t\.yaml, entry 'Conv_1-input:7x7x3.*'-3.0'"),
        ("Conv_1-input:7x7x3-output:7x7x8: {}", "latency 'absent'"),
        ("Conv_1-input:7x7-output:7x7x8: {mean: 1}", "is no key such as 'Conv-input:224x224x3"),
        ("- {kind: linear, in_channels: [1, 2]}", "in_channels holds more than one value"),
        ("a: {mean: 2001-13-99}", "is no YAML"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
        (
            "expanded_conv-input:9x9x9-output:9x9x9-expand:3: {mean: 1}",
            r"nothing to import from .*t\.yaml: .* is a block",
        ),
    ],
)
def test_impossible_yaml_is_refused_naming_file_and_entry(text: str, complaint: str, write: Write) -> None:
    with pytest.raises(ProfileError, match=complaint):
        import_profile([write("t.yaml", text)], "yaml", DEVICE)


def put(name: str, *dimensions: int, layout: str = "Row major linear FP32") -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": list(dimensions), "Format/Datatype": layout}


def convolution(
    name: str, reads: list[Any], writes: Any, activation: str = "RELU", **more: Any
) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": reads,
        "Outputs": [writes],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "PrePadding": [1, 1],
        "PostPadding": [1, 1],
        "Stride": [1, 1],
        "Dilation": [1, 1],
        "OutMaps": writes["Dimensions"][1],
        "Groups": 1,
        "Activation": activation,
        **more,
    }


def engine(width: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Layers, profile and times of conv → conv + sum → mean → linear, with one reformat at its input."""
    image, blocked = put("x", 1, 3, 6, 6), put("x'", 1, 3, 6, 6, layout="Channel major FP16")
    stem, block = put("stem", 1, width, 6, 6), put("block", 1, width, 6, 6)
    pooled, head, logits = put("pooled", 1, width, 1, 1), put("head", 1, 10, 1, 1), put("y", 1, 10)
    reformat = {"LayerType": "Reformat", "ParameterType": "Reformat", "Inputs": [image], "Outputs": [blocked]}
    pool = {"ParameterType": "Pooling", "PoolingType": "AVERAGE", "WindowSize": [6, 6], "Stride": [1, 1]}
    pool |= {"LayerType": "CaskPooling", "PrePadding": [0, 0], "PostPadding": [0, 0]}
    vector = {"Kernel": [1, 1], "PrePadding": [0, 0], "PostPadding": [0, 0]}
    layers = [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1",
            "Inputs": [image],
            **reformat,
        },
        convolution("Conv_0 + Relu_1", [blocked], stem),
        convolution("Conv_2 + Add_3 + Relu_4", [stem, stem], block),
        {"Name": "GlobalAveragePool_5", "Inputs": [block], "Outputs": [pooled], **pool},
        convolution("Gemm_6", [pooled], head, "NONE", **vector),
        {"Name": "reshape_after_Gemm_6", "LayerType": "NoOp", "Inputs": [head], "Outputs": [logits]},
    ]
    ms = [0.01, 0.02 * width, 0.03 * width, 0.005, 0.0075]
    rows = [
        {"name": layer["Name"], "timeMs": 9 * value, "averageMs": 1.5 * value, "medianMs": value}
        for layer, value in zip(layers, ms, strict=False)
    ]
    runs = [{"startComputeMs": 0.0, "computeMs": sum(ms) * factor} for factor in (1.1, 1.3, 1.2)]
    return layers, [{"count": 3}, *rows], runs


def write_engine(write: Write, width: int, edit: Callable[..., None] = lambda *parts: None) -> list[Path]:
    layers, profile, runs = engine(width)
    edit(layers, profile, runs)
    parts = {"layers": {"Layers": layers, "Bindings": ["x", "y"]}, "profile": profile, "times": runs}
    return [write(f"{name}-{width}.json", json.dumps(part)) for name, part in parts.items()]


def test_engines_at_several_widths_are_one_profile_with_their_own_networks(write: Write) -> None:
    found = import_profile([*write_engine(write, 16), *write_engine(write, 32)], "trtexec", DEVICE)
    told = times(found)
    assert told[conv(3, 32, fused=("relu",))] == pytest.approx(0.64)
    assert told[conv(16, 16, fused=("add", "relu"))] == pytest.approx(0.48)
    assert told[OpSpec(kind="linear", in_channels=32, out_channels=10, in_size=(1,))] == 0.0075
    (reformat,) = [spec for spec in told if spec.kind == "reformat"]
    assert reformat.fused == ("Row major linear FP32", "Channel major FP16")
    assert found.profile.kernels[reformat].times_ms.shape == (1, 2, 1)  # of either engine
    assert found.calibrated
    assert found.left_out == ()
    network = found.profile.networks[0]
    assert [spec.kind for spec in network.graph.operators] == ["conv2d", "conv2d", "mean2d", "linear"]
    assert network.graph.sources == ((INPUT,), (0, 0), (1,), (2,))
    assert network.rounds.times_ms.ravel() == pytest.approx([0.8225 * f for f in (1.1, 1.3, 1.2)])


def test_an_engine_without_times_is_no_whole_network(write: Write) -> None:
    found = import_profile(write_engine(write, 16)[:2], "trtexec", DEVICE)
    assert len(found.profile.kernels) == 5
    assert found.profile.networks == ()


def test_a_fused_region_is_left_out_by_name_and_its_engine_is_no_whole_network(write: Write) -> None:
    def edit(layers: Any, profile: Any, runs: Any) -> None:
        region = {"LayerType": "Myelin", "Inputs": [put("y", 1, 10)], "Outputs": [put("z", 1, 10)]}
        layers.append({"Name": "{ForeignNode[Softmax]}", **region})
        profile.append({"name": "{ForeignNode[Softmax]}", "averageMs": 0.5})

    found = import_profile(write_engine(write, 16, edit), "trtexec", DEVICE)
    assert found.profile.networks == ()
    assert [text.partition(", ")[2] for text in found.left_out] == [
        "layer '{ForeignNode[Softmax]}' (Myelin) is no operator that can be told"
    ]


def test_a_convolution_that_does_more_than_its_shape_says_is_left_out(write: Write) -> None:
    def edit(layers: Any, profile: Any, runs: Any) -> None:
        layers[1]["Outputs"] = [put("stem", 1, 16, 4, 4)]  # as with a pool in the same kernel

    found = import_profile(write_engine(write, 16, edit), "trtexec", DEVICE)
    assert len(found.left_out) == 1
    assert "Conv_0 + Relu_1" in found.left_out[0]


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda layers, *_: layers.__setitem__(1, "Conv_0"), "--profilingVerbosity=detailed"),
        (lambda layers, *_: layers[1].pop("Stride"), r"layers-16\.json, layer 'Conv_0 .* lacks what"),
        (lambda layers, *_: layers[1].update(Stride=[0, 1]), "impossible sizes"),
        (lambda layers, *_: layers[1].update(Groups="2"), "impossible sizes"),
        (lambda layers, *_: layers[1]["Inputs"][0].update(Dimensions=[8, 3, 6, 6]), "runs a batch of 8"),
        (lambda _, profile, __: profile[2].update(medianMs=-1), r"profile-16\.json, row 2: the latency '-1'"),
        (lambda _, profile, __: profile[2].update(medianMs=float("nan")), "row 2: the latency 'nan'"),
        (lambda _, profile, __: profile[2].update(medianMs=0), "layer 'Conv_0 .*: the latency '0.0'"),
        (lambda _, profile, __: profile[2].pop("name"), "row 2 lacks 'name'"),
        (lambda _, profile, __: profile.append(profile[2]), "row 6: layer 'Conv_0 .* is there twice"),
        (lambda _, profile, __: profile.pop(2), "layer 'Conv_0 .* is not in its engine's profile"),
        (lambda layers, *_: layers.pop(1), r"profile-16\.json times layer 'Conv_0 .*layers-16\.json lacks"),
        (lambda _, __, runs: runs[1].update(computeMs=0), r"times-16\.json, run 1: the latency '0'"),
        (lambda _, __, runs: runs[1].pop("computeMs"), "run 1 lacks 'computeMs'"),
    ],
)
def test_impossible_engines_are_refused_naming_file_and_row(
    edit: Callable[..., Any], complaint: str, write: Write
) -> None:
    with pytest.raises(ProfileError, match=complaint):
        import_profile(write_engine(write, 16, edit), "trtexec", DEVICE)


def test_files_in_another_order_are_refused(write: Write) -> None:
    layers, profile, runs = write_engine(write, 16)
    with pytest.raises(ProfileError, match="in this order"):
        import_profile([profile, layers], "trtexec", DEVICE)
    with pytest.raises(ProfileError, match="in this order"):
        import_profile([layers, profile, profile], "trtexec", DEVICE)
    with pytest.raises(ProfileError, match=r"no profile follows .*layers-16\.json"):
        import_profile([layers, runs], "trtexec", DEVICE)
