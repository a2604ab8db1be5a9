"""Block values from samples, a million of them at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from frugal.records import RowKey

# What block_values reads of `samples`: the other columns need not be there.
COLUMNS = ("run_id", *RowKey._fields, "round", "value", "sm_hz", "flag")
LEAST_POLLS = 5  # clocks are quantised to 15 MHz (0.8 %): fewer polls say too little about a block


@dataclass(frozen=True)
class Block:
    """The median of a block's samples, in the row's unit, and its mean SM clock in Hz (None below 5 polls)."""

    value: float
    sm_hz: float | None


def block_values(samples: pa.Table) -> dict[tuple[str, RowKey], dict[int, Block]]:
    """The blocks of every row that has samples: (run_id, row key) -> round -> Block. Excluded samples are left out.

    Of the table `samples`, the columns COLUMNS are enough.
    """
    kept = pc.not_equal(samples.column("flag"), "excluded")
    samples = samples if pc.all(kept).as_py() else samples.filter(kept)
    if samples.num_rows == 0:
        return {}
    group, first = _group_ids(samples, ["run_id", *RowKey._fields, "round"])
    value = samples.column("value").to_numpy()
    order = np.lexsort((value, group))
    starts = np.searchsorted(group[order], np.arange(len(first)))
    counts = np.diff(np.append(starts, len(order)))
    ordered = value[order]
    medians = (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2
    clock = samples.column("sm_hz").to_numpy()  # null becomes NaN
    polled = np.isfinite(clock)
    polls = np.bincount(group[polled], minlength=len(first))
    sums = np.bincount(group[polled], weights=clock[polled], minlength=len(first))

    found: dict[tuple[str, RowKey], dict[int, Block]] = {}
    names = samples.select(["run_id", *RowKey._fields, "round"]).take(pa.array(first))
    keys = zip(*(column.to_pylist() for column in names.columns), strict=True)
    for (run_id, *key, number), median, n, total in zip(
        keys, medians.tolist(), polls.tolist(), sums.tolist(), strict=True
    ):
        sm_hz = total / n if n >= LEAST_POLLS else None
        found.setdefault((run_id, RowKey(*key)), {})[number] = Block(median, sm_hz)
    return found


def _group_ids(table: pa.Table, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A dense group number for each row, and the first row of each group."""
    columns = [table.column(name).combine_chunks().dictionary_encode().indices for name in names]
    codes = np.stack([pc.fill_null(column, -1).to_numpy(zero_copy_only=False) for column in columns])
    # The samples of a block stand together, so that there are far fewer stretches of equal keys than rows to sort.
    begins = np.append(True, (codes[:, 1:] != codes[:, :-1]).any(axis=0))
    starts = np.flatnonzero(begins)
    _, first, group = np.unique(codes[:, starts], axis=1, return_index=True, return_inverse=True)
    return group.reshape(-1)[np.cumsum(begins) - 1], starts[first]
