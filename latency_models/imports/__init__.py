"""Latency tables that others measured, as profiles; docs/import.md says which files and columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hwprofiles.device import Device
from hwprofiles.errors import RequestError, nearest
from latency_models.imports.layers import read_csv, read_yaml
from latency_models.imports.record import Imported
from latency_models.imports.trtexec import read_engines

__all__ = ["FORMATS", "Imported", "import_profile"]

FORMATS: dict[str, Callable[[Sequence[Path], Device], Imported]] = {
    "csv": read_csv,
    "yaml": read_yaml,
    "trtexec": read_engines,
}


def import_profile(paths: Sequence[Path], form: str, device: Device) -> Imported:
    """Read files of one form, a name in `FORMATS`, into one profile of `device`.

    Args:
        device: where and how they were measured, in the user's own words; `source` joins its versions.

    Raises:
        RequestError: the form is not known, or a file cannot be read.
        ProfileError: a file is damaged, a pickle or no such table, or a row is impossible or there twice.
    """
    if form not in FORMATS:
        raise RequestError(f"tables of the form {form!r} cannot be imported; {nearest(form, FORMATS)}")
    return FORMATS[form](paths, device)
