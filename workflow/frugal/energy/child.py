"""The sampler's process, which frugal.energy.sampler starts. It ends with its parent."""

from __future__ import annotations

import os
import signal

from frugal.clock import SystemClock

from .gauge import gauge_of
from .ring import Ring, poll


def main(descriptor: int, uuid: str, period_s: float, parent: int) -> None:
    """Write a poll of the GPU with this UUID into the ring of `descriptor` every `period_s`, until `parent` is gone.

    Without a driver: none, and the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the session decides what follows
    clock, ring, gauge = SystemClock(), Ring(descriptor), gauge_of(uuid)
    if gauge is None:
        return
    due = clock.ns()
    while os.getppid() == parent:
        ring.append(poll(gauge, clock.ns()))
        now = clock.ns()
        due = max(due + round(period_s * 1e9), now)  # a poll that took longer than a period delays those after it
        clock.sleep((due - now) * 1e-9)
