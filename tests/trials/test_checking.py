"""Data that somebody brought: what is none is refused by what its headers say, and nothing of it is run."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hwprofiles.errors import RequestError
from trials.checking import InputKind, check, check_here, kind_of

MOST_BYTES = 100_000


class Canary:
    """What a pickle would run where it is loaded."""

    sang = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Canary, "sang", True))


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(shape: str, dtype: str = "'<f8'") -> bytes:
    """An array's file that says of itself what is not so."""
    told = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(told).to_bytes(2, "little") + told.encode()


NUMBERS = array(np.ones(3))
HOSTILE: dict[str, dict[str, bytes]] = {
    "'x.npy' is object of shape": {"x.npy": array(np.array([Canary()]))},
    r"'x.npy' is \[\('a', 'O'\)\] of shape": {"x.npy": header("(1,)", "[('a', '|O')]") + bytes(8)},
    r"take \d+ bytes unpacked; at most 100000": {"x.npy": header("(12500,)") + bytes(100_000)},
    r"\(3,\), and holds something else": {"x.npy": NUMBERS + b"more"},
    r"\(1000000000000,\), and holds something else": {"x.npy": header("(1000000000000,)")},
    "cannot be read .*; write it again": {"x.npy": header("__import__('os').getpid()")},
    "hold '../../x.npz', which is no array": {"../../x.npz": b""},
    "hold 65 arrays; at most 64": {f"{number}.npy": NUMBERS for number in range(65)},
}


@pytest.mark.parametrize(("sentence", "members"), HOSTILE.items(), ids=list(map(str, range(len(HOSTILE)))))
def test_an_npz_that_is_none_is_refused(tmp_path: Path, sentence: str, members: dict[str, bytes]) -> None:
    path = zipped(tmp_path / "data", members)
    assert kind_of(path) is InputKind.NPZ
    with pytest.raises(RequestError, match=sentence):
        check_here(InputKind.NPZ, path, MOST_BYTES)
    assert not Canary.sang


def test_an_npz_is_packed_as_numpy_does_and_whole(tmp_path: Path) -> None:
    odd = zipped(tmp_path / "odd", {"x.npy": NUMBERS}, zipfile.ZIP_LZMA)
    with pytest.raises(RequestError, match=r"'x.npy' is packed as numpy does not"):
        check_here(InputKind.NPZ, odd, MOST_BYTES)
    cut = zipped(tmp_path / "cut", {"x.npy": NUMBERS})
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(RequestError, match="this npz cannot be read"):
        check_here(InputKind.NPZ, cut, MOST_BYTES)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "values", [np.ones((4, 1, 8, 8), np.float32), np.arange(5), np.zeros((0, 3)), np.array(1)]
)
def test_what_numpy_saves_is_data(tmp_path: Path, values: Any, method: int) -> None:
    check_here(InputKind.NPZ, zipped(tmp_path / "data", {"x.npy": array(values)}, method), MOST_BYTES)


def test_a_parquet_is_unpacked_to_see_what_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "data"
    pq.write_table(pa.table({"label": [0, 1], "x": [[0.0], [1.0]]}), path)
    assert kind_of(path) is InputKind.PARQUET
    check_here(InputKind.PARQUET, path, MOST_BYTES)
    path.write_bytes(path.read_bytes()[:-50] + b"PAR1")
    with pytest.raises(RequestError, match="this parquet cannot be read"):
        check_here(InputKind.PARQUET, path, MOST_BYTES)


def test_a_value_that_is_repeated_without_end_breaks_no_process_but_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One value of 20 MB: hardly a byte on the disk, and more than a gigabyte for the first few rows."""
    path = tmp_path / "data"
    label = pa.DictionaryArray.from_arrays(np.zeros(64, dtype=np.int32), ["x" * 20_000_000])
    pq.write_table(pa.table({"label": label}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr("trials.checking.MEMORY_BYTES", 2**29)
    with pytest.raises(RequestError, match=r"this parquet (cannot be read|breaks its reader)"):
        check(InputKind.PARQUET, path, path.stat().st_size, most_bytes=2**40)
