from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprofiles import (
    Device,
    MeasuredNetwork,
    OpSpec,
    Profile,
    Rounds,
    read_profile,
    write_profile,
)
from hwprofiles.errors import ProfileError
from hwprofiles.files import _sha256
from tests.contracts.runtime import OPERATORS, in_a_row

DEVICE = Device(name="bench", runtime="onnxruntime", board="a board", versions={"onnxruntime": "1.31.0"})


def profile_of(times_ms: np.ndarray[Any, np.dtype[np.float64]], specs: list[OpSpec] = OPERATORS) -> Profile:
    return Profile(
        device=DEVICE,
        kernels={spec: Rounds(times_ms * (1 + index)) for index, spec in enumerate(specs)},
        networks=(MeasuredNetwork(name="dense", graph=in_a_row(specs), rounds=Rounds(times_ms)),),
        held_out=(MeasuredNetwork(name="other", graph=in_a_row(specs[:1]), rounds=Rounds(times_ms * 2)),),
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "bench.parquet"
    write_profile(profile_of(np.linspace(0.1, 0.9, 12).reshape(2, 2, 3)), path)
    return path


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(1e-6, 1e5), min_size=6, max_size=6), st.sets(st.sampled_from(OPERATORS)))
def test_a_profile_reads_back_as_it_was_written(times: list[float], specs: set[OpSpec]) -> None:
    profile = profile_of(np.array(times).reshape(1, 2, 3), sorted(specs))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sub" / "profile.parquet"
        write_profile(profile, path)
        assert read_profile(path) == profile


def test_a_network_that_lacks_blocks_is_one_of_its_model(tmp_path: Path) -> None:
    profile = profile_of(np.ones((1, 2, 3)))
    dense, (other,) = profile.networks[0], profile.held_out
    shorter = replace(other, name="shorter", whole=dense.graph.outline)
    profile = replace(profile, networks=(dense, shorter))
    write_profile(profile, tmp_path / "bench.parquet")
    read = read_profile(tmp_path / "bench.parquet")
    assert read == profile
    assert read.of_model(dense.graph).networks == (dense, shorter)
    assert read.of_model(other.graph).held_out == (other,)
    assert read.of_model(other.graph).networks == ()


def with_energy(*passes: dict[str, float]) -> Profile:
    profile = profile_of(np.linspace(0.1, 0.9, 12).reshape(2, 2, 3))
    (other,) = profile.held_out
    return replace(profile, held_out=(replace(other, energy_mj=passes),))


def test_energy_is_kept_pass_by_pass_and_what_a_board_did_not_tell_is_absent(tmp_path: Path) -> None:
    profile = with_energy({"VDD_IN": 3.0, "VDD_CPU": 1.0}, {"VDD_IN": 5.0})
    write_profile(profile, tmp_path / "profile.parquet")
    read = read_profile(tmp_path / "profile.parquet")
    assert read == profile
    assert read.held_out[0].mean_energy_mj == {"VDD_IN": 4.0, "VDD_CPU": 1.0}
    assert read.networks[0].mean_energy_mj == {}


def test_a_profile_without_energy_is_written_as_before_there_was_any(written: Path) -> None:
    header = json.loads(pq.read_schema(written).metadata[b"prunefront.profile"])
    assert header.keys() == {"format", "created", "device", "sha256"}


@pytest.mark.parametrize("energy_mj", [-1.0, float("nan"), float("inf")])
def test_an_energy_that_cannot_be_is_refused_naming_its_row(tmp_path: Path, energy_mj: float) -> None:
    path = tmp_path / "profile.parquet"
    write_profile(with_energy({"VDD_IN": energy_mj}), path)
    row = len(OPERATORS) + 1
    with pytest.raises(ProfileError, match=rf"row {row} \(other\): its energy at rail 'VDD_IN' is .* mJ"):
        read_profile(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_profile_is_refused_naming_the_file(written: Path, share: float) -> None:
    data = written.read_bytes()
    written.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ProfileError, match=r"bench\.parquet"):
        read_profile(written)


def rewritten(path: Path, edit: Any, *, signed: bool = False) -> None:
    """Write the profile again with `edit(header, rows)` applied, as somebody with Parquet tools would.

    Args:
        signed: the sha256 is worked out anew, as somebody who means harm would.
    """
    table = pq.read_table(path)
    rows, header = table.to_pylist(), json.loads(table.schema.metadata[b"prunefront.profile"])
    edit(header, rows)
    if signed:
        del header["sha256"]
        header["sha256"] = _sha256(header, rows)
    schema = table.schema.with_metadata({b"prunefront.profile": json.dumps(header)})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


@pytest.mark.parametrize("time", [float("nan"), -0.5, 0.0, None, 1e300])
def test_an_impossible_time_is_refused_naming_its_row(written: Path, time: float | None) -> None:
    rewritten(written, lambda header, rows: rows[3]["times_ms"].__setitem__(0, time))
    with pytest.raises(ProfileError, match=r"bench\.parquet, row 3 .*: a time is .* ms; allowed"):
        read_profile(written)


@pytest.mark.parametrize("graph", ["[]", "{}", "nonsense", '{"kind": "conv2d"}', '{"colour": 1}', "1"])
def test_a_row_that_holds_no_operator_is_refused_naming_it(written: Path, graph: str) -> None:
    rewritten(written, lambda header, rows: rows[1].update(graph=graph))
    with pytest.raises(ProfileError, match="row 1"):
        read_profile(written)


@pytest.mark.parametrize("sources", [[], [[0]] * len(OPERATORS), [[-2]] * len(OPERATORS), "ab"])
def test_a_network_whose_operators_do_not_read_one_another_is_refused(written: Path, sources: Any) -> None:
    def edit(header: Any, rows: Any) -> None:
        rows[len(OPERATORS)]["graph"] = json.dumps(
            {**json.loads(rows[len(OPERATORS)]["graph"]), "sources": sources}
        )

    rewritten(written, edit)
    with pytest.raises(ProfileError, match=rf"row {len(OPERATORS)}"):
        read_profile(written)


def test_a_row_that_is_neither_kernel_nor_network_is_refused_naming_it(written: Path) -> None:
    rewritten(written, lambda header, rows: rows[0].update(entry="guess"))
    with pytest.raises(ProfileError, match=r"row 0 .*'guess'"):
        read_profile(written)


CONV = json.dumps(asdict(OPERATORS[1]))


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (CONV.replace('"in_channels": 20', '"in_channels": -20'), "less than 1 channel"),
        (
            CONV.replace('"in_channels": 20', '"in_channels": "20"'),
            "in_channels: Input should be a valid int",
        ),
        (
            CONV.replace('"in_channels": 20', '"in_channels": null'),
            "in_channels: Input should be a valid int",
        ),
        (CONV.replace('"in_channels": 20', '"in_channels": 1e3'), "in_channels: Input should be a valid int"),
        (CONV.replace('"in_channels": 20', f'"in_channels": {2**62}'), "more than 1073741824"),
        (CONV.replace('"kernel": [3, 3]', '"kernel": [3]'), "kernel of a 'conv2d' has 1 numbers; wanted 2"),
        (CONV.replace('"kernel": [3, 3]', '"kernel": [3, 0]'), "kernel has a number below 1"),
        (CONV.replace('"groups": 1', '"groups": 3'), "cannot be divided into its groups"),
        (CONV.replace('"groups": 1', '"groups": 0'), "cannot be divided into its groups"),
        (CONV.replace('"conv2d"', r'"\ud800"'), "hex escape"),
        (CONV.replace('"kind"', '"width": 1, "kind"'), "width: Unexpected"),
        ("[" * 100_000, "recursion limit"),
        (json.dumps(asdict(OPERATORS[0])), "has a row already"),
    ],
)
def test_an_operator_that_cannot_be_is_refused_naming_its_row(written: Path, graph: str, says: str) -> None:
    assert graph != CONV
    rewritten(written, lambda header, rows: rows[1].update(graph=graph), signed=True)
    with pytest.raises(ProfileError, match=rf"bench\.parquet, row 1 .*{says}"):
        read_profile(written)


def test_an_operator_of_a_network_that_cannot_be_is_refused_naming_its_row(written: Path) -> None:
    row = len(OPERATORS)

    def edit(header: Any, rows: Any) -> None:
        rows[row]["graph"] = rows[row]["graph"].replace('"in_channels": 20', '"in_channels": -20')

    rewritten(written, edit, signed=True)
    with pytest.raises(ProfileError, match=rf"row {row} \(dense\): .*less than 1 channel"):
        read_profile(written)


@pytest.mark.parametrize("column", ["entry", "name", "graph", "passes", "rounds", "times_ms"])
def test_an_empty_cell_is_refused_naming_its_row(written: Path, column: str) -> None:
    rewritten(written, lambda header, rows: rows[2].update({column: None}), signed=True)
    with pytest.raises(ProfileError, match=r"row 2 .*empty"):
        read_profile(written)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"versions": None}, "device.versions: Input should be an object"),
        ({"versions": {"onnxruntime": 1.31}}, "device.versions.onnxruntime: Input should be a valid string"),
        ({"batch": "1"}, "device.batch: Input should be a valid integer"),
        ({"cache_mb": float("nan")}, "device.cache_mb: Input should be a finite number"),
        ({"name": None}, "device.name: Input should be a valid string"),
        ({"board": "\ud800"}, "hex escape"),
        ({"colour": 1}, "device.colour: Unexpected"),
    ],
)
def test_a_device_that_cannot_be_is_refused(written: Path, change: dict[str, Any], says: str) -> None:
    rewritten(written, lambda header, rows: header["device"].update(change), signed=True)
    with pytest.raises(ProfileError, match=rf"bench\.parquet .*{says}"):
        read_profile(written)


@pytest.mark.parametrize("created", [None, 5, "yesterday", "2026-01-02T03:04:05", "0001-01-01T00:00+23:00"])
def test_a_date_of_no_time_zone_or_none_at_all_is_refused(written: Path, created: Any) -> None:
    rewritten(written, lambda header, rows: header.update(created=created), signed=True)
    with pytest.raises(ProfileError, match=r"bench\.parquet .*(created: Input should|out of range)"):
        read_profile(written)


@pytest.mark.parametrize("change", [{"board": "\ud800"}, {"versions": {"\udcff": ""}}])
def test_a_name_that_is_no_text_is_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    profile = profile_of(np.ones((1, 1, 3)))
    with pytest.raises(ProfileError, match="is no text in UTF-8; rename it"):
        write_profile(replace(profile, device=replace(DEVICE, **change)), tmp_path / "odd.parquet")
    assert not list(tmp_path.iterdir())


def test_a_changed_time_is_noticed(written: Path) -> None:
    rewritten(written, lambda header, rows: rows[0]["times_ms"].__setitem__(0, 0.2))
    with pytest.raises(ProfileError, match="sha256"):
        read_profile(written)


def test_a_changed_device_is_noticed(written: Path) -> None:
    rewritten(written, lambda header, rows: header["device"].update(threads=8))
    with pytest.raises(ProfileError, match="sha256"):
        read_profile(written)


def test_another_format_is_refused_by_its_number(written: Path) -> None:
    rewritten(written, lambda header, rows: header.update(format=99))
    with pytest.raises(ProfileError, match=r"format 99.*reads format 2"):
        read_profile(written)


def test_a_parquet_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ProfileError, match=r"other\.parquet"):
        read_profile(tmp_path / "other.parquet")


def test_a_missing_profile_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"no profile at .*measure the device"):
        read_profile(tmp_path / "none.parquet")


def test_a_profile_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_profile(profile_of(np.ones((1, 1, 3))), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
