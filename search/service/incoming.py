"""Files on their way in: part by part, in order, until all is there and is what its sha256 says.

Each user's are their own: by a sha256 alone nobody learns that another has sent that file, nor gets it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from hwprofiles.disk import file_sha256, is_full
from hwprofiles.errors import ConflictError, NoRoomError, RequestError, TransientError
from search.service.health import ROOM_BYTES

KEPT_S = 86_400.0
"""A file that has not grown for so long is removed, whole or not."""


class Incoming:
    """What users are sending, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def whole(self, user: str, sha256: str) -> Path | None:
        """Where a file lies of which all has come."""
        path = self._folder / user / sha256
        return path if path.exists() else None

    def size_bytes(self, user: str, sha256: str) -> int:
        """How much of a file is here."""
        for path in (self._folder / user / sha256, self._growing(user, sha256)):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def all_bytes(self, user: str) -> int:
        """How much of all files of a user is here."""
        sizes = 0
        for path in self._folder.glob(f"{user}/*"):
            with suppress(FileNotFoundError):
                sizes += path.stat().st_size
        return sizes

    def remove(self, user: str, sha256: str) -> bool:
        """Give up a file, as far as it is here; False where nothing is.

        Raises:
            ConflictError: another call is sending it.
        """
        whole, growing = self._folder / user / sha256, self._growing(user, sha256)
        was_here = whole.exists() or growing.exists()
        whole.unlink(missing_ok=True)
        if growing.exists():
            with _alone(growing):
                growing.unlink()
        return was_here

    async def append(
        self, user: str, sha256: str, pieces: AsyncIterator[bytes], *, first: int, size: int, total: int
    ) -> None:
        """Add a part to a file, in place of all from its first byte on that is here. What comes of it stays,
        though the call may be cut off.

        Args:
            first: the position of the part's first byte in the file.
            size: of the part, in bytes.
            total: of the file, in bytes.

        Raises:
            ConflictError: the part begins behind what is here, or another call is sending one.
            RequestError: the part is longer than it says, or the file is not what its sha256 says.
            NoRoomError: the disk has no room.
            TransientError: the call was cut off, or the disk fails.
        """
        if self.whole(user, sha256):
            return
        self._sweep()
        path = self._growing(user, sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < total - first + ROOM_BYTES:
            raise NoRoomError("the disk of the service has no room for this file; try again later")
        with _alone(path) as file:
            if first > file.tell():
                raise ConflictError(
                    f"{file.tell()} bytes of this file are here; send the part that begins there"
                )
            file.seek(first)
            file.truncate()
            try:
                async for piece in pieces:
                    file.write(piece)
                    if file.tell() > first + size:
                        file.truncate(first)
                        raise RequestError(f"this part has more than the {size} bytes of its Content-Range")
                file.flush()
            except ClientDisconnect as error:
                raise TransientError("the call was cut off; go on with what is not here yet") from error
            except OSError as error:
                kind = NoRoomError if is_full(error) else TransientError
                raise kind(f"the disk of the service takes no more: {error.strerror}") from error
            if file.tell() == total:
                await run_in_threadpool(self._finish, file, path, sha256)

    def _finish(self, file: IO[bytes], path: Path, sha256: str) -> None:
        os.fsync(file.fileno())
        if (found := file_sha256(path)) != sha256:
            path.unlink()
            raise RequestError(
                f"the file that was sent as {sha256[:12]}… has sha256 {found[:12]}…; send it again"
            )
        path.rename(path.with_name(sha256))

    def _growing(self, user: str, sha256: str) -> Path:
        return self._folder / user / f"{sha256}.part"

    def _sweep(self) -> None:
        for path in self._folder.glob("*/*"):
            with suppress(FileNotFoundError, ConflictError):
                if path.stat().st_mtime < time.time() - KEPT_S:
                    with _alone(path):
                        path.unlink()


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to append to it, if nobody else does so now."""
    busy = ConflictError("another call is sending this file now; ask how much of it is here, and go on there")
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise busy  # who had it before has just finished it
        yield file
