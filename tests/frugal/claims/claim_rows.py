"""Made-up campaigns for the tests of claims: rows with every column that must be there, and claims around a query."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa

from frugal import claims, records
from frugal.claims.models import Claim

_PLAIN = {"string": "x", "bool": False, "double": 1.0, "int32": 1, "int64": 1}
H200 = "nvidia-h200-9.0-132sm"


def required(table: str) -> dict:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        f.name: start if pa.types.is_timestamp(f.type) else _PLAIN[str(f.type)]
        for f in records.SCHEMAS[table]
        if not f.nullable
    }


def table(name: str, rows: list[dict]) -> pa.Table:
    columns = {f.name: [row.get(f.name) for row in rows] for f in records.SCHEMAS[name]}
    return pa.table(columns, schema=records.SCHEMAS[name])


def run(session: int, device: str = H200, **given) -> dict:
    known = {
        "run_id": f"{device}/{session}", "session": session, "device_key": device, "device_kind": "cuda",
        "gpu_name": "NVIDIA H200", "preset": "quick", "controls_passed": True,
    }  # fmt: skip
    return required("runs") | known | given


def row(run_row: dict, case: str, arm: str, value: float | None, **given) -> dict:
    axes = given.pop("axes", {})
    known = {
        "run_id": run_row["run_id"], "session": run_row["session"], "case_id": case, "arm": arm, "value": value,
        "system": "cusnn", "experiment": "layers", "network": "resnet50", "layer": case, "metric": "time", "unit": "s",
        "regime": "graph", "l2": "resident", "role": "ours" if arm == "sparse" else "baseline", "status": "ok",
        "axes_json": json.dumps(axes),
    }  # fmt: skip
    return required("measurements") | known | given


def pair(case: str, baseline: str = "dense", device: str = H200, **given) -> dict:
    """A comparison whose stored ratio and interval are nonsense: nothing may read them."""
    known = {
        "case_id": case, "device_key": device, "system": "cusnn", "experiment": "layers", "metric": "time",
        "regime": "graph", "l2": "resident", "candidate": "sparse", "baseline": baseline, "ratio": 999.0,
        "ratio_low": 998.0, "ratio_high": 1000.0,
    }  # fmt: skip
    return required("comparisons") | known | given


def tables(runs: list[dict], rows: list[dict], pairs: list[dict] = ()) -> claims.Tables:
    return claims.Tables(table("runs", runs), table("measurements", rows), table("comparisons", list(pairs)))


def campaign(ratios: dict[str, list[float | None]], device: str = H200, run_changes: dict | None = None,
             **given) -> claims.Tables:  # fmt: skip
    """One case a key, one session a value: the dense arm takes that many seconds, ours one; None: ours has no value."""
    count = max(len(values) for values in ratios.values())
    runs = [run(session, device, **(run_changes or {})) for session in range(count)]
    rows = []
    for case, values in ratios.items():
        for one, ratio in zip(runs, values, strict=False):
            lost = {"status": "timeout", "reason": "too slow"} if ratio is None else {}
            rows.append(row(one, case, "sparse", None if ratio is None else 1.0, **(given | lost)))
            rows.append(row(one, case, "dense", ratio or 1.0, **given))
    return tables(runs, rows, [pair(case, device=device) for case in ratios])


EMPTY = tables([], [])


def claim(**given) -> Claim:
    """A claim of at least 2 about the pairs of `campaign`; `measure` and `locator` are merged into what is there."""
    measure = {
        "table": "comparisons", "where": {"system": "cusnn", "candidate": "sparse", "baseline": "dense"},
        "column": "ratio", "reduce": "geomean",
    } | given.pop("measure", {})  # fmt: skip
    locator = {"where": "page 1", "hardware": "V100", "value": 2.0} | given.pop("locator", {})
    known = {
        "id": "cusnn.made_up", "origin": "paper", "statement": "Ours is twice as fast", "comparator": "at_least",
        "needs": {"preset": "quick"},
    }  # fmt: skip
    return Claim.model_validate(known | given | {"measure": measure, "locator": locator})


def judged(made: Claim, here: claims.Tables, **recorded: claims.Tables) -> dict:
    """The one row of a claim on one machine."""
    (found,) = claims.evaluate([made], here, recorded).to_pylist()
    return found
