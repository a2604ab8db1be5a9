"""The load that opens a session, until times and clocks have settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from frugal.clock import Clock
from frugal.energy import no_polls
from frugal.timing.design import Design
from frugal.timing.devices import Device
from frugal.timing.polls import mean

WINDOW_S = 0.5
LONGEST_S = 10.0
SETTLED = 0.01
SLOPE = 0.005  # of the SM clock, a second
POLLS_MIN = 5  # for a slope: a clock is read in steps of almost 1 %

Between = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class WarmUp:
    """How long it took, whether times and the SM clock had settled, and that clock in Hz (None: not told).

    Times have settled when the medians of the last two windows differ by less than 1 %, the clock when its slope over
    the two is less than 0.5 % a second; a clock that nobody reads is no obstacle.
    """

    seconds: float
    settled: bool
    sm_hz: float | None = None


def warm_up(device: Device, design: Design, clock: Clock, polls: Between | None = None) -> WarmUp:
    """Load the device for the design's time, then until settled, for 10 s at most (preset smoke: not longer).

    polls: gives those of an interval of `clock`'s ns (frugal.energy.Sampler.between).
    """
    polls = polls or _no_polls
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
        if seconds < wanted:
            continue
        last = polls(now - round(2 * window * 1e9), now)
        steady = len(medians) > 1 and abs(medians[-1] / medians[-2] - 1) < SETTLED
        settled = steady and abs(_slope(last)) < SLOPE
        if settled or seconds >= longest:
            return WarmUp(seconds, settled, mean(last["sm_hz"]))
    return WarmUp(0.0, False)


def _slope(polled: np.ndarray) -> float:
    """Of the SM clock, in its mean a second, by least squares; 0 where too little is known."""
    known = polled[np.isfinite(polled["sm_hz"])]
    if len(known) < POLLS_MIN:
        return 0.0
    seconds, hz = (known["ns"] - known["ns"].mean()) * 1e-9, known["sm_hz"]
    return float(seconds @ (hz / hz.mean()) / (seconds @ seconds))


def _no_polls(start_ns: int, end_ns: int) -> np.ndarray:
    return no_polls()
