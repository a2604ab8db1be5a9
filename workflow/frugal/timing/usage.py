"""CPU time beside wall time, so that stolen time shows."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What this process has used: seconds of CPU time in all its threads, and how often it was switched out."""

    cpu_s: float = 0.0
    involuntary_switches: int = 0

    @classmethod
    def now(cls) -> Usage:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime + used.ru_stime, used.ru_nivcsw)

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu_s + other.cpu_s, self.involuntary_switches + other.involuntary_switches)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.cpu_s - other.cpu_s, self.involuntary_switches - other.involuntary_switches)
