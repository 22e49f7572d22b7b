"""`prunefront devices`: profiles listed, with what is known of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwprofiles import (
    read_profile,
    write_profile,
)
from search import devices
from tests.commands import Prunefront, written_json


def test_devices_lists_age_error_and_whether_it_is_this_machine(
    prunefront: Prunefront, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "devices"
    profile = read_profile(folder / "bench.parquet")
    elsewhere = replace(profile.device, name="board", board="another board")
    shipped = runs / "shipped"
    write_profile(replace(profile, device=elsewhere, held_out=()), shipped / "board.parquet")
    (folder / "torn.parquet").write_bytes((folder / "bench.parquet").read_bytes()[:99])
    monkeypatch.setattr(devices, "SHIPPED", shipped)
    here, bench, board, torn = written_json(prunefront("devices", "--runs", runs, "--json"))
    assert (here["device"], here["profile"], here["this_machine"]) == ("this-cpu", None, True)
    assert (bench["device"], bench["this_machine"], bench["shipped"]) == ("bench", True, False)
    assert bench["mean_error"] > 0
    assert 0 <= bench["age_days"] < 1
    assert (board["this_machine"], board["shipped"], board["mean_error"]) == (False, True, None)
    assert "torn.parquet" in torn["wrong"]
    shown = prunefront("devices", "--runs", runs).out
    assert "torn: profile " in shown
    assert "another board" in shown


def test_energy_is_shown_by_network_and_rail_where_a_board_told_it(
    prunefront: Prunefront, runs: Path
) -> None:
    path = runs / "devices" / "bench.parquet"
    profile = read_profile(path)
    told = replace(profile.networks[0], energy_mj=({"VDD_IN": 20.0}, {"VDD_IN": 21.0}))
    untold = replace(profile.networks[1], energy_mj=())
    write_profile(replace(profile, networks=(told, untold), held_out=()), path)
    _, bench = written_json(prunefront("devices", "--runs", runs, "--json"))
    assert [item["energy_mj"] for item in bench["networks"]] == [{"VDD_IN": 20.5}, {}]
    shown = prunefront("lut", "show", "bench", "--runs", runs).out
    assert "mJ VDD_IN" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert [row[-1] for row in rows if row[1:2] in (["dense"], ["calibration"])] == ["20.5", "–"]


def test_a_profile_of_a_runtime_that_is_not_here_is_listed_without_its_error(
    prunefront: Prunefront, runs: Path
) -> None:
    path = runs / "devices" / "bench.parquet"
    profile = read_profile(path)
    write_profile(replace(profile, device=replace(profile.device, runtime="abacus")), path)
    _, bench = written_json(prunefront("devices", "--runs", runs, "--json"))
    assert (bench["runtime"], bench["this_machine"], bench["mean_error"]) == ("abacus", False, None)
