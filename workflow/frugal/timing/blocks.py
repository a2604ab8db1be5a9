"""One block: samples of one arm in a row, until enough is known about their median or the time is up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from frugal import stats
from frugal.clock import Clock
from frugal.timing.design import Design
from frugal.timing.regimes import QUEUE_MAX, Recipe, Timed

CHECK_EVERY = 10  # samples: looking at each one would stop at lucky moments (coverage 92 instead of 94 %: tests/method)
SAMPLES_MAX = 1000
SAMPLES_SLOW = 3  # of an arm whose samples are longer than a block
HALF_WIDTH = 0.005  # of the median


@dataclass(frozen=True)
class Block:
    """`round` and `position` (place in the round) of the palindrome, the samples, why they ended, and when it was.

    `start_ns` and `end_ns` are of the monotonic clock; between samples there are waits and flushes.
    """

    round: int
    position: int
    samples: Timed
    stop_reason: str
    start_ns: int
    end_ns: int

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.samples]


def warm(recipe: Recipe, design: Design, clock: Clock) -> None:
    """Runs untimed: one sample when the design says 0 s, else that long and at least 3, but no longer than a block."""
    start = clock.ns()
    recipe.take(1)
    taken = 1
    while (seconds := (clock.ns() - start) * 1e-9) < design.block_max_s and design.block_warmup_s > 0:
        if seconds >= design.block_warmup_s and taken >= SAMPLES_SLOW:
            return
        per_sample = max(seconds / taken, recipe.expected_s, 1e-9)
        count = max(1, min(QUEUE_MAX, int((design.block_warmup_s - seconds) / per_sample)))
        recipe.take(count)
        taken += count


def measure(recipe: Recipe, design: Design, clock: Clock, round_: int, position: int) -> Block:
    """Take samples until `stop_reason` says why to stop."""
    samples: Timed = []
    start = clock.ns()
    seconds = 0.0
    while True:
        samples += recipe.take(_next(len(samples), seconds, recipe, design))
        now = clock.ns()
        seconds = (now - start) * 1e-9
        reason = stop_reason([value for _, value in samples], seconds, design)
        if reason is not None:
            return Block(round_, position, samples, reason, start, now)


def stop_reason(values: Sequence[float], seconds: float, design: Design) -> str | None:
    """`target`, `max_samples` or `max_time`, whichever comes first; None to go on. `seconds` since the block began."""
    n = len(values)
    if n >= design.n_min and seconds >= design.block_min_s and _is_checkpoint(n, design) and _narrow(values):
        return "target"
    if n >= SAMPLES_MAX:
        return "max_samples"
    enough = n >= SAMPLES_SLOW or seconds >= design.case_timeout_s
    return "max_time" if seconds >= design.block_max_s and enough else None


def _next(n: int, seconds: float, recipe: Recipe, design: Design) -> int:
    """How many samples to take before looking again: up to the next check, as far as time allows."""
    to_check = design.n_min - n if n < design.n_min else CHECK_EVERY - (n - design.n_min) % CHECK_EVERY
    per_sample = seconds / n if n else recipe.expected_s
    left = design.block_max_s - seconds
    in_time = int(left / per_sample) if per_sample > 0 else to_check
    if in_time < 1 and n < SAMPLES_SLOW:
        in_time = 1  # one at a time, so that case_timeout_s can end it
    return max(1, min(to_check, in_time, QUEUE_MAX, SAMPLES_MAX - n))


def _is_checkpoint(n: int, design: Design) -> bool:
    return (n - design.n_min) % CHECK_EVERY == 0


def _narrow(values: Sequence[float]) -> bool:
    interval = stats.order_ci(values)
    return interval is not None and (interval.high - interval.low) / 2 <= HALF_WIDTH * median(values)
