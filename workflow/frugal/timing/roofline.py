"""Measured times beside the least that the machine allows: columns roofline_s, roofline_fraction and roof.

    roofline_s = max(bytes_min / bandwidth, flop / peak)           roofline_fraction = roofline_s / value

after S. Williams et al., "Roofline", CACM 52(4), 2009, with the arm's own FLOP (an arm that skips zeros: kept ones) and
the ceilings that this session measured. The memory term holds only where data come from memory: regime cold, and graph
with rotated buffers that exceed the cache.

A time below the datasheet's roof is no time of that work. What the datasheet cannot be exceeded by: its peak at the
higher of the boost clock and the greatest clock that the driver allows, and its bandwidth for what is left of bytes_min
when a whole L2 cache of it stays behind (an output that nobody reads again need not reach memory in the sample).
"""

from __future__ import annotations

from collections.abc import Iterable

from frugal import hardware
from frugal.hardware import Gpu
from frugal.records import Measurement, RowKey, Run

BEYOND = 1.05  # of the datasheet's roof: the slack of a clock's calibration and of an event's resolution
REVIEW = 1.1  # times as fast as a library that does the same work
SHORT = "rotated_short"  # how the reason of a row begins whose buffers do not exceed the cache


def fill(rows: Iterable[Measurement], run: Run) -> list[RowKey]:
    """Set the roofline's columns of every row of metric time that has a value, from the ceilings in `run`.

    A row whose time is beyond the datasheet's roof becomes `incorrect` (beyond_roof), its value null; the keys of
    those rows are returned, so that their samples go too. Less grave findings are notes in `reason` and change no
    status: above the measured roof; and `review`, an arm of ours more than 10 % faster than the fastest baseline of the
    same precision though it leaves out no work.
    """
    timed = [row for row in rows if row.metric == "time" and row.value is not None]
    listed = hardware.lookup(run.gpu_name) if run.gpu_name else None
    beyond = []
    for row in timed:
        _fill_one(row, run)
        if listed is not None and (words := _beyond(row, run, listed)) is not None:
            if _library_convolution(row):
                _note(row, f"{words}: a fast algorithm needs fewer multiplications than its flop counts")
            else:
                beyond.append(row.key)
                _take_back(row, f"beyond_roof: {words}")
    fastest = _fastest_baselines(timed)
    for row in timed:
        if row.value is not None:
            _review(row, fastest.get(_same_work(row)))
    return beyond


def _fill_one(row: Measurement, run: Run) -> None:
    memory = _seconds(row.bytes_min, run.copy_bytes_per_s) if _from_memory(row) else 0.0
    compute = _seconds(row.flop, _measured_peak(row, run))
    assert row.value is not None
    if memory is None or compute is None or not max(memory, compute) > 0:
        return  # a roof of one term alone would be too low
    row.roofline_s = max(memory, compute)
    row.roofline_fraction = row.roofline_s / row.value
    row.roof = "memory" if memory > compute else "compute"
    if row.roofline_fraction > BEYOND:
        _note(row, f"{row.roofline_fraction:.3g} of the measured {row.roof} roof")


def _beyond(row: Measurement, run: Run, listed: Gpu) -> str | None:
    """In words, how far a time is beyond the datasheet's roof; None where it is not."""
    assert row.value is not None
    memory = 0.0
    if row.bytes_min is not None and _from_memory(row):
        memory = max(0.0, row.bytes_min - (run.l2_bytes or listed.l2_bytes or 0)) / listed.bytes_per_s
    compute = _seconds(row.flop, _datasheet_peak(row, run, listed)) or 0.0
    fraction = max(memory, compute) / row.value
    if fraction <= BEYOND:
        return None
    return f"{fraction:.3g} of the datasheet's {'memory' if memory > compute else 'compute'} roof"


def _seconds(work: float | None, rate: float | None) -> float | None:
    """None where work is not known, or where there is some and no rate is known."""
    if work is None or (work > 0 and not rate):
        return None
    return work / rate if work > 0 and rate else 0.0


def _measured_peak(row: Measurement, run: Run) -> float | None:
    if row.dtype == "float32":
        return run.flops_tf32 if row.tf32 else run.flops_fp32
    return run.flops_fp16 if row.dtype in ("float16", "bfloat16") else None


def _datasheet_peak(row: Measurement, run: Run, listed: Gpu) -> float | None:
    peak = None
    if row.dtype == "float32":
        peak = listed.flops_tf32 if row.tf32 and listed.flops_tf32 else listed.flops_fp32
    elif row.dtype in ("float16", "bfloat16"):
        peak = listed.flops_fp16
    return peak * max(1.0, (run.sm_hz_max or 0.0) / listed.boost_hz) if peak else None


def _from_memory(row: Measurement) -> bool:
    if row.regime == "cold":
        return True
    return row.l2 == "rotated" and not (row.reason or "").startswith(SHORT)


def _library_convolution(row: Measurement) -> bool:
    """Winograd's algorithms and FFT do a convolution with fewer multiplications than its definition."""
    return row.role == "baseline" and row.r is not None and row.r > 1


def _same_work(row: Measurement) -> tuple:
    """What a row may be compared within: case, regime and precision."""
    return row.key._replace(arm=""), row.dtype, bool(row.tf32)


def _fastest_baselines(rows: Iterable[Measurement]) -> dict[tuple, Measurement]:
    found: dict[tuple, Measurement] = {}
    for row in rows:
        if row.role == "baseline" and row.value is not None:
            best = found.setdefault(_same_work(row), row)
            if row.value < (best.value or 0.0):
                found[_same_work(row)] = row
    return found


def _review(row: Measurement, baseline: Measurement | None) -> None:
    if row.role != "ours" or row.flop is None or row.flop_dense_equiv is None or row.flop < row.flop_dense_equiv:
        return
    assert row.value is not None
    if baseline is not None and baseline.value is not None and baseline.value > REVIEW * row.value:
        _note(row, f"review: {baseline.value / row.value:.3g} times as fast as {baseline.arm} with no work left out")


def _note(row: Measurement, words: str) -> None:
    row.reason = f"{row.reason}; {words}" if row.reason else words


_TAKEN_BACK = (
    "value", "ci_low", "ci_high", "ci_level", "ci_method", "mean", "stdev", "mad", "min", "q25", "q75", "p95", "p99",
    "max", "roofline_s", "roofline_fraction", "roof",
)  # fmt: skip


def _take_back(row: Measurement, reason: str) -> None:
    row.status, row.reason = "incorrect", reason
    for name in _TAKEN_BACK:
        setattr(row, name, None)
    row.n_samples = row.n_blocks = row.n_mild = row.n_severe = 0
