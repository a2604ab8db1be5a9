"""Which values of the unit chain are there at each moment, as a table for a heat map."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from frugal.dtr.count_chain import BOUNDS, LIMIT
from frugal.dtr.logs import chain
from frugal.dtr.offered import RESIDENCY_LAYERS
from frugal.dtr.sim import simulate
from frugal.files import publishing

SCHEMA = pa.schema([("arm", pa.string()), ("moment", pa.int32()), ("tensor", pa.int32())])
HEURISTICS = ("h_dtr", "h_dtr_eq", "h_lru")
_EVENT = re.compile(r"([CRED])(\d+);")


def table(layers: int = RESIDENCY_LAYERS, bound: str = "2sqrt") -> pa.Table:
    """A row for each heuristic, operator that ran (moment) and value that is there after that operator.

    Values 0 … n - 1 are the layers', n … 2n - 1 the gradients', the last layer's first. A budget of `bound` values.
    """
    rows: list[dict[str, object]] = []
    for name in HEURISTICS:
        found = simulate(chain(layers), name, BOUNDS[bound](layers), overhead_limit=LIMIT, trace=True)
        there: set[int] = set()
        moment = 0
        for what, number in _EVENT.findall(found.trace or ""):
            if what in "ED":
                there.discard(int(number))
                continue
            there.add(int(number))
            rows += [{"arm": name, "moment": moment, "tensor": tensor} for tensor in sorted(there)]
            moment += 1
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write(out: str | Path) -> None:
    """Write `table()` as Parquet. Atomic."""
    with publishing(Path(out)) as file:
        pq.write_table(table(), file, compression="zstd")
