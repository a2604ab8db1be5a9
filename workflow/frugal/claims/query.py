"""The rows that a claim is about, on one machine, and the number that each session gives for each of them.

A ratio is computed anew in every session from the two arms' values there (a row's `value` is the exp mean of ln block
medians, so that the quotient of two rows of one session is the exp mean of the rounds' ln ratios). Stored intervals are
never read: those of single rows cannot be combined.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from frugal import records
from frugal.claims.models import OF_CASE, Condition, Measure, Range
from frugal.claims.reduce import Rows, centre

_CASE = ["case_id", "regime", "l2", "metric"]
ERRORS = ("max_abs_err", "max_rel_err")
_OF_RUN = ["run_id", "device_key", "preset", "controls_passed"]


@dataclass(frozen=True)
class Tables:
    """The three tables that claims read, of one campaign (frugal.records.SCHEMAS)."""

    runs: pa.Table
    measurements: pa.Table
    comparisons: pa.Table

    @classmethod
    def read(cls, folder: str | Path) -> Tables:
        """`<folder>/{runs,measurements,comparisons}.parquet`; RecordError for one that cannot be read."""
        return cls(*(records.read(Path(folder) / f"{name}.parquet", name) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Machine:
    """One device's part of one campaign, as frames."""

    recorded: str | None
    device_key: str
    device_kind: str
    hardware: str
    measurements: pd.DataFrame
    comparisons: pd.DataFrame


def machines(tables: Tables, recorded: str | None = None) -> list[Machine]:
    """A campaign's devices, sorted; none for empty tables. RecordError for tables that do not belong together."""
    runs = _frame(tables.runs)
    measured = _frame(tables.measurements).merge(runs[_OF_RUN], on="run_id", how="left", validate="many_to_one")
    if measured["device_key"].isna().any():
        raise records.RecordError("measurements has rows of runs that the table runs lacks: aggregate both again")
    measured["launch_bound"] = measured["launch_bound"].eq(True)
    cases = measured.drop_duplicates(["device_key", "case_id"])[["device_key", "case_id", "axes_json", *OF_CASE]]
    compared = _frame(tables.comparisons).merge(cases, on=["device_key", "case_id"], how="left")
    if compared["axes_json"].isna().any():
        raise records.RecordError("comparisons has cases that measurements lacks: compare them again")
    found = []
    for device_key, own in runs.groupby("device_key", sort=True):
        first = own.iloc[0]
        named = first["gpu_name"] if first["device_kind"] == "cuda" else first["cpu_model"]
        found.append(
            Machine(
                recorded,
                str(device_key),
                first["device_kind"],
                named or str(device_key),
                measured[measured["device_key"] == device_key].reset_index(drop=True),
                compared[compared["device_key"] == device_key].reset_index(drop=True),
            )
        )
    return found


def select(measure: Measure, machine: Machine) -> Rows | None:
    """The rows of a measure on one machine, as one line a row and one column a session; None where there are none.

    ValueError for an `over` that does not give each row one other.
    """
    pairs = measure.table == "comparisons"
    rows = _filtered(machine.comparisons if pairs else machine.measurements, measure.where)
    if rows.empty:
        return None
    if pairs:
        rows = rows.assign(line=range(len(rows)))
        lines = _pairs(rows, machine.measurements)
    else:
        rows = rows.assign(line=rows.groupby([*_CASE, "arm"], sort=False).ngroup())
        lines = _singles(rows, measure.column) if measure.over is None else _over(rows, measure, machine.measurements)
        rows = rows.drop_duplicates("line")
    keys = rows.set_index("line")
    if measure.per_case is not None:
        lines, keys = _best_of_case(lines, keys, measure.per_case)
    if lines.duplicated(["line", "session"]).any():
        raise records.RecordError(f"measurements of {machine.device_key} has two rows of one session: aggregate again")
    extra = {name: column(keys, name) for part in (measure, *measure.beside) for name in part.columns()}
    return Rows.of(lines, pd.DataFrame(extra, index=keys.index))


def column(frame: pd.DataFrame, name: str) -> pd.Series:
    """A column, or `axes.<name>` and `arm.<name>`: a key of the case's axes or of the arm's own settings."""
    prefix, _, key = name.partition(".")
    if not key:
        return frame[name]
    texts = frame["axes_json" if prefix == "axes" else "arm_json"]
    return pd.Series([_parsed(text).get(key) for text in texts], index=frame.index, dtype=object)


def _frame(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    frame = frame.astype(dict.fromkeys(frame.select_dtypes("category"), object))
    texts = [f.name for f in table.schema if pa.types.is_string(f.type)]
    # A merge on regime and l2 needs one word for none; `_matches` knows it.
    return frame.assign(**{name: frame[name].where(frame[name].notna(), "") for name in texts})


@functools.lru_cache(maxsize=65536)
def _parsed(text: str) -> Mapping[str, object]:
    return json.loads(text) if text else {}


def _filtered(frame: pd.DataFrame, where: Mapping[str, Condition]) -> pd.DataFrame:
    kept = np.ones(len(frame), dtype=bool)
    for name, condition in where.items():
        kept &= _matches(column(frame, name), condition).to_numpy(dtype=bool)
    return frame[kept]


def _matches(values: pd.Series, condition: Condition) -> pd.Series:
    if isinstance(condition, Range):
        numbers = pd.to_numeric(values, errors="coerce")
        low = -np.inf if condition.ge is None else condition.ge
        high = np.inf if condition.le is None else condition.le
        return numbers.between(low, high)
    if condition is None:
        return values.isna() | values.eq("")
    if isinstance(condition, str) and condition.endswith("*"):
        return values.str.startswith(condition[:-1]).eq(True)
    return values.isin(condition if isinstance(condition, list) else [condition])


def _singles(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    # how far an output is off does not depend on how steady its times were
    usable = _usable(rows) if name not in ERRORS else rows.assign(ok=rows["status"].isin(["ok", "unstable"]))
    return usable.assign(value=usable[name].where(usable["ok"]))


def _pairs(rows: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Each comparison's two arms in each session: a line's candidate as `own`, its baseline as `base`."""
    names = [*_CASE, "candidate", "baseline", "line"]
    own = rows[names].merge(measured, left_on=[*_CASE, "candidate"], right_on=[*_CASE, "arm"], how="left")
    base = measured[[*_CASE, "arm", "run_id", "value", "status", "reason", "launch_bound"]]
    base = base.rename(columns={"arm": "baseline"})
    return _ratios(own, own.merge(base, on=[*_CASE, "baseline", "run_id"], how="left", suffixes=("", "_base")), False)


def _over(rows: pd.DataFrame, measure: Measure, measured: pd.DataFrame) -> pd.DataFrame:
    changes = measure.over or {}
    other = _filtered(measured, {**measure.where, **changes})
    # Another metric or regime of the same case: what `over` changes is not what the two share.
    shared = [*(name for name in _CASE if name not in changes), "run_id"]
    base = other[[*shared, "value", "status", "reason", "launch_bound"]]
    if base.duplicated(shared).any():
        raise ValueError("`over` selects more than one row of a case and session")
    both = rows.merge(base, on=shared, how="left", suffixes=("", "_base"))
    return _ratios(rows, both, measure.difference)


def _ratios(own: pd.DataFrame, both: pd.DataFrame, difference: bool) -> pd.DataFrame:
    if len(both) != len(own):
        raise records.RecordError("measurements has two rows of one arm, case and session: aggregate them again")
    usable = _usable(both)
    missing = usable["status_base"].isna()
    wrong = ~missing & usable["status_base"].ne("ok")
    usable["ok"] &= ~missing & ~wrong
    # The line's status is the baseline's where ours is in order and the baseline is not.
    ours_fine = usable["status"].eq("ok")
    usable["status"] = usable["status"].mask(ours_fine & wrong, usable["status_base"])
    usable["status"] = usable["status"].mask(ours_fine & missing, "missing")
    usable["reason"] = usable["reason"].mask(ours_fine & wrong, usable["reason_base"])
    usable["launch_bound"] = usable["launch_bound"].eq(True) | usable["launch_bound_base"].eq(True)
    if difference:
        return usable.assign(value=(usable["value"] - usable["value_base"]).where(usable["ok"]))
    usable["ok"] &= usable["value"].gt(0) & usable["value_base"].gt(0)
    up = usable["higher_is_better"].eq(True)
    base = usable["value_base"].where(~up, usable["value"]).where(usable["ok"])
    own_value = usable["value"].where(~up, usable["value_base"]).where(usable["ok"])
    return usable.assign(value=base / own_value, base=base, own=own_value)


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(ok=rows["status"].eq("ok"))


def _best_of_case(lines: pd.DataFrame, keys: pd.DataFrame, which: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the lines of one case and arm of ours the one with the least (greatest) value over all sessions."""
    over_sessions = lines.groupby("line")["value"].agg(lambda values: centre(values.dropna().to_numpy()))
    ranked = keys.assign(over_sessions=over_sessions).sort_values(
        "over_sessions", ascending=which == "min", kind="stable", na_position="last"
    )
    ours = "candidate" if "candidate" in keys else "arm"
    kept = ranked.drop_duplicates([*_CASE, ours]).index.sort_values()
    return lines[lines["line"].isin(kept)], keys.loc[kept]
