"""Parquet files of ours: whole or not there when written, and read with one sentence for a damaged one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from frugal.files import publishing
from frugal.records.schema import SCHEMA_VERSION, RecordError, SchemaMismatch

VERSION_KEY = b"schema_version"
TABLE_KEY = b"frugal.table"  # a table's name, or "job"
RUN_KEY = b"frugal.run"


def write_parquet(path: str | Path, table: pa.Table, metadata: dict[bytes, bytes]) -> None:
    """Write a table with our metadata: zstd level 9, dictionaries, a checksum a page. Atomic.

    The start of each sample is stored as its distance from the one before: a quarter less than any other way.
    """
    table = table.replace_schema_metadata({VERSION_KEY: SCHEMA_VERSION.encode(), **metadata})
    rising = [name for name in table.column_names if name == "start_ns"]
    with publishing(path) as file:
        pq.write_table(
            table,
            file,
            compression="zstd",
            compression_level=9,
            use_dictionary=[name for name in table.column_names if name not in rising] if rising else True,
            column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED") or None,
            write_page_checksum=True,
        )


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file of ours, its metadata in `.schema.metadata`, and only those of `columns` that it has, where named.

    Raises RecordError for a missing, foreign or damaged file and SchemaMismatch for another major version.
    """
    path = Path(path)
    metadata = read_metadata(path)
    try:
        if columns is not None:
            there = pq.read_schema(path).names
            # One at least: without any, the number of rows would be lost.
            columns = [name for name in columns if name in there] or there[:1]
        table = pq.read_table(path, columns=columns, page_checksum_verification=True, partitioning=None)
    except (pa.ArrowException, OSError) as problem:
        raise _damaged(path, problem) from problem
    return table.replace_schema_metadata(metadata)


def read_metadata(path: str | Path) -> dict[bytes, bytes]:
    """The metadata of a file of ours; errors as `read_parquet`."""
    path = Path(path)
    if not path.is_file():
        raise RecordError(f"{path} does not exist: run what makes it first")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as problem:
        raise _damaged(path, problem) from problem
    found = metadata.get(VERSION_KEY, b"none").decode()
    if found.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise SchemaMismatch(found, SCHEMA_VERSION, path)
    return metadata


def _damaged(path: Path, problem: Exception) -> RecordError:
    why = str(problem).strip().split("\n")[0].rstrip(".")
    return RecordError(f"{path} is damaged, cut short or no Parquet file ({why}): delete it and run again")
