"""Parquet files that somebody else wrote, read as far as memory is meant for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_ROWS_AT_A_TIME = 64


def read_parquet(path: Path, most_bytes: int) -> pa.Table:
    """Read all of a file.

    Raises:
        ValueError, OSError, pa.ArrowException: as `parquet_batches`.
    """
    with pq.ParquetFile(path, memory_map=False) as file:
        return pa.Table.from_batches(_batches(file, most_bytes), file.schema_arrow)


def parquet_batches(path: Path, most_bytes: int) -> Iterator[pa.RecordBatch]:
    """Read a file, a few rows at a time.

    What it takes unpacked is asked of the file, and watched while it is read: a few kilobytes may repeat one
    value as often as they like.

    Raises:
        ValueError: unpacked it takes more than `most_bytes`.
        OSError, pa.ArrowException: there is none, or it is damaged.
    """
    with pq.ParquetFile(path, memory_map=False) as file:
        yield from _batches(file, most_bytes)


def _batches(file: pq.ParquetFile, most_bytes: int) -> Iterator[pa.RecordBatch]:
    told, taken = file.metadata, 0
    groups = (told.row_group(number) for number in range(told.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(told.num_columns))
    _check(sum(max(c.total_uncompressed_size, c.num_values * _width(c)) for c in columns), most_bytes)
    for batch in file.iter_batches(_ROWS_AT_A_TIME):
        taken += batch.nbytes
        _check(taken, most_bytes)
        yield batch


def _width(column: pq.ColumnChunkMetaData) -> int:
    """Bytes that each of its values takes at least; that small integers are small, Parquet does not tell."""
    return {"FLOAT": 4, "DOUBLE": 8, "INT64": 8}.get(column.physical_type, 1)


def _check(unpacked_bytes: int, most_bytes: int) -> None:
    if unpacked_bytes > most_bytes:
        raise ValueError(f"unpacked it takes more than {most_bytes / 2**20:,.0f} MiB")
