"""Campaigns that were never run, as the workflow would leave them in a results folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from frugal import records, report
from frugal.compare import compare
from frugal.figures import NAMES
from tests.frugal.record_rows import a_row, a_run, a_sample

ROOT = Path(__file__).resolve().parents[3]
CAPTIONS = sorted((ROOT / "workflow" / "report").glob("*.rst"))
SAMPLES = 12  # of a block
GREEN = {
    "null": {"colour": "green", "measured": 1.002, "wanted": [0.95, 1.05], "words": "two names of one function"},
    "planted": {"colour": "green", "measured": 0.83, "wanted": [0.75, 0.84], "words": "ours has 1.2 times the work"},
    "wrong": {"colour": "green", "measured": 3, "wanted": [3, 3], "words": "each is called incorrect"},
    "peak": {"colour": "green", "measured": None, "wanted": None, "words": "matrix product: 5.1e13 FLOP/s"},
}  # fmt: skip
PICTURE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="20pt"><title id="figure-title">Made up: %s</title>'
)
PICTURE += (
    b'<desc id="figure-description">A blue square &amp; its edge.</desc><rect width="9" height="9" fill="blue"/></svg>'
)


def nothing(_place: int) -> Mapping[str, object]:
    """No change to what is made by default."""
    return {}


def campaign(
    folder: Path,
    *,
    sessions: int = 3,
    planned: int | None = None,
    cases: int = 6,
    run: Callable[[int], Mapping[str, object]] = nothing,
    row: Callable[[int], Mapping[str, object]] = nothing,
    polled: bool = False,
    ratio: float = 2.0,
) -> None:
    """Write runs, measurements, samples and comparisons: `cases` layers, `sparse` against `cudnn_fp32`, two rounds.

    `run(session)` and `row(number)` change what a session's run or the campaign's n-th row would hold. The baseline
    takes `ratio` times as long as ours, with 1 % of noise between sessions and 0.5 % between samples; the noise of
    case k is k + 1 times that.
    """
    rng = np.random.default_rng(7)
    runs, rows, samples = [], [], []
    for session in range(sessions):
        known = {
            "run_id": f"01RUN{session}", "session": session, "sessions_planned": planned or sessions, "preset": "quick",
            "experiment": "layers", "controls_json": json.dumps(GREEN), "doctor_json": "{}", "config_json": '{"a": 1}',
            "gpu_name": "NVIDIA H200", "threads": 16, "wall_s": 90.0, "git_sha": "0123456789abcdef", "git_dirty": False,
        }  # fmt: skip
        runs.append(a_run(**(known | run(session))))
        for case in range(cases):
            for arm, role, time in (("sparse", "ours", 1e-5), ("cudnn_fp32", "baseline", ratio * 1e-5)):
                middle = time * np.exp(0.01 * (case + 1) * rng.standard_normal())
                given = {
                    "run_id": runs[-1].run_id, "session": session, "case_id": f"{case:016x}", "network": "resnet50",
                    "layer": f"layer{case}.conv2", "n": 1, "arm": arm, "role": role, "value": float(middle),
                    "axes_json": '{"weights": "trained"}', "conditional": (planned or sessions) == 1,
                    "log": "logs/a.log",
                }  # fmt: skip
                rows.append(a_row(**(given | row(len(rows)))))
                if rows[-1].status == "ok":
                    samples += _samples(rows[-1], session, case, rng, polled)
    tables = {
        "runs": records.table_of("runs", runs),
        "measurements": records.table_of("measurements", rows),
        "samples": pa.Table.from_pylist(samples, schema=records.SCHEMAS["samples"]),
    }
    tables["comparisons"] = compare(tables["measurements"], tables["samples"], tables["runs"])
    for name, table in tables.items():
        records.write_table(folder / f"{name}.parquet", table, name)


def _samples(row, session: int, case: int, rng: np.random.Generator, polled: bool) -> list[dict]:
    key = {name: getattr(row, name) for name in ("run_id", "case_id", "arm", "regime", "l2", "metric", "session")}
    found = []
    for place in range(2):
        for index in range(SAMPLES):
            value = row.value * np.exp(0.005 * (case + 1) * rng.standard_normal())
            start = (session * 100 + place * 50 + index) * 1_000_000
            read = {"sm_hz": 1.98e9 - 1.5e7 * (index % 2), "temp_c": 45.0 + session} if polled else {}
            one = a_sample(
                round=place, position=0, block=place, index=index, start_ns=start, value=float(value), **read
            )
            found.append(key | dataclasses.asdict(one))
    return found


def claims(folder: Path, *rows: Mapping[str, object]) -> None:
    """Write the table `claims`."""
    known = {
        "claim_id": "cusnn.made.up", "system": "cusnn", "origin": "paper", "statement": "It runs 2.5 times as fast",
        "locator": "table 3", "note": None, "paper_hardware": "V100", "expected": 2.5, "expected_low": 2.25,
        "expected_high": None, "trend_bound": 1.0, "unit": "1", "comparator": "at_least", "measured": 2.6, "low": 2.4,
        "high": 2.8, "ci_method": "t_sessions", "n_rows": 6, "n_sessions": 3, "recorded": None,
        "device_key": "nvidia-h200-9.0-132sm", "preset": "quick", "verdict": "reproduced", "reason": "2.6 is enough",
        "command": "snakemake --cores all -- claims", "figure": None, "query_json": '{"column":"ratio"}',
        "beside_json": "[]",
    }  # fmt: skip
    table = pa.Table.from_pylist([known | dict(row) for row in rows], schema=records.SCHEMAS["claims"])
    records.write_table(folder / "claims.parquet", table, "claims")


def figures(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    """Put small pictures where the figures would be."""
    place = folder / "figures"
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / f"{name}.svg").write_bytes(PICTURE % name.encode())
        (place / f"{name}.png").write_bytes(b"not looked at")


def page(folder: Path, recorded: tuple[Path, ...] = (), **given: object) -> str:
    """The report of a results folder."""
    return report.build(report.read(folder, recorded, captions=CAPTIONS, **given))
