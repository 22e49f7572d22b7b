"""Latency tables that others measured, as profiles; docs/import.md says which files and columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hwprofiles.device import Device
from hwprofiles.errors import RequestError, nearest
from latency_models.imports.layers import read_csv, read_yaml
from latency_models.imports.record import Imported
from latency_models.imports.trtexec import read_engines
from latency_models.kernels import BYTES_PER_WEIGHT

__all__ = ["FORMATS", "Imported", "import_profile"]

FORMATS: dict[str, Callable[[Sequence[Path], Device], Imported]] = {
    "csv": read_csv,
    "yaml": read_yaml,
    "trtexec": read_engines,
}

MAX_WORDS = 100
"""Characters in which a board or a runtime is described."""


def import_profile(paths: Sequence[Path], form: str, device: Device) -> Imported:
    """Read files of one form, a name in `FORMATS`, into one profile of `device`.

    Args:
        device: where and how they were measured, in the user's own words; `source` joins its versions.

    Raises:
        RequestError: the form is not known, a file cannot be read, or no device can be described so.
        ProfileError: a file is damaged, a pickle or no such table, or a row is impossible or there twice.
    """
    if form not in FORMATS:
        raise RequestError(f"tables of the form {form!r} cannot be imported; allowed: {', '.join(FORMATS)}")
    _check_described(device)
    return FORMATS[form](paths, device)


def _check_described(device: Device) -> None:
    """Refuse a precision that is none, and words that say nothing or would break whatever shows them.

    Raises:
        RequestError: as said.
    """
    if device.precision not in BYTES_PER_WEIGHT:
        raise RequestError(
            f"no device runs in {device.precision!r}; {nearest(device.precision, BYTES_PER_WEIGHT)}"
        )
    for key, words in (("board", device.board), ("runtime", device.runtime)):
        if not words.strip() or not words.isprintable() or len(words) > MAX_WORDS:
            raise RequestError(
                f"the {key} cannot be called {words[:40]!r}; use 1 to {MAX_WORDS} printable characters"
            )
