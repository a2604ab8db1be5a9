"""Arrow schemas, derived from the dataclasses of frugal.records.columns so that the two cannot drift."""

from __future__ import annotations

import dataclasses
import types
import typing
from datetime import datetime

import pyarrow as pa

from frugal.errors import FrugalError
from frugal.records.columns import Claim, Comparison, Measurement, Run, Sample, SampleKey

SCHEMA_VERSION = "1.1.0"  # major: refused at reading; minor: columns added, filled with null

_ARROW = {str: pa.string(), bool: pa.bool_(), float: pa.float64(), datetime: pa.timestamp("us", tz="UTC")}


class RecordError(FrugalError):
    """Rows that must not be written, or a file that cannot be read."""


class SchemaMismatch(FrugalError):
    """A file of another major schema version. `found` and `expected` are version strings (`found` may be `none`)."""

    def __init__(self, found: str, expected: str, what: object = "the file") -> None:
        major, expected_major = found.split(".")[0], expected.split(".")[0]
        newer = major.isdigit() and int(major) > int(expected_major)
        super().__init__(
            f"{what} has schema version {found}, this frugal reads and migrates {expected_major}.x: "
            + ("update frugal" if newer else "rerun what made it")
        )
        self.found = found
        self.expected = expected


def _arrow_fields(*rows: type) -> list[pa.Field]:
    return [
        _arrow_field(name, hint)
        for row in rows
        for name, hint in typing.get_type_hints(row, include_extras=True).items()
        if name in {f.name for f in dataclasses.fields(row)}
    ]


def _arrow_field(name: str, hint: object) -> pa.Field:
    nullable = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    (kind,) = [part for part in typing.get_args(hint) if part is not type(None)] if nullable else [hint]
    # Annotated[int, pa.int32()] carries its width.
    arrow = kind.__metadata__[0] if typing.get_origin(kind) is typing.Annotated else _ARROW[kind]
    return pa.field(name, arrow, nullable=nullable)


ROWS: dict[str, tuple[type, ...]] = {
    "runs": (Run,),
    "measurements": (Measurement,),
    "samples": (SampleKey, Sample),
    "comparisons": (Comparison,),
    "claims": (Claim,),
}
SCHEMAS: dict[str, pa.Schema] = {name: pa.schema(_arrow_fields(*rows)) for name, rows in ROWS.items()}
SAMPLE = pa.struct(_arrow_fields(Sample))
SAMPLE_KEY = tuple(f.name for f in dataclasses.fields(SampleKey))
JOB = SCHEMAS["measurements"].append(pa.field("samples", pa.list_(SAMPLE), nullable=True))


def schema_of(table: str) -> pa.Schema:
    """The schema of a table's name, or RecordError with the names there are."""
    if table not in SCHEMAS:
        raise RecordError(f"there is no table {table!r}: use one of {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def meanings(table: str) -> dict[str, str]:
    """What each column of a table means, in the table's order."""
    schema_of(table)
    return {f.name: f.metadata["meaning"] for row in ROWS[table] for f in dataclasses.fields(row)}


def conform(table: pa.Table, schema: pa.Schema, what: object) -> pa.Table:
    """The table with exactly the schema's columns: null where an older minor version lacked them, newer ones left out.

    Raises RecordError (with `what` named) when a column that every row must have is missing or of another type.
    """
    missing = [f.name for f in schema if f.name not in table.column_names and not f.nullable]
    if missing:
        raise RecordError(f"{what} lacks the columns {', '.join(missing)}: rerun what made it")
    columns = []
    for f in schema:
        if f.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, f.type))
            continue
        try:
            columns.append(table.column(f.name).cast(f.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
            raise RecordError(f"{what}: column {f.name} cannot be read as {f.type}: {problem}") from problem
    return pa.Table.from_arrays(columns, schema=schema)
