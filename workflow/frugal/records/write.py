"""Writing a job's rows, and a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from frugal.clock import utc_text
from frugal.records.canonical import canonical_json
from frugal.records.check import problems_of, refuse, to_arrays
from frugal.records.columns import Measurement, RowKey, Run, Sample
from frugal.records.files import RUN_KEY, TABLE_KEY, write_parquet
from frugal.records.schema import JOB, SAMPLE, SCHEMAS, RecordError, conform, schema_of


def write_job(
    path: str | Path, run: Run, rows: Sequence[Measurement], samples: Mapping[RowKey, Sequence[Sample]]
) -> None:
    """Write one job's Parquet file: measurement rows, each with its samples, and the runs row in the metadata.

    `samples` are filed under the row's `key`; a row without samples has null there. Atomic. RecordError lists every
    bad column: a wrong type, a null that is not allowed, NaN or an infinity, an absolute path, the home folder, a host
    or user name; and rows or samples that do not belong together.
    """
    run_arrays, problems = to_arrays([run], list(SCHEMAS["runs"]), "runs")
    row_arrays, bad = to_arrays(rows, list(SCHEMAS["measurements"]), "measurements")
    problems += bad
    sample_array, bad = _sample_lists(rows, samples)
    problems += bad
    problems += _mismatches(run, rows, samples)
    refuse(problems, path)
    table = pa.Table.from_arrays([*row_arrays, sample_array], schema=JOB)
    (stored,) = pa.Table.from_arrays(run_arrays, schema=SCHEMAS["runs"]).to_pylist()
    write_parquet(path, table, {TABLE_KEY: b"job", RUN_KEY: run_json(stored)})


def write_table(path: str | Path, table: pa.Table, name: str) -> None:
    """Write one of the tables of SCHEMAS, checked as in `write_job`. Atomic. RecordError lists every bad column."""
    schema = schema_of(name)
    extra = [column for column in table.column_names if column not in schema.names]
    if extra:
        raise RecordError(f"{path} was not written: {name} has no column {', '.join(extra)}")
    missing = [column for column in schema.names if column not in table.column_names]
    if missing:
        raise RecordError(f"{path} was not written: {name} lacks the columns {', '.join(missing)}")
    refuse([bad for f in schema for bad in problems_of(table.column(f.name), f, name)], path)
    write_parquet(path, conform(table, schema, path), {TABLE_KEY: name.encode()})


def table_of(name: str, rows: Iterable[object]) -> pa.Table:
    """A table of SCHEMAS from its dataclass rows; RecordError lists every bad column."""
    arrays, problems = to_arrays(list(rows), list(schema_of(name)), name)
    refuse(problems, f"the table {name}")
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[name])


def run_from_json(text: bytes) -> Run:
    """The run of a job file's metadata: null where an older minor version lacked a column, newer ones left out."""
    stored = json.loads(text)
    values = {f.name: stored.get(f.name) for f in dataclasses.fields(Run)}
    for name in ("started_at", "finished_at"):
        values[name] = datetime.fromisoformat(values[name])
    return Run(**values)


def run_json(stored: Mapping[str, object]) -> bytes:
    """A row of `runs` as it stands in a job file's metadata."""
    plain = {key: utc_text(value) if isinstance(value, datetime) else value for key, value in stored.items()}
    return canonical_json(plain).encode()


def _sample_lists(
    rows: Sequence[Measurement], samples: Mapping[RowKey, Sequence[Sample]]
) -> tuple[pa.ListArray, list[str]]:
    filed = [samples.get(row.key, ()) for row in rows]
    arrays, problems = to_arrays([sample for of_row in filed for sample in of_row], list(SAMPLE), "samples")
    if problems:
        return pa.nulls(len(rows), JOB.field("samples").type), problems
    offsets = [0]
    for of_row in filed:
        offsets.append(offsets[-1] + len(of_row))
    # A null offset makes a null list.
    starts = [start if of_row else None for start, of_row in zip(offsets, filed, strict=False)]
    values = pa.StructArray.from_arrays(arrays, fields=list(SAMPLE))
    lists = pa.ListArray.from_arrays(pa.array([*starts, offsets[-1]], pa.int32()), values)
    return lists.cast(JOB.field("samples").type), problems


def _mismatches(run: Run, rows: Sequence[Measurement], samples: Mapping[RowKey, Sequence[Sample]]) -> list[str]:
    problems = []
    keys = [row.key for row in rows]
    twice = sorted({str(tuple(key)) for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        problems.append(f"measurements has more than one row for {', '.join(twice)}")
    lost = [str(tuple(key)) for key in samples if key not in set(keys)]
    if lost:
        problems.append(f"samples are filed under {', '.join(lost)}, for which there is no row")
    untimed = [str(tuple(row.key)) for row in rows if row.regime is None and samples.get(row.key)]
    if untimed:
        problems.append(f"samples are filed under {', '.join(untimed)}, which has no regime")
    if any(row.run_id != run.run_id for row in rows):
        problems.append(f"measurements.run_id is not the run's ({run.run_id}) in every row")
    if any(row.session != run.session for row in rows):
        problems.append(f"measurements.session is not the run's ({run.session}) in every row")
    return problems
