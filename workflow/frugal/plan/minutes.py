"""How long a session takes: `start + warm + Σ_case(verify + Σ_arm Σ_regime rounds · block)`.

A block ends between its shortest and its longest time (frugal.timing.blocks); where in between, and what the rest of a
case takes, is learned from an earlier campaign (frugal.plan.past).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frugal.timing.design import Design

from .cases import Case

# frugal.timing.blocks and frugal.timing.regimes, which import torch; a test compares.
SAMPLES_MAX, SAMPLES_SLOW, RUNS_LAST_S, FLUSH_BYTES = 1000, 3, 1e-3, 64 << 20
EFFICIENCY = 0.2  # of the roofline: what an arm of which nothing is known reaches
REFERENCES = 60.0  # float64 references and checks of a case, in times of its float32 roofline
HOST_S = {"cpu": 5e-6, "cuda": 50e-6}  # of a call of a library, as a caller sees it
# Around the energy of an arm: what is dropped before the first tick, and the wait for the die to cool (15 s at most).
ENERGY_DROP_S, ENERGY_COOL_S, IDLE_S = 1.0, 8.0, 10.0


@dataclass(frozen=True)
class Span:
    """Seconds: what is expected, and between what it will lie."""

    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, times: float) -> Span:
        return Span(times * self.low, times * self.expected, times * self.high)


@dataclass(frozen=True)
class Terms:
    """What is known of sessions on a device.

    start_s: of a session beside its cases and its warm-up: the process, the networks, the ceilings; arm_s: of an arm of
    a case beside its blocks: verification, estimates, captures; fill: regime → where between its shortest and its
    longest time a block ends, 0 to 1; side_job_s: of a measuring job that times nothing; flops, bytes_per_s: the
    device's float32 and memory rates; samples: of a block, on average.
    """

    start_s: float
    arm_s: float
    fill: Mapping[str, float]
    side_job_s: float
    flops: float
    bytes_per_s: float
    samples: float


def roofline_s(flop: float, moved: float, terms: Terms) -> float:
    """The least time of one run."""
    return max(flop / terms.flops, moved / terms.bytes_per_s)


def shortest_s(sample_s: float, design: Design) -> float:
    """The least time of a block whose samples take `sample_s` each."""
    needed = max(design.block_min_s, min(design.n_min * sample_s, design.block_max_s))
    return max(min(needed, SAMPLES_MAX * sample_s), SAMPLES_SLOW * sample_s)


def longest_s(sample_s: float, design: Design) -> float:
    """The longest time of a block, warm-up left out."""
    return max(min(design.block_max_s, SAMPLES_MAX * sample_s), SAMPLES_SLOW * sample_s)


def sample_seconds(case: Case, regime: str, kind: str, terms: Terms) -> float:
    """What one sample of an arm of which nothing is known occupies the machine for."""
    run_s = roofline_s(case.flop, case.bytes, terms) / EFFICIENCY
    if regime in ("graph", "graph_rotated", "hot"):
        return max(run_s, RUNS_LAST_S)
    if regime == "cold":
        return run_s + FLUSH_BYTES / terms.bytes_per_s + HOST_S[kind]
    return run_s + HOST_S[kind]


def block(case: Case, regime: str, design: Design, kind: str, terms: Terms) -> Span:
    """One block with its warm-up."""
    sample_s = sample_seconds(case, regime, kind, terms)
    least, most = shortest_s(sample_s, design), longest_s(sample_s, design)
    fill = terms.fill.get(regime, max(terms.fill.values()))
    warm = max(design.block_warmup_s, sample_s)
    low, expected, high = (least + share * (most - least) for share in (fill / 2, fill, min(1.0, 0.1 + 1.25 * fill)))
    return Span(low + warm, expected + warm, high + warm)


def case_seconds(case: Case, design: Design, kind: str, terms: Terms) -> Span:
    """One case in one session."""
    around = len(case.arms) * terms.arm_s + REFERENCES * roofline_s(case.flop, 0.0, terms)
    around += design.load_s if kind == "cuda" else 0.0
    total = Span(0.7 * around, around, 1.5 * around)
    for regimes in case.arms:
        for regime in regimes:
            total += block(case, regime, design, kind, terms) * design.rounds
    return total + Span(1.0, 1.0, 1.0) * energy_seconds(case, design, kind)


def energy_seconds(case: Case, design: Design, kind: str) -> float:
    """The rounds of energy of one case."""
    if not design.measures_energy(kind):
        return 0.0
    return case.energy * design.rounds * (ENERGY_DROP_S + design.energy_span_s + ENERGY_COOL_S)


def session_seconds(cases: Sequence[Case], controls: Sequence[Case], design: Design, kind: str, terms: Terms) -> Span:
    """One session of one experiment, from the start of its process to its file."""
    start = terms.start_s
    fixed = design.cooldown_s + (design.warmup_gpu_s if kind == "cuda" else design.warmup_cpu_s)
    if design.measures_energy(kind) and any(case.energy for case in cases):
        fixed += IDLE_S
    total = Span(0.7 * start + fixed, start + fixed, 1.5 * start + fixed)
    for case in (*cases, *controls):
        total += case_seconds(case, design, kind, terms)
    return total
