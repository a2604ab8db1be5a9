"""Clocks, heat and power, read beside a timing session by another process, so that nothing runs in the timed one.

The two share an anonymous piece of memory. Both look at CLOCK_MONOTONIC (frugal.clock), so that a poll can be told to
lie inside a block. The energy counter is not read here: one read of it takes milliseconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from frugal.clock import Clock, SystemClock
from frugal.processes import python_path
from frugal.provenance.sources import library

from . import child
from .gauge import gauge_of
from .ring import POLL, SIZE, Ring

FIRST_S = 10.0  # to import and to open NVML; on a busy machine it takes a second
_LOOK_S = 0.01
# What a row lacks when a gauge is silent.
_NAMES = {
    "sm_hz": "the SM clock",
    "mem_hz": "the memory clock",
    "temp_c": "the temperature",
    "power_w": "the power",
    "event_reasons": "the clock event reasons",
}


class Board(Protocol):
    """A device with `uuid`, by which CUDA calls a GPU; None for a CPU."""

    uuid: str | None


class Sampler:
    """Polls every `period_s` from `start` to `close`. A machine without NVML gives none, and that is no error."""

    def __init__(self, device: Board, period_s: float = 0.05, clock: Clock | None = None) -> None:
        self._uuid, self._period_s, self._clock = device.uuid, period_s, clock or SystemClock()
        self._process: subprocess.Popen | None = None
        self._ring: Ring | None = None

    def start(self) -> Sampler:
        """Start the process where there is a GPU that NVML knows. It does not wait for the first poll."""
        if gauge_of(self._uuid) is None:
            return self
        descriptor = os.memfd_create("frugal-polls")
        os.ftruncate(descriptor, SIZE)
        self._ring = Ring(descriptor)
        given = (descriptor, str(self._uuid), self._period_s, os.getpid())
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {child.__name__} import main; main(*{given!r})"],
            env=os.environ | {"PYTHONPATH": python_path(library())},
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
        )
        os.close(descriptor)
        return self

    def missing(self) -> Sequence[str]:
        """Wait for the first poll; the gauges that it lacks, in words (all, when none comes)."""
        if self._ring is None or self._process is None:
            return []
        deadline = self._clock.ns() + round(FIRST_S * 1e9)
        while not len(self._ring):
            if self._process.poll() is not None or self._clock.ns() > deadline:
                return list(_NAMES.values())
            self._clock.sleep(_LOOK_S)
        first = self._ring.between(0, np.iinfo(np.int64).max)[0]
        return [
            words
            for name, words in _NAMES.items()
            if (first[name] < 0 if name == "event_reasons" else np.isnan(first[name]))
        ]

    def between(self, start_ns: int, end_ns: int) -> np.ndarray:
        """The polls (dtype POLL) of an interval of the monotonic clock, both ends included, in order."""
        return np.empty(0, POLL) if self._ring is None else self._ring.between(start_ns, end_ns)

    def close(self) -> bool:
        """End the process; False when it had ended by itself before."""
        process, self._process = self._process, None
        if process is None:
            return True
        was_there = process.poll() is None
        process.kill()
        process.wait()
        return was_there
