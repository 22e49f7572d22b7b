"""`prunefront lut`: tables of a made-up machine, whole and damaged, shown, checked and compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hwprofiles import Rounds, read_profile, write_profile
from hwprofiles.runtimes import CALL
from latency_models.stairs import Stairs
from search.figures import write_stairs
from tests.commands import Prunefront, Ran, written_json
from tests.latency_models.test_compare import slower_corner
from tests.latency_models.test_stairs import CLIFFS
from tests.latency_models.test_table import CORNER, DEVICE, PROFILE, SPECS


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two devices: `before`, and `after` an update by which one kernel got slower."""
    folder = tmp_path / "runs" / "devices"
    write_profile(CLIFFS, folder / "before.parquet")
    updated = replace(slower_corner(CLIFFS, 1.5), device=replace(DEVICE, versions={"onnxruntime": "9.9"}))
    write_profile(updated, folder / "after.parquet")
    return tmp_path / "runs"


def test_show_lists_families_with_their_counts_and_operators_by_number(
    prunefront: Prunefront, runs: Path
) -> None:
    found = written_json(prunefront("lut", "show", "before", "--runs", runs, "--json"))
    assert sum(family["kernels"] for family in found["families"]) == len(PROFILE.kernels)
    assert len(found["operators"]) == len({spec.family for spec in SPECS})
    shown = prunefront("lut", "show", "before", "--runs", runs)
    assert shown.code == 0
    for family in found["families"]:
        assert family["family"] in shown.out
    assert f"2  {found['operators'][1]}" in shown.out


def test_an_operator_is_shown_as_stairs_with_its_cliffs_in_text_as_svg_and_as_json(
    prunefront: Prunefront, runs: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "stairs.svg"
    options = ("lut", "show", "before", "--operator", 2, "--runs", runs)
    shown = prunefront(*options, "--svg", picture)
    assert shown.code == 0, shown.err
    assert "over its out channels" in shown.out
    assert "over its in channels" in shown.out
    assert "widths cost more than a wider one" in shown.out
    assert "█" in shown.out
    svg = picture.read_text()
    assert svg.startswith("<svg")
    assert "a wider one costs less" in svg
    _, over_inputs = written_json(prunefront(*options, "--json"))
    assert over_inputs["axis"] == "in_channels"
    assert 63 in over_inputs["cliffs"]
    assert len(over_inputs["widths"]) == len(over_inputs["latency_ms"]) == len(over_inputs["measured"])


def test_a_picture_of_stairs_has_steps_and_gaps_where_nothing_is_known(tmp_path: Path) -> None:
    known = Stairs(
        operator=SPECS[1],
        axis="out_channels",
        widths=np.array([15, 16, 17, 40, 41]),
        latency_ms=np.array([1.0, 1.0, 2.0, 3.0, 4.0]),
        measured=np.array([True, True, False, False, True]),
        modelled=False,
    )
    write_stairs([known], tmp_path / "stairs.svg")
    svg = (tmp_path / "stairs.svg").read_text()
    drawn, *_ = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--trial\)', svg)
    lines = [
        [tuple(map(float, point.split())) for point in line.split("L")] for line in drawn.split("M") if line
    ]
    assert [len({x for x, _ in line}) - 1 for line in lines] == [3, 2]
    for (x, y), (next_x, next_y) in (pair for line in lines for pair in pairwise(line)):
        assert x == next_x or y == next_y
    assert len(re.findall(r"<use [^>]*fill: var\(--found\)", svg)) == 3  # of 16, of 41, and the legend's


def test_check_tells_what_a_whole_table_holds_and_which_measurements_were_disturbed(
    prunefront: Prunefront, runs: Path
) -> None:
    found = written_json(prunefront("lut", "check", "before", "--runs", runs, "--json"))
    assert (found["kernels"], found["networks"], found["restless"]) == (len(PROFILE.kernels), 2, [])
    disturbed = Rounds(np.repeat([[[1.0], [5.0], [9.0], [13.0]]], 3, axis=2))
    write_profile(
        replace(PROFILE, kernels={**PROFILE.kernels, CORNER: disturbed}), runs / "devices" / "noisy.parquet"
    )
    noisy = prunefront("lut", "check", "noisy", "--runs", runs)
    assert (noisy.code, noisy.err) == (1, "")
    assert prunefront("lut", "check", "noisy", "--runs", runs, "--json").code == 1
    assert "noisy.parquet is whole" in noisy.out
    assert (
        f"1 of {len(PROFILE.kernels) + 2} measurements disturbed:\n  {CORNER}: rounds spread by" in noisy.out
    )


@pytest.mark.parametrize("damage", ["truncated", "changed", "no call"])
def test_check_refuses_a_damaged_table_in_a_sentence(damage: str, prunefront: Prunefront, runs: Path) -> None:
    path = runs / "devices" / "before.parquet"
    if damage == "no call":
        kept = {kernel: rounds for kernel, rounds in PROFILE.kernels.items() if kernel != CALL}
        write_profile(replace(PROFILE, kernels=kept), path)
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 20] ^= 0xFF
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
    ran = prunefront("lut", "check", "before", "--runs", runs)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "measure" in ran.err


def test_diff_tells_what_of_the_device_changed_and_what_moved(prunefront: Prunefront, runs: Path) -> None:
    found = written_json(prunefront("lut", "diff", "before", "after", "--runs", runs, "--json"))
    assert list(found["differing"]) == ["versions"]
    (moved,) = found["moved"]
    assert (moved["name"], moved["after_ms"] / moved["before_ms"]) == (str(CORNER), pytest.approx(1.5))
    shown = prunefront("lut", "diff", "before", "after", "--runs", runs)
    assert "→ onnxruntime 9.9" in shown.out
    assert "+50.0%" in shown.out


def test_profiles_that_share_nothing_are_not_compared(prunefront: Prunefront, runs: Path) -> None:
    alone = replace(PROFILE, kernels={CALL: PROFILE.kernels[CALL]}, networks=())
    other = replace(PROFILE, kernels={CORNER: PROFILE.kernels[CORNER]}, networks=())
    for name, profile in (("alone", alone), ("other", other)):
        write_profile(profile, runs / "devices" / f"{name}.parquet")
    ran = prunefront("lut", "diff", "alone", "other", "--runs", runs)
    assert (ran.code, ran.out) == (2, "")
    assert "share no kernel" in ran.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "befor"], "device 'befor' has no profile in"),
        (["show", "none.parquet"], "there is no profile at none.parquet"),
        (["show", "before", "--operator", "99"], "has no operator 99; `prunefront lut show before` lists"),
        (["show", "before", "--svg", "a.svg"], "--svg draws one operator"),
        (["show", "before", "--operator", "1", "--svg", "a.png"], "stairs are drawn as .svg"),
        (["show", "before", "--operator", "1", "--svg", "none/a.svg"], "cannot be written"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    arguments: list[str], sentence: str, prunefront: Prunefront, runs: Path
) -> None:
    ran = prunefront("lut", *arguments, "--runs", runs)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert sentence in ran.err


LAYERS = """kind,in_channels,out_channels,in_size,kernel,stride,padding,groups,fused,latency_ms
conv2d,3,32,224x224,3,2,1,1,relu6,1.92
linear,1280,1000,1,,,,,,0.66
"""


@pytest.fixture
def imported(prunefront: Prunefront, runs: Path, tmp_path: Path) -> Callable[..., Ran]:
    """Import a table as device `phone`."""

    def run(table: str, *changed: str) -> Ran:
        path = tmp_path / "layers.csv"
        path.write_text(table)
        device = ("--device", "phone", "--board", "a phone", "--runtime", "tflite", "--threads", 4)
        return prunefront("lut", "import", path, "--format", "csv", *device, "--runs", runs, *changed)

    return run


def test_a_table_of_layers_becomes_a_profile_once_and_says_that_it_has_no_error_bar(
    imported: Callable[..., Ran], prunefront: Prunefront, runs: Path
) -> None:
    ran = imported(LAYERS)
    assert ran.code == 0, ran.err
    assert f"{runs / 'devices' / 'phone.parquet'} holds 2 kernels and 0 networks" in ran.out
    assert "its predictions have no error bar" in ran.out
    shown = written_json(prunefront("lut", "show", "phone", "--runs", runs, "--json"))
    assert [family["latency_ms"] for family in shown["families"]] == [[1.92, 1.92], [0.66, 0.66]]
    assert read_profile(runs / "devices" / "phone.parquet").device.threads == 4
    assert "network" not in prunefront("lut", "show", "phone", "--runs", runs).out
    stairs = written_json(prunefront("lut", "show", "phone", "--operator", 2, "--runs", runs, "--json"))
    assert [(each["widths"], each["latency_ms"]) for each in stairs] == [([1000], [0.66]), ([1280], [0.66])]
    again = imported(LAYERS)
    assert (again.code, again.out) == (2, "")
    assert "phone.parquet already; choose another --device name" in again.err


def test_a_damaged_table_is_not_imported_at_all(imported: Callable[..., Ran], runs: Path) -> None:
    ran = imported(LAYERS.replace("0.66", "-0.66"))
    assert (ran.code, ran.out) == (2, "")
    assert "layers.csv" in ran.err
    assert not (runs / "devices" / "phone.parquet").exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--device", "this-cpu"], "'this-cpu' is what this machine is called; choose another"),
        (["--precision", "fp7"], "no device runs in 'fp7'; did you mean 'fp"),
        (["--board", ""], "the board cannot be called ''"),
        (["--board", "a\x1b[31m\nboard"], "the board cannot be called"),
        (["--runtime", ""], "--runtime is missing"),
        (["--format", "xml"], "allowed: csv, yaml, trtexec"),
    ],
)
def test_a_table_of_a_device_that_cannot_be_is_not_imported(
    changed: list[str], sentence: str, imported: Callable[..., Ran], runs: Path
) -> None:
    ran = imported(LAYERS, *changed)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert sentence in ran.err
    assert len(list((runs / "devices").iterdir())) == 2
