"""A folder of files as one zip, made while it is sent: nothing of it is held, on disk or in memory."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

PIECE_BYTES = 2**20


def zipped(files: Mapping[str, Path]) -> Iterator[bytes]:
    """The bytes of a zip of files, by their names in it; what is sent is what they were at the call.

    Raises:
        FileNotFoundError: one is gone.
    """
    with ExitStack() as opening:
        opened = {name: opening.enter_context(path.open("rb")) for name, path in files.items()}
        return _zipped(opened, opening.pop_all())


def _zipped(opened: Mapping[str, BinaryIO], closing: ExitStack) -> Iterator[bytes]:
    written = _Written()
    with closing, zipfile.ZipFile(written, "w") as archive:
        for name, file in opened.items():
            changed = time.gmtime(os.fstat(file.fileno()).st_mtime)[:6]
            # Weights do not get smaller; and what is of unknown length needs room for a long one.
            with archive.open(zipfile.ZipInfo(name, changed), "w", force_zip64=True) as entry:
                while piece := file.read(PIECE_BYTES):
                    entry.write(piece)
                    yield written.taken()
    yield written.taken()


class _Written:
    """What a zip has written since it was taken; it cannot go back in it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """There is nothing below."""

    def close(self) -> None:
        """Nothing is open."""

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
