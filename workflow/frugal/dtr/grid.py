"""Many simulated runs of one log: the points of a figure, in threads (compiled code runs without the interpreter)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from frugal.dtr.heuristics import find
from frugal.dtr.logs import Log
from frugal.dtr.sim import SimResult, refuse, simulate
from frugal.dtr.sim_state import RANDOM

_KEYS = {"heuristic": pa.string(), "dealloc": pa.string(), "ratio": pa.float64(), "seed": pa.int64()}
_TYPES = {"status": pa.string(), "overhead": pa.float64(), "failed_name": pa.string()}
_RESULTS = [f.name for f in dataclasses.fields(SimResult) if f.name not in ("trace", "decision_sha1")]
SCHEMA = pa.schema([*_KEYS.items(), *((name, _TYPES.get(name, pa.int64())) for name in _RESULTS)])


def sweep(
    log: Log,
    heuristics: Sequence[str],
    ratios: Sequence[float],
    *,
    dealloc: Sequence[str] = ("evict",),
    seeds: Sequence[int] = (0,),
    workers: int | None = None,
    overhead_limit: float = 2.0,
    e_star: str = "maintained",
) -> pa.Table:
    """Simulate every heuristic at every ratio and deallocation mode; one that draws lots with every seed.

    Returns a table of SCHEMA: the case, then the fields of SimResult, in the order of the arguments (heuristic, mode,
    ratio, seed). workers: threads; None for a thread a core. Raises ValueError as `simulate`, before anything runs.
    """
    cases = [
        (name, mode, ratio, seed)
        for name in heuristics
        for mode in dealloc
        for ratio in ratios
        for seed in (seeds if find(name).kind == RANDOM else seeds[:1])
    ]
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} is not allowed: at least 1, or None for a thread a core")
    for name in heuristics:
        for mode in dealloc:
            refuse(find(name), mode, e_star)

    def one(case: tuple[str, str, float, int]) -> dict[str, object]:
        name, mode, ratio, seed = case
        result = simulate(log, name, ratio=ratio, dealloc=mode, seed=seed, overhead_limit=overhead_limit, e_star=e_star)
        return dict(zip(_KEYS, case, strict=True)) | {name: getattr(result, name) for name in _RESULTS}

    log.baseline()  # once, and compiles what the threads share
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        rows = list(pool.map(one, cases))
    return pa.Table.from_pylist(rows, schema=SCHEMA)
