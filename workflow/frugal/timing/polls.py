"""What was read beside the timing, joined to it: the clock of a sample, the heat of a row, and samples to leave out.

Polls come from frugal.energy.Sampler, on the same monotonic clock as the samples' starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from frugal.energy import no_polls
from frugal.provenance.gpu import SLOWDOWN
from frugal.records import Measurement, Sample
from frugal.timing.blocks import Block
from frugal.timing.design import Design

# Lowers the clock too, below three quarters under a large TF32 product, but by the arm's own power: no SLOWDOWN.
POWER_CAP = 0x4
REACH = 2  # periods: a poll further away says nothing about a sample


@dataclass(frozen=True)
class Polls:
    """The polls (dtype frugal.energy.POLL) of a case's time, and the SM clock in Hz at which its session settled."""

    table: np.ndarray = field(default_factory=no_polls)
    settled_sm_hz: float | None = None

    def inside(self, spans: Iterable[tuple[int, int]]) -> np.ndarray:
        """Those within any of the spans (start and end in ns, both included)."""
        at = self.table["ns"]
        chosen = np.zeros(len(at), dtype=bool)
        for start, end in spans:
            chosen |= (start <= at) & (at <= end)
        return self.table[chosen]

    def slow(self, polled: np.ndarray, design: Design) -> np.ndarray:
        """Which of these polls found the device slowed down: a flag for each."""
        bad = (polled["event_reasons"] > 0) & (polled["event_reasons"] & SLOWDOWN != 0)
        if self.settled_sm_hz is not None:
            low = polled["sm_hz"] < design.discard_clock_fraction * self.settled_sm_hz  # NaN is not less
            capped = (polled["event_reasons"] > 0) & (polled["event_reasons"] & POWER_CAP != 0)
            bad |= low & ~capped
        return bad


def attach(samples: list[Sample], block: Block, polls: Polls) -> None:
    """Give each poll inside the block to one sample: that during which it was made, else the one before.

    So the samples that have a clock are as many as there were polls at most (frugal.block_medians counts them). Two
    polls of one sample are averaged, their reasons or-ed. `samples` are the block's, in order.
    """
    found = polls.inside([(block.start_ns, block.end_ns)])
    owner = np.searchsorted([sample.start_ns for sample in samples], found["ns"], side="right") - 1
    owner = np.maximum(owner, 0)  # between the block's begin and its first sample: there is none before
    for number in np.unique(owner):
        own, sample = found[owner == number], samples[number]
        sample.sm_hz, sample.temp_c, sample.power_w = (mean(own[name]) for name in ("sm_hz", "temp_c", "power_w"))
        sample.event_reasons = reasons(own)


def slowed(block: Block, m: int, polls: Polls, design: Design) -> list[bool]:
    """Which samples were taken while the device was slowed down: a poll during the sample says so, or the nearest.

    m: runs of a sample, whose value was divided by it.
    """
    if len(polls.table) == 0:
        return [False] * len(block.samples)
    at, bad = polls.table["ns"], polls.slow(polls.table, design)
    starts = np.array([start for start, _ in block.samples])
    ends = starts + np.array([value for _, value in block.samples]) * m * 1e9
    first, last = np.searchsorted(at, starts, side="left"), np.searchsorted(at, ends, side="right")
    counted = np.concatenate([[0], np.cumsum(bad)])
    before, after = np.maximum(first - 1, 0), np.minimum(last, len(at) - 1)
    away_before, away_after = np.abs(starts - at[before]), np.abs(at[after] - ends)
    nearest = np.where(away_before <= away_after, before, after)
    near = np.minimum(away_before, away_after) <= REACH * design.poll_s * 1e9
    return np.where(last > first, counted[last] > counted[first], near & bad[nearest]).tolist()


def fill_context(row: Measurement, spans: Iterable[tuple[int, int]], polls: Polls) -> None:
    """Set the row's columns on clocks, heat and power from all polls within its blocks (start and end in ns)."""
    found = polls.inside(spans)
    row.sm_hz, row.mem_hz, row.power_w = (mean(found[name]) for name in ("sm_hz", "mem_hz", "power_w"))
    known = found["temp_c"][np.isfinite(found["temp_c"])]
    if len(known):
        row.temp_start_c, row.temp_end_c = float(known[0]), float(known[-1])
    row.event_reasons = reasons(found)


def mean(values: np.ndarray) -> float | None:
    """Of those that are known; None without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def reasons(polled: np.ndarray) -> int | None:
    """NVML's bits, or-ed; None where the device does not tell them."""
    known = polled["event_reasons"][polled["event_reasons"] >= 0]
    return int(np.bitwise_or.reduce(known)) if len(known) else None
