"""Sources that are files: NumPy's archives, Parquet tables, and folders of images."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from trials.data.splits import Array

Examples = tuple[tuple[Array, ...], Array]
Select = Callable[[int], slice]
"""Given how many rows there are, the ones that the job wants; refuses what is out of range."""
Reader = Callable[[Path, Select], tuple[Examples, tuple[str, ...]]]


def _read_npz(path: Path, select: Select) -> tuple[Examples, tuple[str, ...]]:
    """Arrays by name: `y` holds the labels, every other one is an input, in the file's order."""
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # archives and array headers break in many ways, each with a class of its own
        reason = str(error) or type(error).__name__
        raise RequestError(
            f"{path.name} cannot be read as npz ({reason}); write it with numpy.savez"
        ) from None
    for name, values in arrays.items():
        if not values.ndim:
            raise RequestError(f"{path.name} holds no rows as {name!r}; store one row per example")
    labels = arrays.pop("y", None)
    if labels is None or not arrays:
        raise RequestError(f"{path.name} holds {sorted(arrays)}; it needs inputs (x) and labels (y)")
    # The longest, so that arrays of different lengths stay so and are refused.
    rows = select(max(len(values) for values in (labels, *arrays.values())))
    return (tuple(values[rows] for values in arrays.values()), labels[rows]), ()


def _read_parquet(path: Path, select: Select) -> tuple[Examples, tuple[str, ...]]:
    """`label`, and either encoded images in `image`, or list columns of one length, each an input."""
    import pyarrow as pa

    from hwprofiles.parquet import read_parquet

    try:
        table = read_parquet(path, most_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RequestError(f"{path.name} cannot be read as Parquet ({error})") from None
    columns = dict(zip(table.column_names, table.schema.types, strict=True))
    lists = [
        name for name, kind in columns.items() if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    ]
    if "label" not in columns or not ("image" in columns or lists):
        raise RequestError(
            f"{path.name} has the columns {list(columns)}; it needs 'label' and 'image' (encoded bytes), "
            "or 'label' and columns of lists"
        )
    if columns.get("image", pa.binary()) not in (pa.binary(), pa.large_binary()):
        raise RequestError(
            f"{path.name} has a column 'image' of type {columns['image']}; allowed: binary, the bytes of "
            "image files"
        )
    rows = select(table.num_rows)
    table = table.slice(rows.start, rows.stop - rows.start)
    labels = table["label"].to_numpy()
    if "image" in columns:
        encoded = (value.as_py() for value in table["image"])
        sources = (
            (f"row {row} of {path.name}", io.BytesIO(image)) for row, image in enumerate(encoded, rows.start)
        )
        return ((_decode(sources, table.num_rows),), labels), ()
    return (tuple(_list_column(table[name].combine_chunks(), name, path) for name in lists), labels), ()


def _list_column(column: Any, name: str, path: Path) -> Array:
    values = column.flatten().to_numpy(zero_copy_only=False)
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) > 1 or None in lengths:
        raise RequestError(f"column {name!r} of {path.name} has lists of several lengths; pad them to one")
    return np.asarray(values).reshape(len(column), -1)


def _read_folder(path: Path, select: Select) -> tuple[Examples, tuple[str, ...]]:
    """One folder per class, in the order of their names; every file in it is an image."""
    if not path.is_dir():
        raise RequestError(f"{path} is a file; name a folder that holds one folder of images per class")
    classes = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    files = [
        (label, file)
        for label, name in enumerate(classes)
        for file in sorted((path / name).iterdir())
        if not file.name.startswith(".")
    ]
    if not files:
        raise RequestError(f"{path} holds no folder of images; put each class in a folder of its name")
    files = files[select(len(files))]
    sources = ((str(file.relative_to(path)), file) for _, file in files)
    labels = np.array([label for label, _ in files])
    return ((_decode(sources, len(files)),), labels), tuple(classes)


def _decode(sources: Iterator[tuple[str, Any]], count: int) -> NDArray[np.uint8]:
    """Decode images into (count, channels, height, width); grey stays one channel, all else becomes RGB."""
    from PIL import Image

    pixels: NDArray[np.uint8] | None = None
    mode = ""
    for row, (where, source) in enumerate(sources):
        try:
            with Image.open(source) as image:
                mode = mode or ("L" if image.mode in ("L", "1") else "RGB")
                values = np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)
        except Exception as error:  # Pillow has a class for each format's way to be damaged
            raise RequestError(
                f"{where} is no image that can be read ({error}); remove or replace it"
            ) from None
        if pixels is None:
            pixels = np.empty((count, *values.transpose(2, 0, 1).shape), dtype=np.uint8)
        if values.transpose(2, 0, 1).shape != pixels.shape[1:]:
            raise RequestError(
                f"{where} is {values.shape[0]}x{values.shape[1]} but the first image is "
                f"{pixels.shape[2]}x{pixels.shape[3]}; resize all images to one size"
            )
        pixels[row] = values.transpose(2, 0, 1)
    return np.empty((0, 1, 1, 1), dtype=np.uint8) if pixels is None else pixels


READERS: Mapping[str, Reader] = {"npz": _read_npz, "parquet": _read_parquet, "folder": _read_folder}
"""Sources that are files: what each makes of one path; the names of the classes where it knows them."""
