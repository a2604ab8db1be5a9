"""What may be written. All bad columns are found before anything is refused, so that one run shows them all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from frugal.records.privacy import find_private, private_names
from frugal.records.schema import RecordError

_ALLOWED: dict[int, tuple[type, ...]] = {
    pa.string().id: (str,),
    pa.bool_().id: (bool, np.bool_),
    pa.int32().id: (int, np.integer),
    pa.int64().id: (int, np.integer),
    pa.float64().id: (int, float, np.integer, np.floating),
    pa.timestamp("us").id: (datetime,),
}


def to_arrays(rows: Sequence[object], fields: Sequence[pa.Field], table: str) -> tuple[list[pa.Array], list[str]]:
    """One array a field from the rows' attributes, and a sentence for each bad column (its array is then null)."""
    arrays, problems = [], []
    for f in fields:
        values = [getattr(row, f.name) for row in rows]
        try:
            array = _to_array(values, f.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as problem:
            arrays.append(pa.nulls(len(values), f.type))
            problems.append(f"{table}.{f.name} must be {_words(f.type)} ({_first_line(problem)})")
            continue
        arrays.append(array)
        problems += problems_of(array, f, table)
    return arrays, problems


def problems_of(array: pa.Array | pa.ChunkedArray, f: pa.Field, table: str) -> list[str]:
    """A sentence for each thing that makes a column unwritable: nulls, NaN and infinities, private text."""
    name = f"{table}.{f.name}"
    problems = []
    if array.null_count and not f.nullable:
        problems.append(f"{name} is null in {array.null_count} of {len(array)} rows but every row must have it")
    if pa.types.is_floating(f.type):
        wrong = pc.filter(array, pc.invert(pc.is_finite(array)), null_selection_behavior="drop")
        if len(wrong):
            problems.append(f"{name} is {wrong[0].as_py()} in {len(wrong)} rows: null is what was not measured")
    if pa.types.is_string(f.type):
        names = private_names()
        for text in pc.unique(array).to_pylist():
            found = find_private(text, names) if text is not None else None
            if found:
                problems.append(f"{name} holds {found} ({text!r:.120}): records are published, take it out")
                break
    return problems


def refuse(problems: Sequence[str], path: object) -> None:
    """Raise one RecordError that lists every problem, if there is any."""
    if problems:
        columns = "1 bad column" if len(problems) == 1 else f"{len(problems)} bad columns"
        raise RecordError(f"{path} was not written, {columns}: {'; '.join(problems)}")


def _to_array(values: list[object], kind: pa.DataType) -> pa.Array:
    # Arrow would cut 1.5 down to 1, take true for 1.0, decode bytes, and take a naive time for UTC.
    allowed = _ALLOWED[kind.id]
    for value in values:
        if value is None:
            continue
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise TypeError(f"not {value!r}")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise TypeError(f"not {value!r}, which has no time zone")
    return pa.array(values, type=kind)


def _words(kind: pa.DataType) -> str:
    known = {"string": "a string", "bool": "true or false", "double": "a float"}
    return known.get(str(kind), f"of type {kind}")


def _first_line(problem: Exception) -> str:
    return str(problem).strip().split("\n")[0]
