"""What a plan counts: cases of sessions, and the work of one system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of a session. `arms`: of each arm the regimes that it is timed in.

    flop, bytes: of one dense run; memory_bytes: what its arms hold at once; energy: how many arms have it measured.
    """

    arms: tuple[tuple[str, ...], ...]
    flop: float
    bytes: float
    memory_bytes: float
    energy: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """One system on one device: its cases by experiment, each experiment a session's job, and jobs beside them.

    resident_bytes: what stays on the device for a whole session; side_jobs: measuring jobs of one process each;
    side_processes: further processes within them; side_flop: what they compute.
    """

    system: str
    experiments: Mapping[str, list[Case]]
    resident_bytes: float = 0.0
    side_jobs: int = 0
    side_processes: int = 0
    side_flop: float = 0.0
