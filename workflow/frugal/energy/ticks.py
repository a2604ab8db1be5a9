"""From readings of a counter to power: from one tick to another, so that no part of a tick is counted.

A counter of energy changes in steps, some ten times a second. The value between two steps is old by an unknown time,
so that a difference of two readings is wrong by up to a tick at each end. The time of a step is known much better:
it lies between the last reading of the old value and the first of the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 20  # ticks; fewer say that the counter is slower than the span allows for
LONGEST_GAP_S = 1.0


@dataclass(frozen=True)
class Tick:
    """A change of the counter: when (monotonic, ns), and its new value in J."""

    ns: float
    joules: float


@dataclass(frozen=True)
class Span:
    """From a tick to a later one: ns, mean power in W, the number of steps in between, and their median period in s."""

    start_ns: float
    end_ns: float
    power_w: float
    ticks: int
    tick_s: float

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) * 1e-9


class Counter:
    """The ticks of a counter that is read again and again.

    `fault` is set when it cannot be trusted: `counter_reset` for a fall in value, or for more than 1 s without a change
    between two ticks; `counter_lost` when a reading fails.
    """

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.fault: str | None = None
        self._last: tuple[float, float] | None = None

    def read(self, began_ns: int, ended_ns: int, joules: float | None) -> bool:
        """Take a reading, whose value was true at some instant of the call; whether the counter had ticked."""
        if joules is None:
            self.fault = self.fault or "counter_lost: a reading of the counter failed"
            return False
        at = (began_ns + ended_ns) / 2
        last, self._last = self._last, (at, joules)
        if last is None or joules == last[1]:
            return False
        if joules < last[1]:
            self.fault = self.fault or "counter_reset: the counter fell"
        self.ticks.append(Tick((last[0] + at) / 2, joules))
        return True

    def span(self, since_ns: int) -> tuple[Span | None, str | None]:
        """From the first tick after `since_ns` to the last one, or why there is none (`short_window`, or the fault)."""
        if self.fault:
            return None, self.fault
        used = [tick for tick in self.ticks if tick.ns >= since_ns]
        if len(used) <= LEAST:
            return None, f"short_window: {max(0, len(used) - 1)} ticks of the counter, at least {LEAST} are needed"
        gaps = np.diff([tick.ns for tick in used]) * 1e-9
        if gaps.max() > LONGEST_GAP_S:
            return None, f"counter_reset: the counter stood still for {gaps.max():.2g} s"
        first, last = used[0], used[-1]
        power = (last.joules - first.joules) / ((last.ns - first.ns) * 1e-9)
        return Span(first.ns, last.ns, power, len(used) - 1, float(np.median(gaps))), None


def seconds_per_run(progress: Sequence[tuple[int, int]], start_ns: float, end_ns: float) -> float | None:
    """The slope of time over runs, in s a run, by least squares; None below 2 different counts in the interval.

    `progress`: (monotonic ns, runs done by then), in order. A constant delay in noticing that work is done is no error.
    """
    points = np.array([point for point in progress if start_ns <= point[0] <= end_ns], dtype=np.float64)
    if len(points) < 2 or points[0, 1] == points[-1, 1]:
        return None
    seconds, runs = (points[:, 0] - points[0, 0]) * 1e-9, points[:, 1] - points[:, 1].mean()
    return float(runs @ seconds / (runs @ runs))
