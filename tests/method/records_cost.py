"""What `aggregate` and `compare` cost for a million samples: seconds and peak memory, each in a process of its own.

    python -m tests.method.records_cost [SAMPLES]

`make bench-method` calls it. The campaign is made up: eight sessions of headline, five arms of each layer in two
regimes, two rounds. The goal (docs/methodology.md, "What the method costs"): both together within 5 s and 1 GB for a
million samples.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from frugal import block_medians, records
from frugal.aggregate import aggregate
from frugal.clock import SystemClock
from frugal.compare import compare
from tests.frugal.record_rows import a_row, a_run, a_sample

SESSIONS, ROUNDS, REGIMES = 8, 2, ("cold", "graph")
ARMS = {"sparse": "ours", "dense_twin": "ours", "cudnn_fp32": "baseline", "cudnn_tf32": "baseline", "gemm": "baseline"}
MODULE = "tests.method.records_cost"
BLOCK = 60  # samples: between headline's least (30) and what a noisy block takes


def write_session(folder: str, session: int, cases: int) -> int:
    """One job file of made-up times; returns how many samples it holds."""
    rng = np.random.default_rng(session)
    run = a_run(run_id=f"01RUN{session}", session=session)
    rows, samples = [], {}
    for case in range(cases):
        for arm, role in ARMS.items():
            for regime in REGIMES:
                l2 = "resident" if regime == "graph" else None
                row = a_row(run_id=run.run_id, session=session, case_id=f"{case:016x}", arm=arm, role=role,
                            regime=regime, l2=l2, layer=f"conv{case}")  # fmt: skip
                rows.append(row)
                times = 1e-4 * (1 + 0.01 * rng.standard_normal((ROUNDS, BLOCK)))
                polled = rng.random((ROUNDS, BLOCK)) < 0.1
                samples[row.key] = [
                    a_sample(round=r, position=r, block=r, index=i, start_ns=int(1e9 * (r + times[r, i])),
                             value=float(times[r, i]), sm_hz=1.98e9 if polled[r, i] else None)
                    for r in range(ROUNDS) for i in range(BLOCK)
                ]  # fmt: skip
    records.write_job(Path(folder) / "raw" / f"session-{session}.parquet", run, rows, samples)
    return len(rows) * ROUNDS * BLOCK


def cost_of_aggregate(folder: str) -> tuple[float, float]:
    """Seconds of `aggregate` over the job files of a folder."""
    return _seconds(lambda: aggregate(sorted((Path(folder) / "raw").glob("*.parquet")), folder))


def cost_of_compare(folder: str) -> tuple[float, float]:
    """Seconds of `compare`, reading and writing included."""

    def work() -> None:
        samples = records.read(folder, "samples", block_medians.COLUMNS)
        table = compare(records.read(folder, "measurements"), samples, records.read(folder, "runs"))
        records.write_table(Path(folder) / "comparisons.parquet", table, "comparisons")

    return _seconds(work)


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of the wall clock, and of CPU time, which other processes of a busy machine lengthen less."""
    clock, before = SystemClock(), os.times()
    start = clock.ns()
    work()
    after = os.times()
    return (clock.ns() - start) / 1e9, after.user + after.system - before.user - before.system


def main(wanted: int = 1_000_000) -> None:
    """Print a line for each of the two jobs."""
    from frugal.memory import in_fresh_process  # loads torch, which the processes that are measured do without

    cases = max(1, round(wanted / (SESSIONS * len(ARMS) * len(REGIMES) * ROUNDS * BLOCK)))
    with tempfile.TemporaryDirectory() as folder:
        made = 0
        for session in range(SESSIONS):
            given = {"folder": folder, "session": session, "cases": cases}
            made += in_fresh_process(f"{MODULE}:write_session", given).expect_ok("write_session").value
        print(f"{made:,} samples in {SESSIONS} job files, {cases} cases")
        for name in ("aggregate", "compare"):
            done = in_fresh_process(f"{MODULE}:cost_of_{name}", {"folder": folder}).expect_ok(name)
            wall_s, cpu_s = done.value
            print(f"{name}: {wall_s:.2f} s ({cpu_s:.2f} s of CPU time), peak {done.rss_bytes / 1e6:,.0f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
