"""Files of an older minor schema version rewritten at today's, for readers other than this library.

The library itself reads them as they are, with null in the columns that they lack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from frugal.records.files import RUN_KEY, TABLE_KEY, VERSION_KEY, read_metadata, read_parquet, write_parquet
from frugal.records.read import job_run, job_table
from frugal.records.schema import SCHEMA_VERSION, SCHEMAS, RecordError, conform
from frugal.records.write import run_json, table_of


@dataclass(frozen=True)
class Migrated:
    """A file and the schema version that it had; `rewritten` is false where that is today's or a newer one."""

    path: Path
    found: str
    rewritten: bool


def migrate(paths: Iterable[str | Path]) -> list[Migrated]:
    """Rewrite files of ours, and those beneath folders, at today's schema version; sorted by path.

    Columns that an older minor version lacked are null; a file of a newer minor version is left as it is. Every file is
    looked at before the first is rewritten, and each is written beside and renamed. RecordError for a path that does
    not exist, a folder without Parquet files and a damaged file, SchemaMismatch for another major version or a foreign
    file: nothing is rewritten then.
    """
    files = sorted({file for path in paths for file in _files(Path(path))})
    versions = {file: read_metadata(file)[VERSION_KEY].decode() for file in files}
    for file in files:
        _today(file)
    done = []
    for file, found in versions.items():
        older = _number(found) < _number(SCHEMA_VERSION)
        if older:
            write_parquet(file, *_today(file))
        done.append(Migrated(file, found, older))
    return done


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [file for file in path.rglob("*.parquet") if not file.name.startswith(".")]
    if not found:
        raise RecordError(f"{path} holds no Parquet file: name the file, or a folder that holds some")
    return found


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _today(path: Path) -> tuple[pa.Table, dict[bytes, bytes]]:
    """The file's table with today's columns, and its metadata, both read to the end: what is damaged shows here."""
    kind = read_metadata(path).get(TABLE_KEY, b"nothing known").decode()
    if kind == "job":
        table = job_table(path)
        (run,) = table_of("runs", [job_run(table)]).to_pylist()
        return table, {TABLE_KEY: b"job", RUN_KEY: run_json(run)}
    if kind not in SCHEMAS:
        raise RecordError(f"{path} holds {kind}, which this frugal does not know: update frugal")
    return conform(read_parquet(path), SCHEMAS[kind], path), {TABLE_KEY: kind.encode()}
