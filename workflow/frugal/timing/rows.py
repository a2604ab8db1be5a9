"""From blocks to measurement rows: the statistics of one arm in one regime of one session."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median

import numpy as np

from frugal import stats
from frugal.records import Measurement, Sample, canonical_json
from frugal.timing.arms import Case
from frugal.timing.design import Design
from frugal.timing.polls import Polls, attach, fill_context, slowed
from frugal.timing.regimes import LAUNCH_BOUND
from frugal.timing.state import Progress, Timing
from frugal.timing.verify import Check

HOT_OVER_GRAPH = 1.2
IQR_UNSTABLE = 0.25  # of the median, in every block
DISCARDED_UNSTABLE = 0.1  # of all samples
_STOP_ORDER = ("max_time", "max_samples", "target")  # a row names the least satisfied of its blocks


def of(
    case: Case,
    progress: Progress,
    design: Design,
    session: int,
    *,
    seeds: Mapping[str, int],
    polls: Polls,
) -> Iterator[tuple[Measurement, list[Sample]]]:
    """A row and its samples for every regime that was attempted."""
    for regime in progress.attempted:
        timing = progress.timings.get(regime) or Timing()
        fault = progress.fault or timing.fault
        after = timing.after if timing.after is not None and not timing.after.ok else progress.after
        row = frame(case, progress, design, session, regime, after=after)
        row.order_seed, row.batch_m = seeds[regime], timing.m
        samples: list[Sample] = []
        if fault is not None:
            row.status, row.reason = fault.status, fault.reason
        else:
            samples = _samples(timing, polls, design)
            _fill(row, timing, samples)
            fill_context(row, [(block.start_ns, block.end_ns) for block in timing.blocks], polls)
            row.reason = row.reason or timing.note
            row.launch_bound = _launch_bound(progress, regime, row.value)
        yield row, samples


def frame(
    case: Case,
    progress: Progress,
    design: Design,
    session: int,
    regime: str | None,
    *,
    after: Check | None = None,
) -> Measurement:
    """A row of this arm with metric time and status ok, still without a number, a run_id and a log.

    `regime` as in frugal.timing.arms; None for what does not depend on one.
    """
    arm, before = progress.arm, progress.before
    is_graph = regime in ("graph", "graph_rotated")
    l2 = {"graph": "resident", "graph_rotated": "rotated"}.get(regime or "")
    columns = {"seed": design.seed, **case.columns}
    return Measurement(
        run_id="",
        case_id=case.case_id,
        session=session,
        system=case.system,
        experiment=case.experiment,
        network=case.network,
        layer=case.layer,
        arm=arm.name,
        role=arm.role,
        axes_json=canonical_json(dict(case.axes)),
        arm_json=canonical_json(dict(arm.settings)) if arm.settings else None,
        dtype=arm.dtype,
        tf32=arm.tf32,
        layout=arm.layout,
        compiled=arm.compiled,
        graph=is_graph,
        source_hash=arm.source_hash,
        binary_hash=arm.binary_hash,
        registers=arm.registers,
        spill_bytes=arm.spill_bytes,
        shared_bytes=arm.shared_bytes,
        occupancy=arm.occupancy,
        first_call_s=progress.first_call_s,
        regime="graph" if is_graph else regime,
        l2=l2,
        metric="time",
        unit="s",
        higher_is_better=False,
        conditional=design.sessions == 1,
        n_samples=0,
        n_blocks=0,
        n_discarded=0,
        n_mild=0,
        n_severe=0,
        order_seed=design.seed,
        flop=arm.flop,
        bytes_min=arm.bytes_min,
        verified_before=before.ok if before else None,
        verified_after=after.ok if after else None,
        tolerance_rule=before.rule if before else None,
        max_abs_err=before.max_abs_err if before else None,
        max_rel_err=before.max_rel_err if before else None,
        err_bound=before.err_bound if before else None,
        status="ok",
        log="",
        **columns,
    )


def _samples(timing: Timing, polls: Polls, design: Design) -> list[Sample]:
    """All samples, those of a slowed-down device as `excluded`; the others are flagged among themselves."""
    found = []
    for number, block in enumerate(timing.blocks):
        excluded = slowed(block, timing.m or 1, polls, design)
        flags = iter(stats.tukey_flags([v for v, out in zip(block.values, excluded, strict=True) if not out]))
        own = [
            Sample(
                round=block.round,
                position=block.position,
                block=number,
                index=index,
                start_ns=start,
                value=value,
                flag="excluded" if out else next(flags),
            )
            for index, ((start, value), out) in enumerate(zip(block.samples, excluded, strict=True))
        ]
        attach(own, block, polls)
        found += own
    return found


def _fill(row: Measurement, timing: Timing, samples: list[Sample]) -> None:
    kept = [sample for sample in samples if sample.flag != "excluded"]
    row.n_discarded = len(samples) - len(kept)
    row.n_samples = len(kept)
    row.n_mild = sum(sample.flag == "mild" for sample in kept)
    row.n_severe = sum(sample.flag == "severe" for sample in kept)
    row.stop_reason = min((block.stop_reason for block in timing.blocks), key=_STOP_ORDER.index)
    row.cpu_s, row.involuntary_switches = timing.usage.cpu_s, timing.usage.involuntary_switches
    if row.n_discarded > DISCARDED_UNSTABLE * len(samples):
        row.status = "unstable"
        row.reason = f"slowdown: {row.n_discarded} of {len(samples)} samples were taken at a throttled or a low clock"
    if not kept:
        return
    by_block: dict[int, list[float]] = {}
    for sample in kept:
        by_block.setdefault(sample.block, []).append(sample.value)
    values = np.array([sample.value for sample in kept])
    medians = [median(block) for block in by_block.values()]
    if not min(medians) > 0:
        row.status, row.reason = "unstable", "a median of 0 s: the clock does not resolve this"
        return
    row.value = math.exp(sum(math.log(x) for x in medians) / len(medians))
    interval = stats.order_ci(values) if len(medians) == 1 else None
    if interval is not None:
        row.ci_low, row.ci_high, row.ci_level, row.ci_method = interval.low, interval.high, 0.95, interval.method
    row.n_blocks = len(medians)
    describe(row, values)
    if row.status == "ok" and all(_spread(block) > IQR_UNSTABLE for block in by_block.values()):
        row.status = "unstable"
        row.reason = "the interquartile range exceeds 25 % of the median in every block"


def describe(row: Measurement, values: np.ndarray) -> None:
    """Set the row's columns on the distribution of its values."""
    row.mean, row.min, row.max = float(values.mean()), float(values.min()), float(values.max())
    row.stdev = float(values.std(ddof=1)) if len(values) > 1 else None
    row.mad = float(np.median(np.abs(values - np.median(values))))
    row.q25, row.q75 = (float(q) for q in np.quantile(values, [0.25, 0.75]))
    if stats.quantile_exists(len(values), 0.95):
        row.p95 = float(np.quantile(values, 0.95))
    if stats.quantile_exists(len(values), 0.99):
        row.p99 = float(np.quantile(values, 0.99))


def _spread(values: list[float]) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / median(values)


def _launch_bound(progress: Progress, regime: str, value: float | None) -> bool | None:
    """Of regime hot on a GPU: the host's launches, not the kernel, set the time."""
    guess = progress.estimate
    if regime != "hot" or guess is None or guess.host_s == 0 or value is None:
        return None
    graph = progress.timings.get("graph")
    beside = [median(block.values) for block in graph.blocks] if graph and graph.fault is None else []
    slower = bool(beside) and value > HOT_OVER_GRAPH * median(beside)
    return guess.host_s >= LAUNCH_BOUND * guess.run_s or slower
