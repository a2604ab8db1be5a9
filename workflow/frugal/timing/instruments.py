"""What is read beside the timing of a session: polls of clocks and heat, and energy where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from frugal.clock import Clock
from frugal.energy import Idle, Meter, Sampler, no_polls
from frugal.timing.arms import Case
from frugal.timing.design import Design
from frugal.timing.devices import Device
from frugal.timing.polls import Polls


@dataclass
class Instruments:
    """Those of one session; without a sampler nothing is polled, without a meter no energy is measured.

    `start_c`: the die's temperature in °C when the session began, `settled_sm_hz` the SM clock after its warm-up.
    """

    sampler: Sampler | None = None
    meter: Meter | None = None
    idle: Idle = field(default_factory=Idle)
    start_c: float | None = None
    settled_sm_hz: float | None = None

    def between(self, start_ns: int, end_ns: int) -> np.ndarray:
        """The polls of an interval (frugal.energy.Sampler.between); none without a sampler."""
        return no_polls() if self.sampler is None else self.sampler.between(start_ns, end_ns)

    def polls(self, start_ns: int, end_ns: int) -> Polls:
        """What a case's rows are joined with."""
        return Polls(self.between(start_ns, end_ns), self.settled_sm_hz)

    def columns(self) -> dict[str, float | None]:
        """Columns of `runs`."""
        return {
            "settled_sm_hz": self.settled_sm_hz,
            "energy_tick_s": self.idle.tick_s,
            "idle_w": self.idle.power_w,
        }


@contextmanager
def instruments(
    device: Device, design: Design, cases: Iterable[Case], clock: Clock, say: Callable[[str], None]
) -> Iterator[Instruments]:
    """Start those that the cases need, on a device that is at rest: it idles for 10 s where energy is measured.

    `say` gets one line when a gauge is silent, or when the sampler ended before its session.
    """
    cases = list(cases)
    if not cases:
        yield Instruments()
        return
    sampler = Sampler(device, design.poll_s, clock).start()
    found = Instruments(sampler)
    try:
        if design.measures_energy(device.kind) and any("energy" in case.measures for case in cases):
            found.meter = Meter(device, clock=clock)
            found.start_c = found.meter.temperature_c()
            found.idle = found.meter.idle()
        silent = sampler.missing()
        if silent:
            say(f"NVML does not tell {', '.join(silent)}: their columns stay empty")
        yield found
    finally:
        if not sampler.close():
            say("WARN: the process that polls clocks and heat ended before its session: columns are empty from then on")
