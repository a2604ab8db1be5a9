"""Where the rest of the library takes its time from, so that deadlines, searches and self-profiles can be tested.

Timed bodies are frugal.timing's alone; nothing else may call `time` directly.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a function that waits or looks at the time is given; tests give a fake one."""

    def ns(self) -> int:
        """Nanoseconds of a monotonic clock with an arbitrary zero."""

    def now(self) -> datetime:
        """The date and time in UTC (aware)."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own clocks. On Linux `ns` is CLOCK_MONOTONIC, which other processes of the machine share."""

    def ns(self) -> int:
        return time.perf_counter_ns()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def utc_text(when: datetime) -> str:
    """ISO 8601 in UTC with microseconds, such as `2026-01-31T23:59:59.000001+00:00`. A naive `when`: ValueError."""
    if when.tzinfo is None:
        raise ValueError(
            f"{when.isoformat()} has no time zone: give an aware datetime, for example SystemClock().now()"
        )
    return when.astimezone(UTC).isoformat(timespec="microseconds")
