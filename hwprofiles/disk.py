"""Files and folders that are on the disk whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hwprofiles.errors import NoRoomError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` as `whole_file` does."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to fill. It takes the place of `path` once it is on the disk, or is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # readable by whom the umask lets
    with partial.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink()
            raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill. It takes the place of `folder` when all went well, and is gone if not.

    So are those, then, that were made to hold it.
    """
    partial, replaced = (
        folder.with_name(f".{folder.name}.{what}-{os.getpid()}") for what in ("partial", "replaced")
    )
    shutil.rmtree(partial, ignore_errors=True)
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # the folder is in it
                parent.rmdir()


def is_full(error: BaseException | None) -> bool:
    """Whether it comes of a disk, or a quota on one, that has no room left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, NoRoomError) or "No space left on device" in str(error):  # as safetensors says
            return True
        error = error.__cause__ or error.__context__
    return False


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
