"""Tables from elsewhere: small ones, written here the way their owners write them."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwprofiles import Device, OpSpec, read_profile, write_profile
from hwprofiles.errors import ProfileError, RequestError
from latency_models.imports import FORMATS, Imported, import_profile
from latency_models.imports.layers import FUSED
from search import cli
from tests.bundles import export_images
from tests.contracts.runtime import conv, resized, transposed
from tests.latency_models.conftest import Write
from trials.operators import _EPILOGUES
from trials.oprules import RULES
from trials.oprules.movement import Move
from trials.oprules.pointwise import Elementwise, Reduce

DEVICE = Device(name="pixel", runtime="tflite", board="a phone", batch=1)
GPU = Device(name="orin", runtime="tensorrt", board="a board", batch=1)
HEADER = "kind,in_channels,out_channels,in_size,kernel,stride,padding,groups,fused,latency_ms"
ROWS = [
    "conv2d,3,32,6x6,3,1,1,,add+relu,0.5",
    "depthwise_conv2d,32,32,6x6,3x3,,1,,,0.25",
    "max_pool2d,32,32,28x28,2,,,,,0.125",
    "mean2d,32,32,14x14,,,,,,0.0625",
    "linear,32,10,1,,,,,,0.03125",
]


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


def test_a_layer_that_enlarges_has_its_size_in_the_table(write: Write) -> None:
    header = "kind,in_channels,out_channels,in_size,out_size,kernel,stride,padding,fused,latency_ms"
    rows = [
        "conv_transpose2d,8,4,6,12,3,2,1,relu,1",
        "conv_transpose2d,8,4,6,,3,2,1,,1",
        "resize2d,8,8,6,12,,,,nearest,1",
    ]
    small = replace(transposed(8, 4), out_size=(11, 11))
    found = import_profile([write("t.csv", table(*rows, header=header))], "csv", DEVICE)
    assert {*times(found)} == {transposed(8, 4, fused=("relu",)), small, resized("nearest", 8)}
    for row, complaint in (
        ("conv_transpose2d,8,4,6,13,3,2,1,,1", r"no output padding makes \(13, 13\) of \(11, 11\)"),
        ("conv_transpose2d,8,4,1,,3,1,2,,1", r"window of \(3, 3\) does not fit"),
        ("resize2d,8,8,6,12,,,,,1", "either nearest or bilinear"),
        ("resize2d,8,8,6,,,,,nearest,1", "out_size is ''"),
    ):
        with pytest.raises(ProfileError, match=complaint):
            import_profile([write("t.csv", table(row, header=header))], "csv", DEVICE)


def test_an_imported_profile_says_so_and_is_not_calibrated(write: Write) -> None:
    found = import_profile([write("pixel.csv", table(*ROWS))], "csv", DEVICE)
    assert found.profile.device.versions["source"] == "layers"
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
        ("linear,8,8,1,,,,,,-0.5", "latency '-0.5' is not one from a nanosecond to an hour"),
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
        ("conv_transpose2d,8,8,1048576x9,3,1048576,0,,,1", "cannot be a layer: out_size .* above 1073741824"),
        ("linear,8,8,1,,,,,,1_5", "latency '1_5'"),
        ("linear,8,8,1,,,,,,3600001", "latency '3600001'"),
        ("linear,8,8,1,,,,,,1e-320", "latency '1e-320'"),
        ("linear,1_6,8,1,,,,,,1", "in_channels is '1_6'"),
        ("linear,٣,8,1,,,,,,1", "in_channels is '٣'"),
        ("linear,8,8,1,,,,,banana,1", "a linear has no 'banana' in fused; "),
        ("linear,8,8,1,,,,,add+rellu,1", "no 'rellu' in fused; did you mean 'relu'"),
        ("linear,8,8,1,,,,,batch_norm,1", "no 'batch_norm' in fused"),
        ("softmax,8,8,4,,,,,relu,1", "a softmax has no 'relu' in fused; allowed: nothing"),
        ("depthwise_conv2d,8,8,9x9,3,1,1,4,,1", "groups is 4, and .* each of its 8 input channels"),
        ("depthwise_conv2d,8,12,9x9,3,1,1,,,1", "8 groups do not divide"),
    ],
)
def test_an_impossible_row_is_refused_naming_file_and_line(row: str, complaint: str, write: Write) -> None:
    with pytest.raises(ProfileError, match=rf"pixel\.csv, line 7.* {complaint}"):
        import_profile([write("pixel.csv", table(*ROWS, row))], "csv", DEVICE)


def test_a_mistyped_column_is_refused_with_the_nearest(write: Write) -> None:
    text = table(*ROWS, header=HEADER.replace("padding", "pading"))
    with pytest.raises(ProfileError, match="column 'pading' is not known; did you mean 'padding'"):
        import_profile([write("pixel.csv", text)], "csv", DEVICE)


def test_a_column_that_is_there_twice_is_refused_with_its_file(write: Write) -> None:
    text = table("linear,8,8,1,2.0,1.0", header="kind,in_channels,out_channels,in_size,latency_ms,latency_ms")
    with pytest.raises(ProfileError, match=r"pixel\.csv, line 1: column 'latency_ms' is there twice"):
        import_profile([write("pixel.csv", text)], "csv", DEVICE)


def test_fused_may_name_whatever_a_model_has_behind_or_as_an_operator() -> None:
    names = {op.split(".")[1] for op, rule in RULES.items() if type(rule) in (Elementwise, Reduce)}
    assert names <= FUSED["elementwise"]
    assert {rule.costs for rule in RULES.values() if isinstance(rule, Move) and rule.costs} <= FUSED["copy"]
    for kind in FUSED.keys() & _EPILOGUES.keys():
        assert _EPILOGUES[kind].keys() - {"batch_norm"} <= FUSED[kind]


def test_a_pickle_is_refused_without_being_read(tmp_path: Path) -> None:
    (tmp_path / "lut.pkl").write_bytes(pickle.dumps({"conv1": {"latency": {(3, 8): 0.001}}}))
    for form in FORMATS:
        with pytest.raises(ProfileError, match=r"lut\.pkl is a pickle.*as CSV"):
            import_profile([tmp_path / "lut.pkl"], form, GPU)


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


class Shallow(nn.Module):
    """The network of the example in the docs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        logits: torch.Tensor = self.linear(x.mean((2, 3)))
        return logits


def test_the_example_in_the_docs_predicts_what_they_say(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    example = docs.partition("## An example")[2].partition("## What")[0]
    for name, language in (("layers.csv", "csv"), ("widths.json", "json")):
        write(name, example.partition(f"```{language}\n")[2].partition("```")[0])
    export_images(Shallow().eval(), 3, 8, 8).write(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    for command in re.findall(r"^    (prunefront .*)$", example, re.MULTILINE):
        monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert not ended.value.code, err
    found = json.loads(out)
    sentence = re.search(r"predicts ([\d.]+), ([\d.]+) and ([\d.]+) ms", example)
    assert sentence is not None
    assert [item["predicted"]["latency_ms"] for item in found["candidates"]] == pytest.approx(
        [float(ms) for ms in sentence.groups()]
    )
    assert {item["predicted"]["error_ms"] for item in found["candidates"]} == {None}
    assert (found["coverage"], found["calibrated_on"]) == (0, None)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", ["", "\0", "[", "{}", "[]", "[1]", "7", '{"a": 1}', "a: [b", "- - -"])
def test_a_file_that_is_no_table_is_refused(form: str, text: str, write: Write) -> None:
    with pytest.raises(ProfileError):
        import_profile([write("table", text)], form, GPU)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ProfileError, match="/dev/zero has more than 67108864 bytes"):
        import_profile([Path("/dev/zero")], "csv", DEVICE)


def test_a_missing_file_and_an_unknown_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.csv cannot be read: No such file"):
        import_profile([tmp_path / "none.csv"], "csv", DEVICE)
    with pytest.raises(RequestError, match=r"form 'yml'.*allowed: csv, yaml, trtexec"):
        import_profile([], "yml", DEVICE)


def test_a_header_may_have_spaces_and_its_separator_is_the_comma(write: Write) -> None:
    spaced = import_profile([write("a.csv", table(*ROWS, header=HEADER.replace(",", ", ")))], "csv", DEVICE)
    assert len(spaced.profile.kernels) == len(ROWS)
    semicolons = write("b.csv", table(*ROWS).replace(",", ";"))
    with pytest.raises(ProfileError, match=r"b\.csv, line 1 separates columns by ';'"):
        import_profile([semicolons], "csv", DEVICE)
    with pytest.raises(ProfileError, match=r"b\.csv is given twice"):
        import_profile([semicolons, semicolons], "csv", DEVICE)


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


LINEAR = "kind: linear, in_channels: 8, out_channels: 4, in_size: 1"
LAUGHS = "- &l0 {kind: linear}\n" + "".join(
    f"- &l{number} [{', '.join([f'*l{number - 1}'] * 9)}]\n" for number in range(1, 30)
)


def test_a_list_in_yaml_has_the_columns_of_a_table(write: Write) -> None:
    text = f"- {{{LINEAR}, kernel: null, fused: ~, latency_us: 250}}\n"
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
        ("a: {mean: 2001-13-99}", "is no key such as"),
        ("!!python/object/apply:os.getcwd []", "is no YAML .*line 1 has an alias or a tag"),
        ("- {kind: linear, in_channels: !!int ''}", "line 1 has an alias or a tag"),
        ("- {kind: linear, latency_ms: !!timestamp x}", "line 1 has an alias or a tag"),
        (LAUGHS, "line 2 has an alias or a tag"),
        (LAUGHS.replace("[*l0", "{<<: [*l0").replace("]", "]}"), "line 2 has an alias or a tag"),
        ("[" * 100_000, "is no YAML"),
        (f"- {{{LINEAR}, latency_ms: 1_5}}", "entry '0': the latency '1_5'"),
        (f"- {{{LINEAR}, latency_ms: 1:30}}", "entry '0': the latency '1:30'"),
        (f"- {{{LINEAR}, latency_ms: 1, latency_ms: 2}}", "'latency_ms' is there twice"),
        (
            "expanded_conv-input:9x9x9-output:9x9x9-expand:3: {mean: 1}",
            r"nothing to import from .*t\.yaml: .* is a block",
        ),
    ],
)
def test_impossible_yaml_is_refused_naming_file_and_entry(text: str, complaint: str, write: Write) -> None:
    with pytest.raises(ProfileError, match=complaint):
        import_profile([write("t.yaml", text)], "yaml", DEVICE)
