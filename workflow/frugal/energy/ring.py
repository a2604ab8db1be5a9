"""Polls in shared memory: one process writes them into a ring, another reads them."""

from __future__ import annotations

import mmap

import numpy as np

from .gauge import Gauge

# NaN, and -1 for the reasons, where the device does not tell.
POLL = np.dtype(
    [("ns", "i8"), ("sm_hz", "f8"), ("mem_hz", "f8"), ("temp_c", "f8"), ("power_w", "f8"), ("event_reasons", "i8")]
)
CAPACITY = 1 << 17  # almost two hours at 50 ms; a case, which is joined with its polls when it ends, takes minutes
_HEADER = 64  # bytes: the number of polls written so far, on a cache line of its own
SIZE = _HEADER + CAPACITY * POLL.itemsize


class Ring:
    """The last CAPACITY - 1 polls; one writer, any number of readers."""

    def __init__(self, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, SIZE)
        self._written = np.frombuffer(memory, np.int64, 1)
        self._polls = np.frombuffer(memory, POLL, CAPACITY, _HEADER)

    def append(self, poll: tuple) -> None:
        """The values of POLL's fields. The count comes last, so that a reader never sees half a poll."""
        number = int(self._written[0])
        self._polls[number % CAPACITY] = poll
        self._written[0] = number + 1

    def __len__(self) -> int:
        return int(self._written[0])

    def between(self, start_ns: int, end_ns: int) -> np.ndarray:
        """A copy of the polls of an interval, both ends included, in order."""
        written = len(self)
        # the oldest place may be written to right now
        numbers = np.arange(max(0, written - CAPACITY + 1), written) % CAPACITY
        at = self._polls["ns"][numbers]
        first, last = np.searchsorted(at, start_ns, "left"), np.searchsorted(at, end_ns, "right")
        return self._polls[numbers[first:last]]


def no_polls() -> np.ndarray:
    """What a machine without gauges tells."""
    return np.empty(0, POLL)


def poll(gauge: Gauge, ns: int) -> tuple:
    """The gauges now, as POLL's fields."""
    read = (gauge.sm_hz(), gauge.mem_hz(), gauge.temperature_c(), gauge.power_w())
    reasons = gauge.event_reasons()
    return (ns, *(np.nan if value is None else value for value in read), -1 if reasons is None else reasons)
