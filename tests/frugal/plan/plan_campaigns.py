"""Campaigns with blocks of known length, as files."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from frugal import records
from frugal.aggregate import aggregate

sys.path.insert(0, str(Path(__file__).parents[1]))

from record_rows import a_row, a_run, a_sample

START = datetime(2026, 1, 1, tzinfo=UTC)


def session(
    folder: Path,
    *,
    kind: str = "cuda",
    number: int = 0,
    preset: str = "quick",
    timing: dict | None = None,
    elapsed_s: float = 60.0,
    cases: int = 2,
    arms: tuple[str, ...] = ("sparse", "cudnn_fp32"),
    block_s: float = 0.5,
    per_block: int = 50,
    gap_s: float = 0.1,
    around_s: float = 1.0,
    regime: str = "graph",
    l2: str | None = "resident",
    **run: object,
) -> None:
    """A session whose blocks of `per_block` equidistant samples last `block_s`; `gap_s` lies before each block and
    `around_s` more before each case but the first."""
    run_id = f"{kind}{number}"
    given = a_run(
        run_id=run_id, session=number, preset=preset, device_kind=kind, experiment="layers",
        device_key="nvidia-h200-9.0-132sm" if kind == "cuda" else "cpu-amd-epyc-2c", flops_fp32=5e13,
        copy_bytes_per_s=4e12, started_at=START, finished_at=START + timedelta(seconds=elapsed_s),
        config_json=json.dumps({"preset": preset, "timing": timing or {}, "unknown": 1}), **run,
    )  # fmt: skip
    rows, samples, now = [], {}, 0.0
    step = block_s / per_block
    for case in range(cases):
        now += around_s if case else 0.0
        case_rows = {
            arm: a_row(run_id=run_id, session=number, case_id=f"{case:016x}", arm=arm, regime=regime, l2=l2)
            for arm in arms
        }
        taken = {arm: [] for arm in arms}
        for block in range(2):
            for arm in arms:
                now += gap_s if (case, block, arm) != (0, 0, arms[0]) else 0.0
                for index in range(per_block):
                    start_ns = round((now + index * step) * 1e9)
                    taken[arm].append(a_sample(round=block, block=block, index=index, start_ns=start_ns, value=step))
                now += block_s
        for arm, row in case_rows.items():
            rows.append(row)
            samples[row.key] = taken[arm]
    records.write_job(folder / "raw" / f"session-{kind}-{number}.parquet", given, rows, samples)


def tables(folder: Path) -> Path:
    """The three tables of the sessions that were written below a folder."""
    aggregate(sorted((folder / "raw").glob("*.parquet")), folder, keep_hashes=None)
    return folder
