"""Whatever happens to a profile's bytes or rows, it is refused, or read as it was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprofiles import Profile, files, read_profile, write_profile
from hwprofiles.errors import ProfileError
from tests.hwprofiles.test_files import profile_of

PROFILE = profile_of(np.linspace(0.1, 0.9, 12).reshape(2, 2, 3))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("profiles") / "whole.parquet"
    write_profile(PROFILE, path)
    return path.read_bytes()


def read_bytes(data: bytes) -> Profile | None:
    """The profile in a file of these bytes, or None where it is refused."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.parquet"
        path.write_bytes(data)
        try:
            return read_profile(path)
        except ProfileError:
            return None


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bits_are_noticed_or_harmless(data: st.DataObject, written: bytes) -> None:
    damaged = bytearray(written)
    for position in data.draw(st.lists(st.integers(0, 8 * len(written) - 1), min_size=1, max_size=4)):
        damaged[position // 8] ^= 1 << position % 8
    assert read_bytes(bytes(damaged)) in (None, PROFILE)


@settings(max_examples=50)
@given(data=st.data())
def test_cut_out_bytes_are_noticed(data: st.DataObject, written: bytes) -> None:
    start = data.draw(st.integers(0, len(written) - 1))
    end = data.draw(st.integers(start + 1, len(written)))
    assert read_bytes(written[:start] + written[end:]) in (None, PROFILE)


Edit = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[::-1],
        lambda rows: [rows[1], rows[0], *rows[2:]],
        lambda rows: rows[1:],
        lambda rows: [*rows, rows[0]],
        lambda rows: [],
        lambda rows: [{**rows[0], "name": "another"}, *rows[1:]],
        lambda rows: [{**rows[0], "passes": 1, "rounds": 4}, *rows[1:]],
    ],
)
def test_rows_that_change_places_go_or_come_are_noticed(edit: Edit, tmp_path: Path) -> None:
    write_profile(PROFILE, tmp_path / "edited.parquet")
    table = pq.read_table(tmp_path / "edited.parquet")
    pq.write_table(
        type(table).from_pylist(edit(table.to_pylist()), schema=table.schema), tmp_path / "edited.parquet"
    )
    with pytest.raises(ProfileError, match=r"edited\.parquet"):
        read_profile(tmp_path / "edited.parquet")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([np.ones(2**18)]),
        pa.array(["x" * 2**15] * 256),
    ],
    ids=["a number again and again in a list", "a text in row after row"],
)
def test_a_small_file_that_unpacks_to_more_than_a_profile_may_take_is_refused(
    column: pa.Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MOST_BYTES", 2**20)
    pq.write_table(pa.table({"times_ms": column}), tmp_path / "small.parquet", compression="zstd")
    assert (tmp_path / "small.parquet").stat().st_size < 2**14
    with pytest.raises(ProfileError, match=r"unpacked it takes more than 1 MiB\); measure again"):
        read_profile(tmp_path / "small.parquet")
