"""A session: one process measures all cases in a fresh random order and writes one job file."""

from __future__ import annotations

import dataclasses
import gc
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from frugal.clock import Clock, SystemClock
from frugal.errors import FrugalError
from frugal.processes import bind
from frugal.records import Measurement, RowKey, Run, Sample, write_job
from frugal.timing import roofline
from frugal.timing.arms import Arm, Case
from frugal.timing.case import measure_case
from frugal.timing.design import Design, derive_seed
from frugal.timing.devices import Device
from frugal.timing.faults import Fault, one_line
from frugal.timing.instruments import Instruments, instruments
from frugal.timing.journal import Journal
from frugal.timing.lease import lease, neighbours
from frugal.timing.monitor import Monitor
from frugal.timing.result import CaseResult
from frugal.timing.warmup import warm_up

TIMEOUTS_MAX = 3  # of one arm in one experiment: what hangs in three cases would hang for hours in a hundred
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns"))

Rows = Sequence[Measurement]
Samples = Mapping[RowKey, Sequence[Sample]]


def run_session(
    cases: Iterable[tuple[Case, Sequence[Arm]]],
    design: Design,
    session: int,
    device: Device,
    run: Run,
    path: str | Path,
    clock: Clock | None = None,
    *,
    journal: bool = True,
    on_progress: Callable[[str], None] = print,
    log: str = "",
    monitor: Monitor | None = None,
    calibrate: Callable[[Device, Clock], Mapping[str, object]] | None = None,
    judge: Callable[[Run, Rows, Samples], Mapping[str, object]] | None = None,
) -> None:
    """Measure every case once and write `path` (frugal.records, one job file).

    `cases` is read when the device is leased, so that what it puts on the device disturbs no other session. Finished
    cases are kept in `<path>.partial` (unless `journal` is False) and are not measured again when the same session is
    started again after a kill; its header is a hash of the design, the device, the software and the arms' sources.
    Arms that the journal blames for the end of an earlier process are not run (frugal.timing.journal.blame), and one
    that timed out in three cases is `skipped` in the rest.
    Clocks, heat and power are polled meanwhile where NVML is there, and energy is measured where the design and a case
    ask for it (frugal.timing.instruments).
    `run` is the session's row; finished_at, wall_s, threads, foreign_pids, process_restarts, settled_sm_hz, idle_w and
    energy_tick_s are filled in here.
    `on_progress` gets one line a case, `monitor` is told of each step. `calibrate` is called last, on the warm device,
    and `judge` on the finished rows and samples: both give columns of the session's row (frugal.timing.ceilings,
    frugal.controls). FrugalError when the device stops working, for two cases of one case_id and for no cases at all.
    """
    clock = clock or SystemClock()
    began = clock.ns()
    run = dataclasses.replace(run, threads=_pin(design))
    with lease(device.uuid, on_progress):
        run = _with_neighbours(run, device, on_progress)
        listed = list(cases)
        _check_cases(listed)
        kept = Journal(path, _header(listed, design, session, device, run), on_progress) if journal else None
        finished: dict[str, CaseResult] = dict(kept.finished) if kept else {}
        left_out = left_out_of(listed, kept.blames if kept else {})
        if finished:
            on_progress(f"{len(finished)} of {len(listed)} cases were finished before: they are not measured again")
        waiting = [(case, arms) for case, arms in listed if case.case_id not in finished]
        if waiting and design.cooldown_s and session > 0:
            clock.sleep(design.cooldown_s)
        with instruments(device, design, [case for case, _ in waiting], clock, on_progress) as beside:
            for case, result in _measure(
                waiting, len(listed), left_out, design, session, device, run, clock, on_progress, log, monitor, beside
            ):
                finished[case.case_id] = result
                if kept:
                    kept.add(case.case_id, result, beside.columns())
                _check_alive(device, case)
        # a process that has nothing left to measure reads nothing itself
        run = dataclasses.replace(run, **(kept.columns if kept and not waiting else beside.columns()))
        if calibrate:
            run = dataclasses.replace(run, **calibrate(device, clock))
    results = [finished[case.case_id] for case, _ in listed]
    rows = [dataclasses.replace(row, run_id=run.run_id) for result in results for row in result.rows]
    samples = {key: taken for result in results for key, taken in result.samples.items()}
    for key in roofline.fill(rows, run):
        samples.pop(key, None)  # of a time that cannot be
    restarts = run.process_restarts + (kept.restarts if kept else 0)
    wall_s = (clock.ns() - began) * 1e-9
    run = dataclasses.replace(run, finished_at=clock.now(), wall_s=wall_s, process_restarts=restarts)
    if judge:
        run = dataclasses.replace(run, **judge(run, rows, samples))
    write_job(path, run, rows, samples)
    if kept:
        kept.close()


def _measure(
    waiting: list[tuple[Case, Sequence[Arm]]],
    total: int,
    left_out: Mapping[str, Mapping[str, Fault]],
    design: Design,
    session: int,
    device: Device,
    run: Run,
    clock: Clock,
    say: Callable[[str], None],
    log: str,
    monitor: Monitor | None,
    beside: Instruments,
) -> Iterator[tuple[Case, CaseResult]]:
    """Warm the device up and measure what is not finished, of `total` cases, in this session's order."""
    random.Random(derive_seed(design.seed, session, "cases")).shuffle(waiting)
    if not waiting:
        return
    with device.active():
        warmed = warm_up(device, design, clock, beside.between)
    beside.settled_sm_hz = warmed.sm_hz
    gc.collect()
    gc.freeze()  # what the imports left need not be walked again before each case
    try:
        for number, (case, arms) in enumerate(waiting, start=total - len(waiting) + 1):
            before = clock.ns()
            result = measure_case(
                case, arms, design, session, device, clock,
                run_id=run.run_id, log=log, monitor=monitor, blamed=left_out[case.case_id],
                beside=beside,
            )  # fmt: skip
            for row in result.rows:
                row.warmup_s, row.settled = warmed.seconds, warmed.settled
            yield case, result
            seconds = (clock.ns() - before) * 1e-9
            say(f"[{number}/{total}] {case.label} · {summary(result.rows)} · {seconds:.1f} s")
            for warning in result.warnings:
                say(warning)
    finally:
        gc.unfreeze()


def summary(rows: Sequence[Measurement]) -> str:
    """Each arm's time in the most telling regime that all timed arms have, or what became of it."""
    timed = [row for row in rows if row.metric == "time" and row.value is not None]
    names = list(dict.fromkeys(row.arm for row in rows))
    regimes = {name: {(row.regime, row.l2) for row in timed if row.arm == name} for name in names}
    measured = [found for found in regimes.values() if found]
    common = set.intersection(*measured) if measured else set()
    preferred = (("graph", "resident"), ("graph", "rotated"), ("cold", None), ("wall", None), ("hot", None))
    shown = next((regime for regime in preferred if regime in common), None)
    parts = []
    for name in names:
        own = [row for row in rows if row.arm == name and row.metric == "time"]
        values = [row.value for row in own if (row.regime, row.l2) == shown and row.value is not None]
        anything = [row.value for row in own if row.value is not None]
        parts.append(f"{name} {duration(median(values or anything)) if anything else _outcome(own[0])}")
    return " · ".join(parts) + (f" ({shown[0]})" if shown else "")


def duration(seconds: float, digits: int = 3) -> str:
    """12.3 µs: with so many significant digits."""
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size)
    return f"{seconds / (size or 1e-9):.{digits}g} {unit}"


def _outcome(row: Measurement) -> str:
    """What became of an arm that has no time. The arms of role control compute wrongly on purpose."""
    return "caught, as it must be" if (row.role, row.status) == ("control", "incorrect") else row.status


def _check_cases(cases: Sequence[tuple[Case, Sequence[Arm]]]) -> None:
    if not cases:
        raise FrugalError("there is no case to measure: choose at least one network, layer and batch size")
    ids = [case.case_id for case, _ in cases]
    twice = next((case.label for case, _ in cases if ids.count(case.case_id) > 1), None)
    if twice is not None:
        raise FrugalError(f"two cases have the same axes as {twice}: each case must differ in an axis")


def left_out_of(
    cases: Sequence[tuple[Case, Sequence[Arm]]], blames: Mapping[str, Mapping[str, Fault]]
) -> dict[str, dict[str, Fault]]:
    """By case_id the arms that are not run: they ended a process in this case, or timed out in too many of its kind."""
    hung: Counter[tuple[str, str, str]] = Counter()
    for case, _ in cases:
        faults = blames.get(case.case_id, {})
        hung.update((case.system, case.experiment, name) for name in faults if faults[name].status == "timeout")
    found = {}
    for case, arms in cases:
        count = {arm.name: hung[case.system, case.experiment, arm.name] for arm in arms}
        skipped = {
            name: Fault("skipped", f"not tried: it timed out in {number} other cases of this session")
            for name, number in count.items()
            if number >= TIMEOUTS_MAX
        }
        found[case.case_id] = skipped | dict(blames.get(case.case_id, {}))
    return found


def _check_alive(device: Device, case: Case) -> None:
    try:
        device.synchronize()
    except RuntimeError as error:
        raise FrugalError(
            f"the device stopped working in case {case.label} ({one_line(str(error))}): what was finished is kept, so "
            "run again and the session goes on with the next case"
        ) from error


def _with_neighbours(run: Run, device: Device, say: Callable[[str], None]) -> Run:
    if device.uuid is None:
        return run
    found = neighbours(device.uuid)
    if found:
        say(f"WARN: {found} other process(es) compute on this GPU: times and energy hold for a shared device")
    return dataclasses.replace(run, foreign_pids=found)


def _pin(design: Design) -> int:
    """Bind the process as the design says; the threads that torch then has."""
    bind(design.affinity)
    if design.threads is not None:
        import numba

        # Numba first: when it starts its threads it sets the number of those of OpenMP, which torch may share.
        numba.set_num_threads(min(design.threads, numba.config.NUMBA_NUM_THREADS))
        torch.set_num_threads(design.threads)
    return torch.get_num_threads()


def _header(
    cases: Sequence[tuple[Case, Sequence[Arm]]], design: Design, session: int, device: Device, run: Run
) -> dict[str, object]:
    return {
        "design": dataclasses.asdict(design),
        "session": session,
        "device": [run.device_key, device.key, run.machine_hash, run.torch, run.lock_hash, run.package_version],
        "cases": {
            case.case_id: sorted([arm.name, arm.role, arm.source_hash, arm.binary_hash or ""] for arm in arms)
            for case, arms in cases
        },
    }
