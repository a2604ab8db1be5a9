"""Peaks of memory of each arm, after timing and energy and never together with them, and their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from frugal.memory import peak_cuda, peak_live
from frugal.records import Measurement
from frugal.timing.arms import Arm, Case, Inputs
from frugal.timing.design import Design
from frugal.timing.devices import Device
from frugal.timing.rows import frame
from frugal.timing.state import Attempt, Peaks, Progress

METRICS = {"cpu": ("peak_live",), "cuda": ("peak_live", "peak_allocated", "peak_reserved")}
CALLS = 4  # of an arm in its step


def measure(progress: Sequence[Progress], inputs: Inputs, design: Design, device: Device, attempt: Attempt) -> None:
    """Fill in `memory` of each arm: its peaks, or a fault. Each is alone on the device, with a copy of `inputs`."""
    for item in progress:
        item.memory = Peaks()
        device.release()  # what another arm has left in the allocator's cache would count as reserved
        body = partial(_measure, item.arm, item.memory, inputs, device.kind)
        item.memory.fault = attempt(item.arm, "memory", body, CALLS * design.case_timeout_s)


def rows_of(case: Case, progress: Progress, design: Design, session: int, kind: str) -> Iterator[Measurement]:
    """A row for each metric that a device of this kind has, in bytes; regime null."""
    memory = progress.memory or Peaks()
    fault = progress.fault or memory.fault
    found = {peak.metric: peak for peak in memory.found}
    for metric in METRICS[kind]:
        row = frame(case, progress, design, session, None, after=progress.after)
        row.metric, row.unit = metric, "B"
        if fault is not None:
            row.status, row.reason = fault.status, fault.reason
        else:
            row.value, row.base_bytes = float(found[metric].bytes), found[metric].base_bytes
            row.n_samples = row.n_blocks = 1
        yield row


def _measure(arm: Arm, memory: Peaks, inputs: Inputs, kind: str) -> None:
    own = {name: value.clone() for name, value in inputs.items()}
    prepared = arm.prepare(own)
    prepared.run()  # what is made once is there by now
    memory.found.append(peak_live(prepared.run, (own, prepared.outputs)))
    if kind == "cuda":
        memory.found += peak_cuda(prepared.run)
