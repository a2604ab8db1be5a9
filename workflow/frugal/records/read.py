"""Reading tables, whether from job files or from aggregated ones."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from frugal.records.columns import Measurement, RowKey, Run, Sample
from frugal.records.files import RUN_KEY, TABLE_KEY, read_metadata, read_parquet
from frugal.records.schema import JOB, SAMPLE, SAMPLE_KEY, SCHEMAS, RecordError, conform, schema_of
from frugal.records.write import run_from_json, table_of

_IN_JOBS = ("runs", "measurements", "samples")


def read(path_or_dir: str | Path, table: str, columns: Collection[str] | None = None) -> pa.Table:
    """Read a table from one file, from a folder with `<table>.parquet`, or from all job files beneath a folder.

    Only these `columns`, in the schema's order, where they are named. Columns that an older minor version lacked are
    null. Raises RecordError for an unknown table or column, a missing, foreign or damaged file and a folder without
    such rows; SchemaMismatch for another major version.
    """
    schema = _schema(table, columns)
    path = Path(path_or_dir)
    if not path.is_dir():
        return _read_file(path, table, schema)
    if (path / f"{table}.parquet").is_file():
        return _read_file(path / f"{table}.parquet", table, schema)
    jobs = job_files(path) if table in _IN_JOBS else []
    if not jobs:
        raise RecordError(f"{path} holds neither {table}.parquet nor job files with {table}: run what makes them first")
    return pa.concat_tables([_read_file(job, table, schema) for job in jobs]).cast(schema)


def read_job(path: str | Path) -> tuple[Run, list[Measurement], dict[RowKey, list[Sample]]]:
    """What `write_job` was given: the run, its rows in order, and the samples of the rows that have some."""
    table = job_table(path)
    names = SCHEMAS["measurements"].names
    rows = [Measurement(**row) for row in table.select(names).to_pylist()]
    filed = zip(rows, table.column("samples").to_pylist(), strict=True)
    samples = {row.key: [Sample(**sample) for sample in of_row] for row, of_row in filed if of_row}
    return job_run(table), rows, samples


def job_files(folder: str | Path) -> list[Path]:
    """The job files beneath a folder, sorted by path."""
    found = sorted(path for path in Path(folder).rglob("*.parquet") if not path.name.startswith("."))
    return [path for path in found if read_metadata(path).get(TABLE_KEY) == b"job"]


def job_table(path: str | Path) -> pa.Table:
    """A job file's rows with their `samples` lists; the runs row is JSON in the metadata key `frugal.run`."""
    table = read_parquet(path)
    metadata = table.schema.metadata
    if metadata.get(TABLE_KEY) != b"job" or RUN_KEY not in metadata:
        raise RecordError(f"{path} is no job file (it holds {metadata.get(TABLE_KEY, b'nothing known').decode()})")
    if "samples" in table.column_names:
        table = table.set_column(
            table.column_names.index("samples"), "samples", _conform_samples(table.column("samples"))
        )
    return conform(table, JOB, path).replace_schema_metadata(metadata)


def job_run(table: pa.Table) -> Run:
    """The runs row of a job table."""
    return run_from_json(table.schema.metadata[RUN_KEY])


def job_samples(table: pa.Table) -> pa.Table:
    """The `samples` table of (some rows of) a job table: one row a sample, with its row's key columns."""
    lists = table.column("samples").combine_chunks()
    parents = pc.list_parent_indices(lists)
    keys = [table.column(name).combine_chunks().take(parents) for name in SAMPLE_KEY]
    flat = pc.list_flatten(lists)
    values = [pc.struct_field(flat, f.name) for f in SAMPLE]
    return pa.Table.from_arrays([*keys, *values], schema=SCHEMAS["samples"])


def _schema(table: str, columns: Collection[str] | None) -> pa.Schema:
    """The schema of a table with only some columns; RecordError for one that it does not have."""
    schema = schema_of(table)
    if columns is None:
        return schema
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        raise RecordError(f"{table} has no column {', '.join(unknown)}: docs/output.md lists those there are")
    return pa.schema([f for f in schema if f.name in columns])


def _read_file(path: Path, table: str, schema: pa.Schema) -> pa.Table:
    kind = read_metadata(path).get(TABLE_KEY, b"nothing known").decode()
    if kind == "job" and table in _IN_JOBS:
        job = job_table(path)
        if table == "runs":
            return table_of("runs", [job_run(job)]).select(schema.names)
        whole = job_samples(job) if table == "samples" else job.drop_columns("samples").cast(SCHEMAS[table])
        return whole.select(schema.names)
    if kind != table:
        raise RecordError(f"{path} holds {kind}, not {table}: name the file of {table}")
    return conform(read_parquet(path, schema.names), schema, path)


def _conform_samples(lists: pa.ChunkedArray) -> pa.ListArray:
    """A samples column with exactly today's struct: a minor version may have added fields."""
    array = lists.combine_chunks()
    flat = array.values
    children = {flat.type.field(i).name: flat.field(i) for i in range(flat.type.num_fields)}
    fields = conform(pa.table(children), pa.schema(list(SAMPLE)), "samples")
    struct = pa.StructArray.from_arrays([c.combine_chunks() for c in fields.columns], fields=list(SAMPLE))
    offsets = array.offsets
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(offsets, struct, mask=mask).cast(pa.list_(SAMPLE))
