"""The energy of one run, in J, from tick to tick of the device's own counter.

On a GPU two batches of some 50 ms of work are kept in its queue, so that it never idles, while the host reads the
counter without a pause (one read takes milliseconds) and notes when a batch has ended. After a second, from one tick to
another at least `span_s` later: P = ΔE / Δt, t = the slope of time over runs in the same span, E of a run = P · t.
What a GPU without a counter tells is its power, which is integrated (trapezoids) after 1.5 s, over at least 10 s: that
is a moving average, good for no difference below 5 %. A CPU is read before and after batches of work, its counters
being a thousand times finer. A device that tells nothing has no energy: None and a reason, never 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from frugal.clock import Clock, SystemClock

from . import rapl
from .gauge import Gauge, gauge_of
from .ticks import Counter, Span, seconds_per_run

DROP_S = 1.0  # of the counter: clocks and power settle
DROP_POWER_S = 1.5  # of power readings: a moving average needs 1.2 s to arrive
SPAN_POWER_S = 10.0
BATCH_S = 0.05
BATCH_CALLS = 500  # two batches and their events fit into a launch queue of about 1024
BATCHES_IN_FLIGHT = 2
BATCHES_LEAST = 3  # in the span, for the slope
IDLE_S = 10.0
PAUSE_S = 0.01  # between readings of power, which change ten times a second


class Event(Protocol):
    """A mark in a device's queue."""

    def record(self) -> None: ...

    def query(self) -> bool:
        """Whether the device has come past it."""


class Board(Protocol):
    """The part of frugal.timing's devices that is used; a CPU needs no `event`."""

    kind: str
    uuid: str | None

    def synchronize(self) -> None: ...

    def event(self) -> Event: ...


class Spanned(Protocol):
    """frugal.timing.Design's part that is used."""

    energy_span_s: float


@dataclass(frozen=True)
class Energy:
    """One trial. `gross_j` a run, `net_j` less what an idle device draws in that time (None without `idle_w`),
    `power_w` the mean; `source` counter, rapl or power_poll; `ticks` of the counter in `window_s`, `run_s` a run there,
    `start_ns` and `end_ns` the window on the monotonic clock. `reason` says why there is no number, or what is doubtful
    about it (`power_poll`, `neighbours`)."""

    gross_j: float | None = None
    net_j: float | None = None
    power_w: float | None = None
    source: str | None = None
    ticks: int | None = None
    window_s: float | None = None
    reason: str | None = None
    run_s: float | None = None
    start_ns: int | None = None
    end_ns: int | None = None


@dataclass(frozen=True)
class Idle:
    """Power with an open context and no work, in W, and the period of the counter in s; None where not told."""

    power_w: float | None = None
    tick_s: float | None = None


class Meter:
    """How a device tells its energy. `source` is None where it does not, and `reason` then says why.

    nvml: pynvml or a fake of it; powercap: the folder of a CPU's counters; clock: frugal.clock's.
    """

    def __init__(
        self,
        device: Board,
        nvml: Any | None = None,
        clock: Clock | None = None,
        powercap: Path = rapl.ROOT,
    ) -> None:
        self._device, self._clock = device, clock or SystemClock()
        self.gauge: Gauge | None = None
        self._packages = rapl.Packages()
        if device.kind == "cpu":
            self._packages = rapl.Packages(powercap)
            readable = bool(self._packages)
            self.source = "rapl" if readable else None
            self.reason = None if readable else "no_counter: this system lets nobody read the CPU's energy"
            return
        self.gauge = gauge_of(device.uuid, nvml)
        self.source, self.reason = _source(self.gauge)

    def measure(
        self, run: Callable[[], object], span_s: float = 5.0, runs: int = 1, idle_w: float | None = None
    ) -> Energy:
        """Run again and again for some `span_s` + 1 s (power readings: 11.5 s); `run` only enqueues on a GPU.

        runs: how many computations one call does (a CUDA graph of many). What `run` raises passes through.
        """
        if self.source is None:
            return Energy(reason=self.reason)
        if self.source == "rapl":
            found = self._on_cpu(run, span_s, runs)
        elif self.source == "counter":
            found = self._by_counter(run, span_s, runs)
        else:
            found = self._by_power(run, max(span_s, SPAN_POWER_S), runs)
        if found.gross_j is None:
            return replace(found, source=self.source)
        net = None if idle_w is None or found.run_s is None else found.gross_j - idle_w * found.run_s
        neighbours = self.gauge.neighbours() if self.gauge else None
        if neighbours:
            found = replace(found, reason=f"neighbours: {neighbours} other processes use this device")
        return replace(found, source=self.source, net_j=net)

    def longest_s(self, span_s: float) -> float:
        """What `measure` takes at most, in s, less a few runs."""
        return DROP_POWER_S + 2 * max(span_s, SPAN_POWER_S) + 1.0

    def temperature_c(self) -> float | None:
        """The die's temperature in °C; None where it is not told, and on a CPU."""
        return None if self.gauge is None else self.gauge.temperature_c()

    def idle(self, seconds: float = IDLE_S) -> Idle:
        """Do nothing for so long, with the context open."""
        if self.source is None:
            return Idle()
        self._device.synchronize()
        began = self._clock.ns()
        if self.source == "rapl":
            before = self._packages.energy_j()
            self._clock.sleep(seconds)
            after, took = self._packages.energy_j(), (self._clock.ns() - began) * 1e-9
            return Idle() if before is None or after is None else Idle((after - before) / took)
        if self.source == "counter":
            counter = Counter()
            while self._since(began) < seconds:
                self._read(counter)
            span, _ = counter.span(began + round(DROP_S * 1e9))
            return Idle() if span is None else Idle(span.power_w, span.tick_s)
        power = _Power(began + round(min(DROP_POWER_S, seconds / 2) * 1e9))
        while self._since(began) < seconds:
            self._look(power)
        found = power.span()
        return Idle() if found is None else Idle(found.power_w)

    def _by_counter(self, run: Callable[[], object], span_s: float, runs: int) -> Energy:
        counter = Counter()
        calls, batch_s = self._batch(run)
        work = _Work(self._device, run, calls)
        progress: list[tuple[int, int]] = []
        began = self._clock.ns()
        since = began + round(DROP_S * 1e9)
        longest = DROP_S + 2 * span_s + BATCHES_LEAST * batch_s + 1.0
        try:
            while counter.fault is None and self._since(began) <= longest:
                if work.advance():
                    progress.append((self._clock.ns(), work.ended * calls * runs))
                if not self._read(counter):
                    continue
                span, _ = counter.span(since)
                if span and span.seconds >= span_s and _inside(progress, span) >= BATCHES_LEAST:
                    break
        finally:
            self._device.synchronize()
        span, reason = counter.span(since)
        return Energy(reason=reason) if span is None else _energy(span, progress)

    def _by_power(self, run: Callable[[], object], span_s: float, runs: int) -> Energy:
        calls, batch_s = self._batch(run)
        work = _Work(self._device, run, calls)
        progress: list[tuple[int, int]] = []
        began = self._clock.ns()
        power = _Power(began + round(DROP_POWER_S * 1e9))
        longest = DROP_POWER_S + span_s + BATCHES_LEAST * batch_s + 1.0
        span = None
        try:
            while self._since(began) <= longest:
                if work.advance():
                    progress.append((self._clock.ns(), work.ended * calls * runs))
                self._look(power)
                span = power.span()
                if span and span.seconds >= span_s and _inside(progress, span) >= BATCHES_LEAST:
                    break
        finally:
            self._device.synchronize()
        if span is None or span.seconds < span_s:
            return Energy(reason="short_window: the power was not told often enough")
        found = _energy(span, progress)
        doubt = "power_poll: from averaged power readings, good for differences above 5 %"
        return replace(found, ticks=None, reason=found.reason or doubt)

    def _on_cpu(self, run: Callable[[], object], span_s: float, runs: int) -> Energy:
        points: list[tuple[int, int, float]] = []
        began, done = self._clock.ns(), 0
        while self._since(began) <= DROP_S + span_s or len(points) < 2:
            batch = self._clock.ns()
            while self._since(batch) < BATCH_S:
                run()
                done += runs
            joules = self._packages.energy_j()
            if joules is None:
                return Energy(reason="counter_lost: a reading of the counter failed")
            if self._since(began) >= DROP_S:
                points.append((self._clock.ns(), done, joules))
        (start, before, low), (end, after, high) = points[0], points[-1]
        seconds = (end - start) * 1e-9
        span = Span(start, end, (high - low) / seconds, 0, seconds)
        return replace(_energy(span, [(start, before), (end, after)]), ticks=None)

    def _batch(self, run: Callable[[], object]) -> tuple[int, float]:
        """How many calls last some 50 ms, and how long they do."""
        took = []
        for _ in range(3):
            self._device.synchronize()
            began = self._clock.ns()
            run()
            self._device.synchronize()
            took.append(self._since(began))
        seconds = max(min(took), 1e-9)
        calls = max(1, min(BATCH_CALLS, round(BATCH_S / seconds)))
        return calls, calls * seconds

    def _read(self, counter: Counter) -> bool:
        assert self.gauge is not None
        before = self._clock.ns()
        joules = self.gauge.energy_j()
        return counter.read(before, self._clock.ns(), joules)

    def _look(self, power: _Power) -> None:
        assert self.gauge is not None
        self._clock.sleep(PAUSE_S)
        before = self._clock.ns()
        watts = self.gauge.average_w()
        power.read((before + self._clock.ns()) / 2, watts)

    def _since(self, ns: int) -> float:
        return (self._clock.ns() - ns) * 1e-9


def measure_energy(
    run: Callable[[], object],
    device: Board,
    design: Spanned,
    nvml: Any | None = None,
    clock: Clock | None = None,
) -> Energy:
    """The energy of one `run()` on a device of frugal.timing, over at least `design.energy_span_s` (in s).

    `run` enqueues on torch's current stream and does not wait; on a CPU it computes. `net_j` needs the idle power:
    use a Meter. A device that tells nothing gives an Energy of None and a reason.
    """
    return Meter(device, nvml, clock).measure(run, design.energy_span_s)


class _Work:
    """Batches of `calls` runs in a device's queue; `ended` of them are done."""

    def __init__(self, device: Board, run: Callable[[], object], calls: int) -> None:
        self._device, self._run, self._calls = device, run, calls
        self._pending: deque[Event] = deque()
        self.ended = 0

    def advance(self) -> bool:
        """Notice what has ended, and keep two batches queued; whether any had ended."""
        before = self.ended
        while self._pending and self._pending[0].query():
            self._pending.popleft()
            self.ended += 1
        while len(self._pending) < BATCHES_IN_FLIGHT:
            for _ in range(self._calls):
                self._run()
            event = self._device.event()
            event.record()
            self._pending.append(event)
        return self.ended > before


class _Power:
    """Power readings after `since_ns`, and the energy under them."""

    def __init__(self, since_ns: int) -> None:
        self._since_ns = since_ns
        self._start: float | None = None
        self._last: tuple[float, float] | None = None
        self._joules = 0.0
        self._count = 0

    def read(self, ns: float, watts: float | None) -> None:
        if watts is None or ns < self._since_ns:
            return
        if self._last is None:
            self._start = ns
        else:
            self._joules += (watts + self._last[1]) / 2 * (ns - self._last[0]) * 1e-9
        self._last = (ns, watts)
        self._count += 1

    def span(self) -> Span | None:
        if self._start is None or self._last is None or self._last[0] == self._start:
            return None
        seconds = (self._last[0] - self._start) * 1e-9
        return Span(self._start, self._last[0], self._joules / seconds, 0, seconds / (self._count - 1))


def _source(gauge: Gauge | None) -> tuple[str | None, str | None]:
    if gauge is None:
        return None, "no_counter: there is no NVIDIA driver to ask"
    if gauge.is_slice():
        return None, "mig: the counter is the whole board's"
    if gauge.energy_j() is not None:
        return "counter", None
    if gauge.average_w() is not None:
        return "power_poll", None
    return None, "no_counter: this GPU tells neither its energy nor its power"


def _inside(progress: list[tuple[int, int]], span: Span) -> int:
    return sum(span.start_ns <= ns <= span.end_ns for ns, _ in progress)


def _energy(span: Span, progress: list[tuple[int, int]]) -> Energy:
    run_s = seconds_per_run(progress, span.start_ns, span.end_ns)
    if run_s is None:
        return Energy(reason="short_window: fewer than two batches of work ended in it")
    if not span.power_w > 0:
        return Energy(reason="no_power: the device tells that it draws none")
    start, end = round(span.start_ns), round(span.end_ns)
    return Energy(span.power_w * run_s, None, span.power_w, None, span.ticks, span.seconds, None, run_s, start, end)
