"""What `aggregate` and `compare` cost for a million samples: seconds and peak memory, each in a process of its own.

    python tests/method/records_cost.py [SAMPLES]

The campaign is made up: eight sessions of headline, ten layers a network, five arms in two regimes, two rounds. The
goal (docs/methodology.md, "What the method costs"): both together within 5 s and 1 GB for a million samples.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "frugal")]

from frugal import block_medians, records  # noqa: E402
from frugal.aggregate import aggregate  # noqa: E402
from frugal.clock import SystemClock  # noqa: E402
from frugal.compare import compare  # noqa: E402
from frugal.memory.fresh import in_fresh_process  # noqa: E402

SESSIONS, ROUNDS, REGIMES = 8, 2, ("cold", "graph")
ARMS = {"sparse": "ours", "dense_twin": "ours", "cudnn_fp32": "baseline", "cudnn_tf32": "baseline", "gemm": "baseline"}
BLOCK = 60  # samples: between headline's least (30) and what a noisy block takes


def write_session(folder: str, session: int, cases: int) -> int:
    """One job file of made-up times; returns how many samples it holds."""
    from record_rows import a_row, a_run, a_sample

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


def timed_aggregate(folder: str) -> float:
    """Seconds of `aggregate` over the job files of a folder."""
    clock = SystemClock()
    start = clock.ns()
    aggregate(sorted((Path(folder) / "raw").glob("*.parquet")), folder)
    return (clock.ns() - start) / 1e9


def timed_compare(folder: str) -> float:
    """Seconds of `compare`, reading and writing included."""
    clock = SystemClock()
    start = clock.ns()
    samples = records.read(folder, "samples", block_medians.COLUMNS)
    table = compare(records.read(folder, "measurements"), samples, records.read(folder, "runs"))
    records.write_table(Path(folder) / "comparisons.parquet", table, "comparisons")
    return (clock.ns() - start) / 1e9


def main(wanted: int = 1_000_000) -> None:
    """Print a line for each of the two jobs."""
    cases = max(1, round(wanted / (SESSIONS * len(ARMS) * len(REGIMES) * ROUNDS * BLOCK)))
    with tempfile.TemporaryDirectory() as folder:
        made = 0
        for session in range(SESSIONS):
            given = {"folder": folder, "session": session, "cases": cases}
            made += in_fresh_process("records_cost:write_session", given).expect_ok("write_session").value
        print(f"{made:,} samples in {SESSIONS} job files, {cases} cases")
        for call in ("timed_aggregate", "timed_compare"):
            done = in_fresh_process(f"records_cost:{call}", {"folder": folder}).expect_ok(call)
            print(f"{call.removeprefix('timed_')}: {done.value:.2f} s, peak {done.rss_bytes / 1e6:,.0f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
