"""The load that opens a session, until times have settled."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from frugal.clock import Clock
from frugal.timing.design import Design
from frugal.timing.devices import Device

WINDOW_S = 0.5
LONGEST_S = 10.0
SETTLED = 0.01


@dataclass(frozen=True)
class WarmUp:
    """How long it took, and whether the medians of the last two windows differ by less than 1 %."""

    seconds: float
    settled: bool


def warm_up(device: Device, design: Design, clock: Clock) -> WarmUp:
    """Load the device for the design's time, then until settled, for 10 s at most (preset smoke: not longer)."""
    wanted = design.warmup_cpu_s if device.kind == "cpu" else design.warmup_gpu_s
    longest = wanted if design.preset == "smoke" else max(wanted, LONGEST_S)
    window = min(WINDOW_S, wanted / 2)
    medians: list[float] = []
    start = opened = clock.ns()
    units: list[float] = []
    while wanted > 0:
        before = clock.ns()
        device.load()
        now = clock.ns()
        units.append((now - before) * 1e-9)
        if (now - opened) * 1e-9 >= window:
            medians.append(median(units))
            units, opened = [], now
        seconds = (now - start) * 1e-9
        settled = len(medians) > 1 and abs(medians[-1] / medians[-2] - 1) < SETTLED
        if seconds >= longest or (seconds >= wanted and settled):
            return WarmUp(seconds, settled)
    return WarmUp(0.0, False)
