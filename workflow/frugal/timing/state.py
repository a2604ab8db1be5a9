"""What is known of an arm while its case is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from frugal.energy import Energy
from frugal.memory import Peak
from frugal.timing.arms import Arm, Inputs, Prepared
from frugal.timing.blocks import Block
from frugal.timing.faults import Fault
from frugal.timing.regimes import Estimate, Recipe
from frugal.timing.usage import Usage
from frugal.timing.verify import Check

# attempt(arm, step, body, limit_s): runs a step of an arm; the fault that it ended with, or None
Attempt = Callable[[Arm, str, Callable[[], object], float], Fault | None]


@dataclass
class Timing:
    """One arm in one regime: its blocks, or the fault that left none."""

    fault: Fault | None = None
    recipe: Recipe | None = None
    m: int | None = None
    note: str | None = None
    blocks: list[Block] = field(default_factory=list)
    after: Check | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Trial:
    """One measurement of energy: its round and place in the palindrome, and what it gave."""

    round: int
    position: int
    energy: Energy


@dataclass
class Trials:
    """One arm's energy: in which regime (graph, graph_rotated or hot), its trials, or the fault that left none."""

    regime: str
    fault: Fault | None = None
    m: int | None = None
    work: Callable[[], object] | None = None
    keep: object = None
    done: list[Trial] = field(default_factory=list)


@dataclass
class Peaks:
    """One arm's memory, or the fault that left none."""

    fault: Fault | None = None
    found: list[Peak] = field(default_factory=list)


@dataclass
class Progress:
    """One arm: how far it came. A `fault` here is one of the arm as a whole and outranks those of its regimes."""

    arm: Arm
    attempted: tuple[str, ...]
    fault: Fault | None = None
    before: Check | None = None
    after: Check | None = None
    first_call_s: float | None = None
    host_sync: bool = False
    estimate: Estimate | None = None
    prepared: Prepared | None = None
    inputs: Inputs = field(default_factory=dict)
    checksum: dict[str, int] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    energy: Trials | None = None
    memory: Peaks | None = None

    def refusal(self, regime: str) -> Fault | None:
        """Why a regime is not even tried."""
        if regime not in self.arm.regimes:
            return Fault("unsupported", f"this arm offers only {', '.join(self.arm.regimes)}")
        if regime != "wall":
            return self.waits()
        return None

    def waits(self) -> Fault | None:
        """Why nothing is tried that needs a full queue."""
        return Fault("unsupported", "host_sync: a run waits for the device in its middle") if self.host_sync else None
