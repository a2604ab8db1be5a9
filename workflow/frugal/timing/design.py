"""The design of an experiment: how many sessions, rounds and samples, in which order, from which seeds.

Presets are the table of docs/methodology.md, "Design of an experiment". The number of sessions and rounds is fixed
before the run; only the number of samples inside one block depends on what is measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from frugal.errors import FrugalError
from frugal.timing.arms import REGIMES

T = TypeVar("T")


class DesignError(FrugalError, ValueError):
    """A design that cannot be run."""


@dataclass(frozen=True)
class Design:
    """All that is fixed before a campaign starts. Times in seconds.

    A block ends at the first of: at least `n_min` samples and `block_min_s` and a 95 % interval of the median whose
    half-width is at most 0.5 %; 1000 samples; `block_max_s` (slow arms: at least 3 samples, unless `case_timeout_s`).
    `warmup_gpu_s` / `warmup_cpu_s` is the load that opens a session, `block_warmup_s` what precedes each block (0: one
    run), `load_s` the load on a GPU before an arm's first call, so that nothing is autotuned on a cold clock.
    `regimes` limits what is measured (None: each arm's own). `flush` is `write` or `write_read`: a second, reading pass
    over the flushed buffer leaves no dirty lines in L2. `spin_factor` times the host's enqueue time is how long the
    device is held back while a sample is queued. `threads` is set for torch and Numba, `affinity` (CPU
    numbers) for the process; None: left alone. `case_timeout_s` limits each step of an arm, `first_call_timeout_s` its
    first call. `energy`: None measures it on a GPU in every preset but smoke, over `energy_span_s` at least. `poll_s`
    is the period of clock, heat and power readings; a sample below `discard_clock_fraction` of the settled clock is
    excluded.
    """

    preset: str
    sessions: int
    rounds: int
    n_min: int
    block_min_s: float
    block_max_s: float
    warmup_gpu_s: float
    warmup_cpu_s: float
    block_warmup_s: float
    load_s: float
    case_timeout_s: float = 120.0
    seed: int = 1
    regimes: tuple[str, ...] | None = None
    flush: str = "write"
    spin_factor: float = 2.0
    threads: int | None = None
    affinity: tuple[int, ...] | None = None
    cooldown_s: float = 0.0
    first_call_timeout_s: float = 600.0
    energy: bool | None = None
    energy_span_s: float = 5.0
    poll_s: float = 0.05
    discard_clock_fraction: float = 0.75

    @classmethod
    def of(cls, preset: str, **override: object) -> Design:
        """The preset (`smoke`, `quick`, `sweep`, `headline`) with fields replaced; an override of None keeps its own.

        Raises DesignError (a ValueError) for an unknown preset, an unknown field or a value that cannot be run.
        """
        if preset not in PRESETS:
            raise DesignError(f"preset {preset!r} is unknown: use one of {', '.join(PRESETS)}")
        names = {f.name for f in dataclasses.fields(cls)} - {"preset"}
        for name in override:
            if name not in names:
                raise DesignError(f"timing.{name} is not a field of a design: use one of {', '.join(sorted(names))}")
        given = {name: value for name, value in override.items() if value is not None}
        for name in ("regimes", "affinity"):
            if name in given:
                given[name] = tuple(given[name])  # type: ignore[call-overload]
        return dataclasses.replace(PRESETS[preset], **given)  # type: ignore[arg-type]

    def measures_energy(self, kind: str) -> bool:
        """Whether cases that ask for it get rounds of energy on a device of this kind (`cpu`, `cuda`)."""
        return self.energy if self.energy is not None else kind != "cpu" and self.preset != "smoke"

    def __post_init__(self) -> None:
        if self.rounds < 2 or self.rounds % 2:
            raise DesignError(f"timing.rounds = {self.rounds}: rounds must be even: a palindrome has two")
        for name in ("sessions", "n_min"):
            if getattr(self, name) < 1:
                raise DesignError(f"timing.{name} = {getattr(self, name)}: it must be an integer >= 1")
        for name in (
            "block_max_s", "case_timeout_s", "first_call_timeout_s", "spin_factor", "energy_span_s", "poll_s",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise DesignError(f"timing.{name} = {getattr(self, name)}: it must be greater than 0")
        for name in ("block_min_s", "warmup_gpu_s", "warmup_cpu_s", "block_warmup_s", "load_s", "cooldown_s"):
            if not getattr(self, name) >= 0:
                raise DesignError(f"timing.{name} = {getattr(self, name)}: it must be 0 or greater")
        if self.threads is not None and self.threads < 1:
            raise DesignError(f"timing.threads = {self.threads}: it must be an integer >= 1, or null")
        if self.affinity is not None and not self.affinity:
            raise DesignError("timing.affinity is empty: give at least one CPU number, or null")
        if self.flush not in ("write", "write_read"):
            raise DesignError(f"timing.flush = {self.flush!r}: it must be write or write_read")
        for regime in self.regimes if self.regimes is not None else ():
            if regime not in REGIMES:
                raise DesignError(f"timing.regimes has {regime!r}: allowed are {', '.join(REGIMES)}")
        if self.regimes is not None and not self.regimes:
            raise DesignError(f"timing.regimes is empty: give at least one of {', '.join(REGIMES)}, or null")


# sessions, rounds, n_min, block_min_s, block_max_s, warmup_gpu_s, warmup_cpu_s, block_warmup_s, load_s
PRESETS = {
    "smoke": Design("smoke", 1, 2, 6, 0.0, 0.25, 0.5, 0.3, 0.0, 0.1, case_timeout_s=20.0),
    "quick": Design("quick", 3, 2, 10, 0.1, 1.0, 2.0, 0.5, 0.1, 0.5),
    "sweep": Design("sweep", 5, 2, 20, 0.2, 1.5, 3.0, 1.0, 0.1, 0.5),
    "headline": Design("headline", 8, 2, 30, 0.25, 2.0, 3.0, 1.0, 0.1, 0.5),
}


def palindromes(arms: Sequence[T], rounds: int, rng: random.Random) -> list[list[T]]:
    """The order of arms in each round: a random permutation, then the same reversed, and so on.

    Two rounds are one palindrome, in which every arm has the same mean position: a linear drift cancels exactly for
    every pair of arms. Raises DesignError when `rounds` is odd and ValueError when `arms` is empty.
    """
    if not arms:
        raise ValueError("palindromes: arms is empty: give at least one arm")
    if rounds < 2 or rounds % 2:
        raise DesignError(f"timing.rounds = {rounds}: rounds must be even: a palindrome has two")
    order: list[list[T]] = []
    for _ in range(rounds // 2):
        forward = rng.sample(list(arms), len(arms))
        order += [forward, forward[::-1]]
    return order


def derive_seed(*parts: object) -> int:
    """A seed from SHA-256 of the parts joined by `|`: its first 8 bytes, less the sign bit (records keep int64)."""
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
