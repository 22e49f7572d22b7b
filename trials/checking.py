"""Holds what somebody brought against what it shall be, in a process that may take so much and no more.

Nothing is unpickled. A reader that is broken by what it reads, or made to take too much memory or time, takes
nothing else with it. `python -m trials.checking KIND PATH MOST_BYTES MEMORY_BYTES` is that process.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import numpy as np

from hwprofiles.errors import RequestError

MEMORY_BYTES = 4 * 2**30
"""For the process, beside twice what it reads."""
TIME_S = 600.0
MAX_ARRAYS = 64
"""In one npz file."""
_REFUSED = 2


class InputKind(StrEnum):
    """What something is that was brought."""

    BUNDLE = "bundle"
    NPZ = "npz"
    PARQUET = "parquet"


def kind_of(file: Path) -> InputKind:
    """What kind of data a file says it is.

    Raises:
        RequestError: none that a job can read.
    """
    with file.open("rb") as opened:
        start = opened.read(4)
    if start == b"PK\x03\x04":
        return InputKind.NPZ
    if start == b"PAR1":
        return InputKind.PARQUET
    raise RequestError("these data are neither npz nor Parquet; write them with numpy.savez or as Parquet")


def check(kind: InputKind, path: Path, size_bytes: int, most_bytes: int) -> None:
    """Check a bundle's folder, or a file of data.

    Args:
        size_bytes: of its files.
        most_bytes: that data may take unpacked.

    Raises:
        RequestError: it is not what it shall be; the sentence names no path of this machine.
    """
    limits = str(most_bytes), str(MEMORY_BYTES + 2 * size_bytes)
    command = [sys.executable, "-m", "trials.checking", kind, str(path), *limits]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_S)
    except subprocess.TimeoutExpired:
        raise RequestError(f"this {kind} takes more than {TIME_S:.0f} s to be read") from None
    if done.returncode == _REFUSED:
        raise RequestError(done.stdout.decode().replace(f"{path}/", "").replace(str(path), f"this {kind}"))
    if done.returncode:
        raise RequestError(f"this {kind} breaks its reader, or takes too much memory")


def check_here(kind: InputKind, path: Path, most_bytes: int) -> None:
    """Check in this process.

    Raises:
        RequestError: it is not what it shall be.
    """
    try:
        _CHECKS[kind](path, most_bytes)
    except RequestError:
        raise
    except Exception as error:  # each library has its own ways to say that a file is none of its own
        reason = str(error)[:300] or type(error).__name__
        raise RequestError(f"this {kind} cannot be read ({reason}); write it again") from error


def _check_bundle(folder: Path, most_bytes: int) -> None:
    from trials.bundle import read_bundle

    read_bundle(folder)


def _check_npz(path: Path, most_bytes: int) -> None:
    """Look at the names, sizes and headers of all arrays; unpacks no more than those."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(members) > MAX_ARRAYS:
            raise RequestError(f"these data hold {len(members)} arrays; at most {MAX_ARRAYS} are allowed")
        if odd := [name for name in names if not name.endswith(".npy") or names.count(name) > 1]:
            raise RequestError(f"these data hold {odd[0][:80]!r}, which is no array of numpy.savez")
        if (unpacked := sum(member.file_size for member in members)) > most_bytes:
            raise RequestError(f"these data take {unpacked} bytes unpacked; at most {most_bytes} are allowed")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RequestError(f"{member.filename[:80]!r} is packed as numpy does not; use numpy.savez")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = _HEADERS.get(version)
                if read_header is None:
                    raise RequestError(f"{member.filename[:80]!r} is no array of numbers; use numpy.savez")
                shape, _, dtype = read_header(file)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    raise RequestError(
                        f"{member.filename[:80]!r} is {dtype} of shape {shape}, and holds something else; "
                        "store arrays of numbers"
                    )


def _check_parquet(path: Path, most_bytes: int) -> None:
    """Unpack all of it, a few rows at a time."""
    from hwprofiles.parquet import parquet_batches

    for _ in parquet_batches(path, most_bytes):
        pass


_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_CHECKS: dict[InputKind, Callable[[Path, int], None]] = {
    InputKind.BUNDLE: _check_bundle,
    InputKind.NPZ: _check_npz,
    InputKind.PARQUET: _check_parquet,
}


def _main(kind: str, path: str, most_bytes: str, memory_bytes: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        check_here(InputKind(kind), Path(path), int(most_bytes))
    except RequestError as error:
        print(error, end="")
        sys.exit(_REFUSED)


if __name__ == "__main__":
    _main(*sys.argv[1:])
