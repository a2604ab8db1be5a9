"""The sampler's process: `python -m frugal.energy DESCRIPTOR UUID PERIOD_S PARENT`. It ends with its parent."""

from __future__ import annotations

import os
import signal
import sys

from frugal.clock import SystemClock

from .gauge import gauge_of
from .ring import Ring, poll


def main(descriptor: int, uuid: str, period_s: float, parent: int) -> None:
    """Write a poll every `period_s` until the parent is gone. Without a driver: none, and the end."""
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


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
